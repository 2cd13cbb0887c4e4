//! Trees as a program sees them, and whether two are the same.

use crate::layer::Layer;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A directory whose time is later was changed by an extraction that did not list it; nothing says what its time must be.
const NOW: i64 = 1_750_000_000;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: u64,
    pub size: u64,
    /// A file's bytes, a symlink's target.
    pub content: Vec<u8>,
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// The first name of the same file.
    pub same_as: Vec<u8>,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// By path; the root's is empty.
#[derive(Clone, Debug)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

impl Tree {
    /// Reads a tree. Every name that a directory lists must be there.
    pub fn read(root: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        let mut names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        let mut todo = vec![Vec::new()];
        // In the order of paths, so that the first name of a file is the same in both trees.
        while let Some(path) = todo.pop() {
            let at = if path.is_empty() { root.join(".") } else { root.join(OsStr::from_bytes(&path)) };
            let shown = path.escape_ascii();
            let meta = fs::symlink_metadata(&at).unwrap_or_else(|e| panic!("{shown} is listed, but: {e}"));
            let same_as = if meta.is_dir() {
                path.clone()
            } else {
                names.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone()
            };
            let content = match meta.file_type() {
                t if t.is_file() => fs::read(&at).unwrap_or_else(|e| panic!("read {shown}: {e}")),
                t if t.is_symlink() => fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec(),
                _ => Vec::new(),
            };
            if meta.is_dir() {
                let mut inside: Vec<Vec<u8>> = fs::read_dir(&at)
                    .unwrap()
                    .map(|e| e.unwrap().file_name().as_bytes().to_vec())
                    .map(|name| if path.is_empty() { name } else { [path.as_slice(), b"/", &name].concat() })
                    .collect();
                inside.sort_unstable_by(|a, b| b.cmp(a));
                todo.extend(inside);
            }
            let node = Node {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                device: meta.rdev(),
                size: if meta.is_dir() { 0 } else { meta.size() },
                content,
                xattrs: kept_xattrs(&at),
                same_as,
            };
            nodes.insert(path, node);
        }
        Self(nodes)
    }
}

/// The extended attributes that a layer keeps, by name.
pub fn kept_xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut names, mut value) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter_map(|n| std::str::from_utf8(n).ok()) {
        let kept = ["security.capability", "system.posix_acl_access", "system.posix_acl_default"];
        if name.starts_with("user.") || kept.contains(&name) {
            let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            found.push((name.to_owned(), value[..n].to_vec()));
        }
    }
    found.sort();
    found
}

/// All differences, in words. The times of the directories that `open_time` tells are not compared.
pub fn differences(expected: &Tree, seen: &Tree, open_time: impl Fn(&[u8]) -> bool) -> String {
    let mut said = String::new();
    for path in expected.0.keys().chain(seen.0.keys().filter(|p| !expected.0.contains_key(*p))) {
        let shown = path.escape_ascii();
        let (e, s) = match (expected.0.get(path), seen.0.get(path)) {
            (Some(e), Some(s)) => (e, s),
            (Some(_), None) => {
                let _ = writeln!(said, "/{shown} is missing");
                continue;
            }
            _ => {
                let _ = writeln!(said, "/{shown} should not be there");
                continue;
            }
        };
        let mut differ = |what: &str, e: &dyn std::fmt::Debug, s: &dyn std::fmt::Debug, differ: bool| {
            if differ {
                let _ = writeln!(said, "/{shown}: {what} should be {e:?}, is {s:?}");
            }
        };
        let octal = |n: u32| format!("{n:o}");
        differ("mode", &octal(e.mode), &octal(s.mode), e.mode != s.mode);
        differ("owner", &e.owner, &s.owner, e.owner != s.owner);
        let open = e.is_dir() && open_time(path);
        differ("mtime", &e.mtime, &s.mtime, e.mtime != s.mtime && !open);
        differ("device", &e.device, &s.device, e.device != s.device);
        differ("size", &e.size, &s.size, e.size != s.size);
        let text = |b: &[u8]| b[..b.len().min(60)].escape_ascii().to_string();
        differ("content", &text(&e.content), &text(&s.content), e.content != s.content);
        differ("xattrs", &e.xattrs, &s.xattrs, e.xattrs != s.xattrs);
        differ("link group", &text(&e.same_as), &text(&s.same_as), e.same_as != s.same_as);
    }
    said
}

pub fn assert_equal(expected: &Tree, seen: &Tree, layers: &[Layer]) {
    let differences = differences(expected, seen, |path| expected.0[path].mtime.0 > NOW);
    assert!(differences.is_empty(), "{differences}of {layers:#?}");
}
