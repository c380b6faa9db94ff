//! The rules of WIRE on the sans-IO relay: one file a behaviour, all on the virtual network of `kit`.

mod kit;
mod unicast;
