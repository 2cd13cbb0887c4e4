//! The layer store: everything Strata keeps on disk. Files are the truth, the index in memory is rebuilt from them.
//!
//! ```text
//!   blobs/sha256/<hex>      manifests, configs, compressed layers
//!   layers/<key>/           fs/ · layer.json · entries        key: a diff ID, or chain-<chain ID>
//!   refs/<sha256 of name>   one small durable file per name of an image
//!   pods/<id>/              pod.json
//!   containers/<id>/        container.json · exit.json · upper/ · work/ · images/<n>/
//!   mountpoints/            the lowest layer of every container: what the runtime mounts on
//!   tmp/  trash/            being written; being deleted
//!   replaced/               damaged layers that containers may still have mounted
//!   lost+found/             what a check could make nothing of
//! ```
//!
//! Invariants:
//! * A name under `layers/` or `blobs/` appears by rename, whole. It may be lost in a power cut until a ref that needs it
//!   is written, and a ref is written only after a `syncfs` that began after the last rename it depends on.
//! * What an operation has looked up or written stays while its [`Lease`] lives.
//! * Nothing is deleted in place: it is renamed into `trash/`, and removed from there in the background.

mod archive;
mod blob;
mod buffers;
mod chunks;
mod commit;
mod compose;
mod containers;
mod copy;
pub mod deep;
mod diff;
mod entries;
mod error;
mod escape;
mod explain;
mod fsck;
mod gc;
mod history;
mod image;
mod index;
mod inflate;
mod ingest;
mod layout;
mod limits;
mod measure;
mod mounted;
mod pack;
mod put_away;
mod record;
mod refs;
mod restore;
mod shift;
#[doc(hidden)]
pub mod stages;
mod store;
mod sync;
mod threads;
mod trash;
mod unpack;
mod usage;
mod walk;
mod wanted;
mod writable;
mod xattr;

pub use archive::{ArchiveFormat, Exported, LoadStep, Loaded};
pub use commit::CommitOptions;
pub use containers::{ImageView, RecordKind, Snapshot};
pub use diff::{Change, ChangeKind};
pub use error::{Error, Kind, Result};
pub use explain::{Explained, Reason, Thing};
pub use fsck::{BlobSource, FsckEvent, FsckOptions, FsckSummary, Problem, What};
pub use gc::{Collected, GcReport, GcTotals};
pub use history::HistoryEntry;
pub use image::{Image, ImageLayer, NewImage};
pub use index::Lease;
pub use ingest::{LayerSource, Progress};
pub use limits::Limits;
pub use record::Origin;
pub use refs::Removed;
pub use shift::IdShift;
pub use store::{Options, Store};
pub use usage::{ContainerUsage, ImageUsage, PartUsage, Usage};
pub use writable::Writable;
