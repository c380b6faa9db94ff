//! Hex digits.

/// The lower-case hex digits of bytes.
pub(crate) use base16ct::lower::encode_string as encode;

/// Reads exactly `2 * N` digits of either case.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let len = base16ct::mixed::decode(text, &mut bytes).ok()?.len();
    (len == N).then_some(bytes)
}
