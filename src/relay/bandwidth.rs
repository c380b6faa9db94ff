//! Outbound bandwidth (WIRE §5).
/// Token bucket of the node.
#[derive(Debug)]
pub struct Limiter {}
