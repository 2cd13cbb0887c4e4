//! What is left to do when all files of a layer are there.

use crate::entries::{self, Kind, Packed};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::measure::Footprint;
use crate::record::LayerRecord;
use crate::threads::{joined, stage};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use strata_sys::path::Root;

/// A layer that was unpacked, but for the times of its directories and the list of what is in it.
pub(crate) struct Unpacked {
    pub(crate) record: LayerRecord,
    pub(super) entries: Vec<Packed>,
    /// What its tree takes up without its directories, where that could be told on the way: it saves looking at every file
    /// once more.
    pub(super) measured: Option<Footprint>,
    pub(super) root: Root,
}

impl Unpacked {
    /// Sets the times and writes the list, both at once; `layer` has the tree in `fs` and gets `entries` beside it. Returns
    /// what the whole tree takes up, too, where that could be told.
    pub(crate) fn finish(self, layer: &Path) -> Result<(LayerRecord, Option<Footprint>)> {
        let list = entries::list(&layer.join("fs"), self.entries)?;
        let directories = std::thread::scope(|scope| {
            let setting = stage(scope, "times", || set_directory_times(&self.root, &list))?;
            entries::write(&layer.join("entries"), &list)?;
            joined(setting)
        })?;
        Ok((self.record, self.measured.map(|files| files.and(directories))))
    }
}

/// Sets what creating files in directories has changed. Returns what the directories take up, the root included.
fn set_directory_times(root: &Root, list: &[Packed]) -> Result<Footprint> {
    let mut measured = Footprint::default();
    measured.count(&rustix::fs::fstat(root).map_err(std::io::Error::from)?);
    for entry in list.iter().filter(|entry| entry.kind() == Kind::Dir) {
        let path = entry.path();
        let fd = root.resolve(OsStr::from_bytes(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::futimens(&fd, &entry.meta().times())
            .map_err(std::io::Error::from)
            .context(|| format!("futimens({:?})", escape(path)))?;
        measured.count(&rustix::fs::fstat(&fd).map_err(std::io::Error::from)?);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use crate::limits::Limits;
    use crate::unpack::unpack;
    use strata_oci::Digest;

    #[test]
    fn a_directory_that_gets_no_time_is_named() {
        let layer = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["usr", "usr/lib", "usr/share"] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, name, std::io::empty()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let fs = layer.path().join("fs");
        std::fs::create_dir(&fs).unwrap();
        let dir = strata_sys::durable::open_dir(&fs).unwrap();
        let digest = Digest::sha256_of(&tar);
        let unpacked = unpack(dir, &mut tar.as_slice(), &digest, &Limits::default(), None).unwrap();
        // The list is written beside it, and must not make it look well.
        std::fs::remove_dir(fs.join("usr/lib")).unwrap();
        let said = unpacked.finish(layer.path()).unwrap_err().to_string();
        assert!(said.contains("usr/lib") && said.contains("No such file"), "{said}");
    }
}
