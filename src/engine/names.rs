//! Which services of the C library look names up in a static program.
//!
//! It has those for files and for name servers in it. Others, which `/etc/nsswitch.conf` may name, it would load from the
//! distribution, for whose C library they were built: no two of them can be in one process.

/// Has names looked up in `/etc/hosts` and by the name servers of `/etc/resolv.conf` alone; to be called before anything is
/// looked up. Nothing where the C library is not glibc.
pub fn look_up_without_loading() {
    #[cfg(target_env = "gnu")]
    {
        use std::ffi::{c_char, c_int};

        // SAFETY: it is declared as in glibc's nss.h.
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }

        // SAFETY: both are strings with an end that live for ever; the function reads them, and no other thread looks
        // anything up yet.
        let failed = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        debug_assert_eq!(failed, 0, "glibc knows the database and both services");
    }
}
