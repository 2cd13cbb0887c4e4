//! Images made here, byte for byte the same every time, so that digests can be compared.
//!
//! Independent of Strata's own code for images on purpose: what the tests check must not be what made it.

pub mod catalog;
pub mod conformance;
mod debian;
mod image;
mod layer;
mod push;

pub use image::{Blob, Compression, Flavor, Image, ImageBuilder, Index};
pub use layer::{CREATED, Layer, LayerBuilder, MTIME};
pub use push::{Registry, Response};

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
