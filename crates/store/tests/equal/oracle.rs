//! Sequential extraction, by GNU tar: one layer after the other into one directory.
//!
//! Where the OCI image spec asks for something else than tar does, or leaves it open, it is done here, in the simplest way:
//! * Whiteouts first, and against lower layers only. The directory that one stands in is the one that the layer lists;
//!   otherwise what is there, through symlinks. One in a directory that is hidden itself says nothing.
//! * The attributes of an entry for a directory that is there replace all of the directory's (layer.md, "Changeset over
//!   existing files"); tar leaves the extended ones.
//! * Nothing is handed down: no group by a set-group-ID directory, no default ACL. An archive says what each file has.
//! * What tar would not replace (a directory that is not empty, by a file) is removed first.

use crate::compare::{Tree, kept_xattrs};
use crate::layer::{Entry, Layer, What};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEFAULT_ACL: &str = "system.posix_acl_default";
/// A mode that no test gives to a directory: one that still has it was not touched.
const UNTOUCHED: u32 = 0o1707;
/// Where the tree sees this machine's programs while tar runs.
const USR: &str = ".usr-of-the-oracle";

/// A directory, its mode, its default ACL.
type HandsDown = (PathBuf, u32, Option<Vec<u8>>);

pub struct Oracle {
    root: PathBuf,
}

impl Oracle {
    pub fn new(root: &Path) -> Self {
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        Self { root: root.to_owned() }
    }

    /// Goes on with a tree that is there.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn tree(&self) -> Tree {
        Tree::read(&self.root)
    }

    /// Extracts a layer on top; what tar says if it fails.
    pub fn apply(&self, layer: &Layer) -> Result<(), String> {
        let own = Own::of(layer);
        for path in self.hidden(layer, &own) {
            remove(&path);
        }
        let mut hands_down = self.stop_handing_down();
        let done = self.extract(layer, &mut hands_down);
        for (path, mode, acl) in hands_down {
            let there =
                fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() && m.mode() & 0o7777 == UNTOUCHED);
            if there {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                if let Some(acl) = acl {
                    rustix::fs::lsetxattr(&path, DEFAULT_ACL, &acl, rustix::fs::XattrFlags::empty()).unwrap();
                }
            }
        }
        done
    }

    /// What the whiteouts of a layer remove.
    fn hidden(&self, layer: &Layer, own: &Own) -> Vec<PathBuf> {
        let whiteouts = layer.entries.iter().filter(|e| e.what == What::Whiteout);
        let names: HashSet<Vec<u8>> = whiteouts.map(Entry::clean_path).collect();
        let mut hidden = Vec::new();
        for entry in &layer.entries {
            let path = entry.clean_path();
            let (dir, name) = match entry.what {
                What::Opaque => (path.as_slice(), None),
                What::Whiteout => (parent(&path), Some(name(&path))),
                _ => continue,
            };
            if prefixes(dir).any(|p| names.contains(p)) {
                continue;
            }
            let Some(dir) = self.walk(dir, own) else { continue };
            match name {
                Some(name) => hidden.push(dir.join(OsStr::from_bytes(name))),
                None => hidden.extend(fs::read_dir(dir).unwrap().map(|e| e.unwrap().path())),
            }
        }
        hidden
    }

    /// The directory that a path leads to, if there is one.
    fn walk(&self, path: &[u8], own: &Own) -> Option<PathBuf> {
        self.walk_through(path, own).map(|(dir, _)| dir)
    }

    /// The same, and the symlinks on the way.
    fn walk_through(&self, path: &[u8], own: &Own) -> Option<(PathBuf, Vec<PathBuf>)> {
        let mut todo: VecDeque<Vec<u8>> = components(path);
        let (mut here, mut links) = (Vec::new(), Vec::new());
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                here.truncate(parent(&here).len());
                continue;
            }
            let next = join(&here, &part);
            let target = match own.0.get(&next) {
                Some(What::Dir) => None,
                Some(What::Symlink(to)) => Some(to.clone()),
                Some(_) => return None,
                None => {
                    let meta = fs::symlink_metadata(self.below(&next)).ok()?;
                    if !meta.is_dir() && !meta.is_symlink() {
                        return None;
                    }
                    let link = meta.is_symlink().then(|| fs::read_link(self.below(&next)).unwrap());
                    link.map(|to| to.as_os_str().as_bytes().to_vec())
                }
            };
            let Some(target) = target else {
                here = next;
                continue;
            };
            links.push(self.below(&next));
            if links.len() > 40 {
                return None;
            }
            if target.starts_with(b"/") {
                here.clear();
            }
            components(&target).into_iter().rev().for_each(|part| todo.push_front(part));
        }
        // What the layer makes a directory of may be something else until it has been extracted.
        let plain = |p: &[u8]| fs::symlink_metadata(self.below(p)).is_ok_and(|m| m.is_dir());
        prefixes(&here).all(plain).then(|| (self.below(&here), links))
    }

    fn forget_xattrs(&self, entry: &Entry) {
        let path = entry.clean_path();
        let nothing = Own(HashMap::new());
        let Some(dir) = self.walk(parent(&path), &nothing) else { return };
        let at = dir.join(OsStr::from_bytes(name(&path)));
        if fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()) {
            for (name, _) in kept_xattrs(&at) {
                rustix::fs::lremovexattr(&at, name.as_str()).unwrap();
            }
        }
    }

    /// Whether an entry replaces what its own path leads through: what comes of that is an accident.
    fn undoes_its_own_way(&self, entry: &Entry) -> bool {
        let path = entry.clean_path();
        let Some((dir, links)) = self.walk_through(parent(&path), &Own(HashMap::new())) else { return false };
        let at = dir.join(OsStr::from_bytes(name(&path)));
        let stays = entry.what == What::Dir && fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir());
        !stays && links.iter().any(|link| link.starts_with(&at))
    }

    /// Extracts a layer; in pieces where an entry makes something else of a directory, which is removed before, or replaces
    /// its attributes.
    fn extract(&self, layer: &Layer, hands_down: &mut Vec<HandsDown>) -> Result<(), String> {
        if layer.made_elsewhere {
            layer.entries.iter().for_each(|entry| self.forget_xattrs(entry));
            return self.tar(&layer.tar);
        }
        let nothing = Own(HashMap::new());
        let mut piece: Vec<Entry> = Vec::new();
        for entry in &layer.entries {
            let path = entry.clean_path();
            let follows = |e: &Entry| {
                matches!(e.what, What::Symlink(_))
                    && components(parent(&path)).iter().any(|c| c == name(&e.clean_path()))
            };
            if piece.iter().any(follows) {
                self.tar(&Layer::new(std::mem::take(&mut piece)).tar)?;
            }
            if self.undoes_its_own_way(entry) {
                return Err(format!("{entry:?} replaces a symlink that its own path follows"));
            }
            if !matches!(entry.what, What::Dir | What::Whiteout | What::Opaque) {
                let dir_there = || {
                    let at = self.walk(parent(&path), &nothing)?.join(OsStr::from_bytes(name(&path)));
                    fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()).then_some(at)
                };
                if dir_there().is_some() || piece.iter().any(|e| prefixes(&e.clean_path()).any(|p| p == path))
                {
                    self.tar(&Layer::new(std::mem::take(&mut piece)).tar)?;
                    dir_there().iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
                }
            }
            if entry.what == What::Dir {
                // It may be one that the layer has made before, by this path or another.
                if piece.iter().any(|e| e.what == What::Dir && !e.xattrs.is_empty()) {
                    self.tar(&Layer::new(std::mem::take(&mut piece)).tar)?;
                }
                self.forget_xattrs(entry);
            }
            let mut entry = entry.clone();
            let acl = entry
                .xattrs
                .iter()
                .position(|(name, _)| *name == DEFAULT_ACL)
                .map(|i| entry.xattrs.remove(i).1);
            let hands = entry.what == What::Dir && (entry.mode & 0o2000 != 0 || acl.is_some());
            piece.push(entry.clone());
            if hands {
                self.tar(&Layer::new(std::mem::take(&mut piece)).tar)?;
                let path = entry.clean_path();
                let dir = self.walk(parent(&path), &nothing).ok_or("a directory is not where it was made")?;
                let dir = dir.join(OsStr::from_bytes(name(&path)));
                fs::set_permissions(&dir, fs::Permissions::from_mode(UNTOUCHED)).unwrap();
                hands_down.retain(|(earlier, ..)| *earlier != dir);
                hands_down.push((dir, entry.mode, acl));
            }
        }
        self.tar(&Layer::new(piece).tar)
    }

    /// Directories that would hand down something, with their modes and default ACLs, which they lose for now.
    fn stop_handing_down(&self) -> Vec<HandsDown> {
        let mut found = Vec::new();
        let mut todo = vec![self.root.clone()];
        while let Some(dir) = todo.pop() {
            let mode = fs::symlink_metadata(&dir).unwrap().mode() & 0o7777;
            let acl = kept_xattrs(&dir).into_iter().find(|(name, _)| name == DEFAULT_ACL).map(|(_, acl)| acl);
            if acl.is_some() {
                rustix::fs::lremovexattr(&dir, DEFAULT_ACL).unwrap();
            }
            if mode & 0o2000 != 0 || acl.is_some() {
                fs::set_permissions(&dir, fs::Permissions::from_mode(UNTOUCHED)).unwrap();
                found.push((dir.clone(), mode, acl));
            }
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        found
    }

    /// Runs tar with the tree as its root directory, so that symlinks lead where they would lead in a container.
    fn tar(&self, tar: &[u8]) -> Result<(), String> {
        let usr = self.root.join(USR);
        fs::create_dir(&usr).unwrap();
        let libraries = format!("/{USR}/lib/{}-linux-gnu", std::env::consts::ARCH);
        let script =
            r#"umask 022; mount --bind /usr "$1/$2" && root=$1 && shift 2 && exec chroot "$root" "$@""#;
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .args([self.root.as_os_str(), OsStr::new(USR)])
            .args([&loader(), "--library-path", &libraries, &format!("/{USR}/bin/tar")])
            .args(["-C", "/", "-x", "-f", "-", "-P", "-p", "--same-owner", "--numeric-owner"])
            .args(["--xattrs", "--xattrs-include=*", "--no-acls", "--exclude=.wh.*"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Where it ends early, its message says why.
        let _ = stdin.write_all(tar);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let times = fs::symlink_metadata(&self.root).unwrap();
        fs::remove_dir(&usr).unwrap();
        let time = rustix::fs::Timespec { tv_sec: times.mtime(), tv_nsec: times.mtime_nsec() };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &self.root, &times, rustix::fs::AtFlags::empty()).unwrap();
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn below(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }
}

/// What a layer itself has in the end, by path; its own symlinks in parents are followed.
struct Own(HashMap<Vec<u8>, What>);

impl Own {
    fn of(layer: &Layer) -> Self {
        let mut own = Self(HashMap::new());
        for entry in layer.entries.iter().filter(|e| !matches!(e.what, What::Whiteout | What::Opaque)) {
            let path = entry.clean_path();
            let dir = own.follow(parent(&path));
            let path = join(&dir, name(&path));
            if entry.what != What::Dir {
                let below = join(&path, b"");
                own.0.retain(|p, _| !p.starts_with(&below));
            }
            own.0.insert(path, entry.what.clone());
        }
        own
    }

    fn follow(&self, path: &[u8]) -> Vec<u8> {
        let (mut todo, mut here, mut links) = (components(path), Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                here.truncate(parent(&here).len());
                continue;
            }
            let next = join(&here, &part);
            match self.0.get(&next) {
                Some(What::Symlink(to)) if links < 40 => {
                    links += 1;
                    if to.starts_with(b"/") {
                        here.clear();
                    }
                    components(to).into_iter().rev().for_each(|part| todo.push_front(part));
                }
                _ => here = next,
            }
        }
        here
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).map(<[u8]>::to_vec).collect()
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |i| &path[..i])
}

fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
}

/// `a`, `a/b`, `a/b/c`; nothing of the root.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    ends.chain((!path.is_empty()).then_some(path.len())).map(|end| &path[..end])
}

/// The dynamic loader that tar asks for: in the tree's root directory the kernel would not find it.
fn loader() -> String {
    let found = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    // Absolute symlinks lead elsewhere in the tree.
    #[expect(clippy::disallowed_methods, reason = "a path of the host")]
    let real = found.into_iter().find_map(|p| fs::canonicalize(p).ok()).expect("a dynamic loader");
    let in_usr = real.strip_prefix("/usr").expect("Debian has its libraries in /usr");
    format!("/{USR}/{}", in_usr.display())
}
