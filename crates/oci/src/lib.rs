//! OCI types and parsers without I/O: what a registry or an image says, checked before anything is done with it.

pub mod caps;
pub mod change;
pub mod config;
pub mod digest;
pub mod document;
pub mod json;
pub mod platform;
pub mod reference;
pub mod seccomp;
pub mod whiteout;

pub use config::ImageConfig;
pub use digest::Digest;
pub use document::{Compression, Descriptor, Document, Index, Manifest};
pub use platform::Platform;
pub use reference::Reference;
