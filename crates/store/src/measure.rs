//! What a tree really takes up: the blocks of its files, directories and long symlinks, their extended attributes' included,
//! as stat(2) tells them, a file with several names once.

use crate::deep::{Visitor, visit};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::record::{self, LayerRecord};
use crate::store::Store;
use crate::trash::Scratch;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

/// What `st_blocks` counts in, whatever the file system's own blocks are (stat(3type)).
const UNIT: u64 = 512;

/// What something takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes of regular files, as `ls -l` says them: what Docker calls size.
    pub(crate) size: u64,
    /// Bytes on disk.
    pub(crate) disk: u64,
    pub(crate) inodes: u64,
}

impl Footprint {
    /// Adds one file, under the first of its names.
    pub(crate) fn count(&mut self, stat: &Stat) {
        self.inodes += 1;
        self.disk = self.disk.saturating_add(disk(stat));
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            self.size = self.size.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            size: self.size.saturating_add(other.size),
            disk: self.disk.saturating_add(other.disk),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What is at a name, without following it.
pub(crate) fn stat(dir: impl AsFd, name: &[u8]) -> Result<Stat> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.map_err(std::io::Error::from).context(|| format!("stat {:?}", escape(name)))
}

/// Bytes on disk of one file.
pub(crate) fn disk(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(UNIT)
}

/// Measures a directory and what is in it, but not the name `except` in it. `pace` is called once per name.
pub(crate) fn tree(
    root: impl AsFd,
    except: Option<&[u8]>,
    pace: &mut dyn FnMut() -> Result<()>,
) -> Result<Footprint> {
    let stat = rustix::fs::fstat(&root).map_err(std::io::Error::from)?;
    let mut footprint = Footprint::default();
    footprint.count(&stat);
    let at = (stat.st_dev, stat.st_ino);
    let mut measuring = Measuring { root: at, except, footprint, several: HashSet::new(), pace };
    visit(root, &mut measuring)?;
    Ok(measuring.footprint)
}

struct Measuring<'a> {
    root: (u64, u64),
    except: Option<&'a [u8]>,
    footprint: Footprint,
    /// Files with several names that have been counted.
    several: HashSet<u64>,
    pace: &'a mut dyn FnMut() -> Result<()>,
}

impl Visitor for Measuring<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], _: FileType) -> Result<bool> {
        (self.pace)()?;
        if self.except == Some(name) && self.is_root(dir)? {
            return Ok(false);
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went while we looked.
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(std::io::Error::from(e)).context(|| format!("stat {:?}", escape(name))),
        };
        // Another file system's blocks are not this one's.
        if stat.st_dev != self.root.0 {
            return Ok(false);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        if is_dir || stat.st_nlink < 2 || self.several.insert(stat.st_ino) {
            self.footprint.count(&stat);
        }
        Ok(is_dir)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Measuring<'_> {
    fn is_root(&self, dir: BorrowedFd<'_>) -> Result<bool> {
        let stat = rustix::fs::fstat(dir).map_err(std::io::Error::from)?;
        Ok((stat.st_dev, stat.st_ino) == self.root)
    }
}

impl Store {
    /// Measures a layer that is about to be published, all but its `layer.json`: that file's bytes, and what it will take up
    /// itself is in them. `fs` is what its tree takes up, if that is known.
    pub(crate) fn measure_layer(
        &self,
        key: &str,
        scratch: &Scratch,
        record: &mut LayerRecord,
        fs: Option<Footprint>,
    ) -> Result<Vec<u8>> {
        let dir = strata_sys::durable::open_dir(&scratch.path())?;
        let except = fs.map(|_| &b"fs"[..]);
        let found = tree(&dir, except, &mut || Ok(())).context(|| format!("measure layer {key}"))?;
        let found = found.and(fs.unwrap_or_default());
        let block = rustix::fs::fstatvfs(&dir).map_or(4096, |fs| fs.f_frsize).max(1);
        (record.disk, record.inodes) = (found.disk, found.inodes.saturating_add(1));
        let own = record::to_json(key, record)?.len() as u64;
        record.disk = record.disk.saturating_add(own.div_ceil(block).saturating_mul(block));
        record::to_json(key, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn of(path: &std::path::Path, except: Option<&[u8]>) -> Footprint {
        tree(strata_sys::durable::open_dir(path).unwrap(), except, &mut || Ok(())).unwrap()
    }

    #[test]
    fn holes_take_nothing_and_links_count_once() {
        let tmp = tempfile::tempdir().unwrap();
        let path = |p: &str| tmp.path().join(p);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/file"), vec![1; 10_000]).unwrap();
        fs::hard_link(path("a/b/file"), path("again")).unwrap();
        fs::File::create(path("sparse")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        let blocks = |p: &str| fs::symlink_metadata(path(p)).unwrap().blocks() * 512;
        let expected: u64 = ["", "a", "a/b", "again", "sparse", "link"].iter().map(|p| blocks(p)).sum();
        let found = of(tmp.path(), None);
        assert_eq!(found, Footprint { size: 10_000 + (1 << 30), disk: expected, inodes: 6 });
        let less = of(tmp.path(), Some(b"a"));
        // The file that is left has been counted by its other name.
        assert_eq!(less.disk, expected - blocks("a") - blocks("a/b"));
        assert_eq!(less.inodes, 4);
        // Only the tree's own name is left out.
        assert_eq!(of(tmp.path(), Some(b"b")), found);
    }

    /// What unpacking this archive counted on the way, and what there is.
    fn unpacked(build: impl Fn(&mut tar::Builder<Vec<u8>>)) -> (Option<Footprint>, Footprint) {
        let tmp = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        build(&mut tar);
        let tar = tar.into_inner().unwrap();
        let fs = tmp.path().join("fs");
        fs::create_dir(&fs).unwrap();
        let dir = strata_sys::durable::open_dir(&fs).unwrap();
        let (digest, limits) = (strata_oci::Digest::sha256_of(b""), crate::limits::Limits::default());
        let unpacked = crate::unpack::unpack(dir, &mut tar.as_slice(), &digest, &limits, None).unwrap();
        let (_, measured) = unpacked.finish(tmp.path()).unwrap();
        (measured, of(&fs, None))
    }

    fn put(
        tar: &mut tar::Builder<Vec<u8>>,
        path: &str,
        kind: tar::EntryType,
        link: Option<&str>,
        size: usize,
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        match link {
            Some(link) => tar.append_link(&mut header, path, link).unwrap(),
            None => tar.append_data(&mut header, path, vec![7; size].as_slice()).unwrap(),
        }
    }

    #[test]
    fn what_is_counted_while_unpacking_is_what_a_walk_finds() {
        use tar::EntryType as T;
        let ordinary = |tar: &mut tar::Builder<Vec<u8>>| {
            put(tar, "etc", T::Directory, None, 0);
            put(tar, "etc/empty", T::Regular, None, 0);
            put(tar, "etc/large", T::Regular, None, 3_000_001);
            put(tar, "unlisted/at/depth/small", T::Regular, None, 10);
            put(tar, "etc/again", T::Link, Some("etc/large"), 0);
            put(tar, "short", T::Symlink, Some("etc"), 0);
            put(tar, "long", T::Symlink, Some(&"x/".repeat(100)), 0);
            put(tar, "fifo", T::Fifo, None, 0);
            for n in 0..300 {
                put(tar, &format!("many/{n:0200}"), T::Regular, None, n);
            }
        };
        let (counted, there) = unpacked(ordinary);
        assert_eq!(counted, Some(there));
        // What makes counting hard is left to a walk.
        let (counted, _) = unpacked(|tar| {
            ordinary(tar);
            put(tar, "etc/large", T::Regular, None, 1);
        });
        assert_eq!(counted, None);
        let (counted, _) = unpacked(|tar| {
            ordinary(tar);
            put(tar, "etc/.wh.gone", T::Regular, None, 0);
        });
        assert_eq!(counted, None);
    }
}
