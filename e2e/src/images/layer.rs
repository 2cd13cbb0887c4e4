//! Layer tars.

use crate::Result;
use std::collections::hash_map::{Entry, HashMap};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// The modification time of every file: seconds since 1970.
pub const MTIME: u64 = 1_700_000_000;
/// The creation time of every image: [`MTIME`] as RFC 3339.
pub const CREATED: &str = "2023-11-14T22:13:20Z";

/// An uncompressed layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The tar archive.
    pub tar: Vec<u8>,
    /// Its digest: the layer's diff ID.
    pub diff_id: String,
}

/// Writes a layer's tar, entry by entry, in the order of the calls.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
    links: HashMap<(u64, u64), PathBuf>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), links: HashMap::new() }
    }

    /// A directory of root's.
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, &header(EntryType::Directory, mode, 0, 0), None, &[])
    }

    /// A file of root's.
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.file_of(path, mode, 0, 0, content)
    }

    /// A file with an owner.
    pub fn file_of(self, path: &str, mode: u32, uid: u64, gid: u64, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, &header(EntryType::Regular, mode, uid, gid), None, content.as_ref())
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, &header(EntryType::Symlink, 0o777, 0, 0), Some(target), &[])
    }

    /// A hard link to an earlier entry, or to a file of a layer below.
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(path, &header(EntryType::Link, 0o644, 0, 0), Some(target), &[])
    }

    /// A mark that `path` of the layers below is gone.
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').map_or((String::new(), path), |(d, n)| (format!("{d}/"), n));
        self.file(&format!("{dir}.wh.{name}"), 0o644, "")
    }

    /// A mark that a directory hides everything it has below.
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), 0o644, "")
    }

    /// The tree below a directory of this machine, sorted, with owners and modes, without device nodes.
    pub fn tree(mut self, root: &Path) -> Result<Self> {
        self.tar.follow_symlinks(false);
        self.tar.mode(tar::HeaderMode::Complete);
        self.append_tree(root, Path::new(""))?;
        Ok(self)
    }

    fn append_tree(&mut self, root: &Path, below: &Path) -> Result<()> {
        let mut names: Vec<_> =
            std::fs::read_dir(root.join(below))?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
        names.sort();
        for name in names {
            let path = below.join(&name);
            let source = root.join(&path);
            let kind = std::fs::symlink_metadata(&source)?.file_type();
            if kind.is_dir() {
                self.tar.append_dir(&path, &source)?;
                self.append_tree(root, &path)?;
            } else if let Some(first) = self.linked(&source, &path)? {
                let mut header = header(EntryType::Link, 0o644, 0, 0);
                header.set_size(0);
                self.tar.append_link(&mut header, &path, first)?;
            } else if kind.is_file() || kind.is_symlink() {
                self.tar.append_path_with_name(&source, &path)?;
            }
        }
        Ok(())
    }

    /// Where a file of several names was met first.
    fn linked(&mut self, source: &Path, path: &Path) -> Result<Option<PathBuf>> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::symlink_metadata(source)?;
        if !meta.is_file() || meta.nlink() == 1 {
            return Ok(None);
        }
        match self.links.entry((meta.dev(), meta.ino())) {
            Entry::Occupied(first) => Ok(Some(first.get().clone())),
            Entry::Vacant(first) => {
                first.insert(path.into());
                Ok(None)
            }
        }
    }

    fn entry(mut self, path: &str, header: &Header, link: Option<&str>, content: &[u8]) -> Self {
        let mut header = header.clone();
        header.set_size(content.len() as u64);
        // Writing to memory fails only for names that no tar can hold: a mistake of the test itself.
        match link {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, content),
        }
        .unwrap_or_else(|e| panic!("{path}: {e}"));
        self
    }

    /// The finished layer.
    pub fn build(self) -> Layer {
        let tar = self.tar.into_inner().expect("writing to memory");
        Layer { diff_id: super::digest(&tar), tar }
    }
}

fn header(kind: EntryType, mode: u32, uid: u64, gid: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(MTIME);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_calls_make_the_same_layer() {
        let make = || {
            LayerBuilder::new()
                .dir("a", 0o755)
                .file("a/b", 0o644, "x")
                .symlink("c", "a/b")
                .whiteout("a/d")
                .build()
        };
        assert_eq!(make().diff_id, make().diff_id);
        let tar = make().tar;
        let names: Vec<_> = tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a", "a/b", "c", "a/.wh.d"]);
    }
}
