//! What all shards read and one thread replaces now and then, as a shard holds it: to see that it is still the newest takes
//! one load.

use std::{ops::Deref, sync::Arc};

use arc_swap::{ArcSwap, Cache};

/// The newest of something, as of the last [`Self::refresh`].
pub(super) struct Current<T> {
    newest: Cache<Arc<ArcSwap<T>>, Arc<T>>,
    value: Arc<T>,
}

impl<T> Current<T> {
    pub(super) fn new(source: &Arc<ArcSwap<T>>) -> Self {
        Self { newest: Cache::new(source.clone()), value: source.load_full() }
    }

    /// Takes the newest one. The one before goes, unless others have it.
    #[inline]
    pub(super) fn refresh(&mut self) {
        let newest = self.newest.load();
        if !Arc::ptr_eq(newest, &self.value) {
            self.value = newest.clone();
        }
    }
}

impl<T> Deref for Current<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
