//! What the tests of several files need.

use strata_oci::{Descriptor, Digest, ImageConfig};
use strata_store::{Image, Origin};

/// An image without layers of these names, whose ID is the digest of `id`.
pub(super) fn image(id: &str, tags: &[&str], config: ImageConfig) -> Image {
    let id = Digest::sha256_of(id.as_bytes());
    Image {
        id: id.clone(),
        config,
        layers: vec![],
        repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        repo_digests: vec![],
        size: 0,
        content_size: 0,
        origin: Origin::Pull,
        since: 0,
        manifest: Descriptor { media_type: String::new(), digest: id, size: 0 },
    }
}
