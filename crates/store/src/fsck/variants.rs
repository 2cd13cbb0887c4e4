//! Variants of layers, which belong to one place in one stack: made anew as composing an image makes them.

use super::Run;
use super::catalog::Catalog;
use crate::record::LayerRef;
use strata_oci::Descriptor;

impl Run<'_> {
    /// Variants by how many layers lie below them: one may be needed to make the next.
    pub(super) fn lowest_first(&self, mut keys: Vec<String>) -> Vec<String> {
        let place = |key: &String| self.place_of(key).map_or(usize::MAX, |(_, n)| n);
        keys.sort_by_cached_key(place);
        keys
    }

    /// The layers of an image that has this one, and where in it.
    fn place_of(&self, key: &str) -> Option<(Vec<LayerRef>, usize)> {
        let inner = self.store.index.lock();
        inner
            .refs
            .values()
            .find_map(|r| Some((r.layers.clone(), r.layers.iter().position(|l| l.key == key)?)))
    }

    /// Makes a variant anew and puts it in place of the damaged one.
    pub(super) fn mend_variant(
        &mut self,
        key: &str,
        catalog: &Catalog,
        fetch: bool,
    ) -> Result<String, String> {
        let (layers, n) = self.place_of(key).ok_or_else(|| {
            "no image names it any more, only a container stands on it: commit the container if it is needed, and remove it".to_owned()
        })?;
        let layer = layers.get(n).ok_or("its place is unknown")?;
        let below: Vec<String> = layers.iter().take(n).map(|l| l.key.clone()).collect();
        let base = layer.diff_id.hex();
        if let Some(broken) =
            below.iter().map(String::as_str).chain([base]).find(|k| self.broken.contains(*k))
        {
            return Err(format!("layer {broken}, from which it is made, is damaged itself"));
        }
        let (blob, fetched) = self.obtain(&layer.diff_id, catalog, fetch)?;
        self.make_variant(key, base, &below, &blob).map_err(|e| e.to_string())?;
        Ok(self.unpacked_from(&blob, fetched))
    }

    fn make_variant(&self, key: &str, base: &str, below: &[String], blob: &Descriptor) -> crate::Result<()> {
        let store = self.store;
        let record = store
            .hold_layer(&self.lease, base)
            .ok_or_else(|| crate::Error::not_found(format!("layer {base} is missing")))?;
        let view = store.view(&crate::compose::stack_of(below), false)?;
        let spare = self.spare_key();
        store.unpack_in_place(&self.lease, &spare, &record, &view, blob, &|| self.stopped())?;
        drop(view);
        store.swap_layer(&self.lease, key, &spare)
    }
}
