//! Removing images: the one door for the kubelet's RemoveImage, `strata rmi` and `strata image prune`.
//!
//! An image on which a container stands, of whatever origin and whether it runs or not, is not removed. Everything else may
//! be, also what is reported to the kubelet as pinned: that keeps its image GC from asking, not people. Which names of an image
//! are meant and in which words a refusal is told is the callers' business.

use crate::error::Result;
use crate::node::Node;
use crate::tasks::{blocking, detached};
use std::sync::Arc;
use strata_oci::{Digest, Reference};
use strata_store::{Image, Removed};

/// What is to be removed.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    /// The image.
    pub(crate) id: Digest,
    /// Only this name of it, and the image only with its last one; `None`: all of it.
    pub(crate) name: Option<String>,
    /// Take the names away from an image that is in use; the image itself stays.
    pub(crate) force: bool,
}

impl Node {
    /// Removes an image, or a name of it, and what only it needed. A client that goes away does not stop it.
    ///
    /// # Errors
    /// NotFound if the image is gone; FailedPrecondition if it is in use, in the words of `in_use`, which gets the
    /// containers' IDs.
    pub(crate) async fn remove_image(
        self: &Arc<Self>,
        removal: Removal,
        in_use: impl FnOnce(&[String]) -> String + Send + 'static,
    ) -> Result<Removed> {
        let store = self.store.clone();
        detached(blocking(move || {
            let Removal { id, name, force } = removal;
            let removed = store.remove_image(&id, name.as_deref(), force, in_use)?;
            let gone = !removed.deleted.is_empty();
            tracing::info!(image = %id, untagged = ?removed.untagged, gone, bytes = removed.bytes, "removed");
            Ok(removed)
        }))
        .await
    }
}

/// The one name that a text means, if the image has it as a tag: then only that is taken away. An ID, the beginning of one or
/// a name with a digest means the image, and with it all its names.
pub(crate) fn name_of(image: &Image, what: &str) -> Option<String> {
    let name = Reference::parse(what).ok()?.to_string();
    image.repo_tags.contains(&name).then_some(name)
}
