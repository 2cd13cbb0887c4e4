//! Images as one file: `save` and `load`.
//!
//! ```text
//!   oci-archive                        docker-archive: the same, and
//!     oci-layout                         manifest.json   config, names and layers of each image, as paths
//!     index.json      names ─▶ blobs     repositories    what Docker before 1.10 read
//!     blobs/sha256/…  manifests, configs, layers: byte for byte what the registry had
//! ```
//!
//! * [`write`]: both from the store's blobs. The same images make the same bytes.
//! * [`spool`]: what the tar holds, put down in tmp/ and hashed; names are plain strings and never become paths.
//! * [`oci`], [`docker`]: which images it holds, by `index.json` or by `manifest.json`.
//! * [`load`]: their layers are unpacked as those of a pull are; all images become visible, or none.

mod docker;
mod load;
mod oci;
mod spool;
mod write;

#[cfg(test)]
mod tests;

pub use load::{LoadStep, Loaded};
pub use write::{ArchiveFormat, Exported};

/// The annotation that says an image's tag (OCI image spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd and Docker say an image's whole name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The file that makes a directory an OCI image layout (OCI image spec, image-layout.md).
const OCI_LAYOUT: &str = "oci-layout";
/// The only version of that layout.
const LAYOUT_VERSION: &str = "1.0.0";
/// The file that names an OCI layout's images.
const INDEX: &str = "index.json";
/// The file that names a docker-archive's images.
const MANIFEST: &str = "manifest.json";
/// The file that named them before.
const REPOSITORIES: &str = "repositories";

/// Where a blob is in an archive.
fn blob_name(digest: &strata_oci::Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
