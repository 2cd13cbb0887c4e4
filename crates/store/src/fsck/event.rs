//! What a check is asked, and what it tells.

use crate::index::Lease;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use strata_oci::Descriptor;

/// How to check.
pub struct FsckOptions<'a> {
    /// Repair what can be repaired.
    pub repair: bool,
    /// Read no file's content: sizes and attributes only.
    pub quick: bool,
    /// Where blobs can be had again; `None`: only what is here is used.
    pub source: Option<&'a dyn BlobSource>,
    /// Told as things are found, from several threads.
    pub tell: &'a (dyn Fn(FsckEvent) + Sync),
    /// Ends the check early once it is set.
    pub cancel: &'a AtomicBool,
}

impl fmt::Debug for FsckOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsckOptions")
            .field("repair", &self.repair)
            .field("quick", &self.quick)
            .finish_non_exhaustive()
    }
}

/// Where lost blobs come from: the registries that the daemon knows.
pub trait BlobSource: Sync {
    /// Brings a blob of an image that is here into the store again.
    ///
    /// # Errors
    /// Why it cannot be had: what was tried, and what to do.
    fn fetch(&self, lease: &Arc<Lease>, blob: &Descriptor) -> Result<(), String>;
}

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A name of an image.
    Ref,
    /// A manifest, a config, a compressed layer.
    Blob,
    /// A layer's directory.
    Layer,
    /// An image as a whole.
    Image,
    /// A container.
    Container,
    /// Anything else below the store's root.
    Store,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ref => "ref",
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Image => "image",
            Self::Container => "container",
            Self::Store => "store",
        })
    }
}

/// Something is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about.
    pub what: What,
    /// Which one: a name, a digest, a layer's key, a container's ID, a path below the root.
    pub id: String,
    /// The path of the file in the layer, if it is about one; escaped.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// Whether it was put right.
    pub repaired: bool,
    /// What was done, or what to do.
    pub action: String,
    /// Names of the images that need it.
    pub images: Vec<String>,
}

/// What is told on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsckEvent {
    /// A problem, with what became of it.
    Problem(Problem),
    /// How far it is.
    Progress {
        /// Bytes that have been read.
        done: u64,
        /// Bytes that there are to read, as far as it is known.
        total: u64,
    },
}

/// How a check ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckSummary {
    /// Images that have a name.
    pub images: u64,
    /// Layers that were checked.
    pub layers: u64,
    /// Blobs that were checked.
    pub blobs: u64,
    /// Files, directories and everything else in layers.
    pub files: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// Problems that were found.
    pub problems: u64,
    /// Those that were repaired.
    pub repaired: u64,
    /// What is no problem, but good to know.
    pub notes: Vec<String>,
}

impl FsckSummary {
    /// Whether nothing is wrong any more.
    pub fn clean(&self) -> bool {
        self.problems == self.repaired
    }
}
