//! What a container has changed, committed and unpacked again, is the same tree; and `diff` says just what changed.

use crate::common::{mount_bare, open, privileged, pull};
use crate::compare::{Tree, differences};
use crate::kinds::{acl, capabilities};
use crate::layer::{Entry, LONG_AGO, Layer, What, dir, file, link, symlink};
use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::path::Path;
use strata_store::{Change, ChangeKind, CommitOptions};
use strata_sys::path::{Root, fd_path};

const CASES: u32 = 30;

/// Something that a program may do. Where it cannot be done, nothing happens.
#[derive(Clone, Debug)]
enum Step {
    Write(String, u8),
    MakeDir(String),
    Symlink(String, &'static str),
    Link(String, String),
    Node(String, u8),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Time(String, u32),
    Attribute(String, u8),
    NoAttributes(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => "[abc]", 2 => Just("d".to_owned()), 1 => Just("n".repeat(240))];
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let targets = vec!["a", "../b", "/c", "nowhere"];
    prop_oneof![
        6 => (path(), any::<u8>()).prop_map(|(p, n)| Step::Write(p, n)),
        5 => path().prop_map(Step::MakeDir),
        2 => (path(), prop::sample::select(targets)).prop_map(|(p, t)| Step::Symlink(p, t)),
        4 => (path(), path()).prop_map(|(p, q)| Step::Link(p, q)),
        1 => (path(), 0..3_u8).prop_map(|(p, n)| Step::Node(p, n)),
        8 => path().prop_map(Step::Remove),
        6 => (path(), path()).prop_map(|(p, q)| Step::Rename(p, q)),
        2 => (prop_oneof![path(), Just(String::new())], 0..0o7777_u32).prop_map(|(p, m)| Step::Mode(p, m)),
        1 => (path(), any::<u32>()).prop_map(|(p, n)| Step::Owner(p, n / 2)),
        1 => (path(), 0..1_000_000_000_u32).prop_map(|(p, n)| Step::Time(p, n)),
        2 => (path(), 0..4_u8).prop_map(|(p, n)| Step::Attribute(p, n)),
        1 => path().prop_map(Step::NoAttributes),
    ]
}

impl Step {
    fn run(&self, root: &Root) -> Result<(), Errno> {
        let at = |path: &str| {
            let path = if path.is_empty() { "." } else { path };
            let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
            let dir = root.resolve(dir, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| e.errno)?;
            Ok::<_, Errno>((dir, name.to_owned()))
        };
        // By descriptors: an absolute symlink must not lead out of the container.
        let by_path = |path: &str| at(path).map(|(dir, name)| (fd_path(&dir).join(name), dir));
        let none = AtFlags::empty();
        match self {
            Self::Write(path, n) => {
                let (dir, name) = at(path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o640))?;
                rustix::io::write(&file, &vec![*n; usize::from(*n) * 7]).map(|_| ())
            }
            Self::MakeDir(path) => {
                let (dir, name) = at(path)?;
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o750))
            }
            Self::Symlink(path, target) => {
                let (dir, name) = at(path)?;
                rustix::fs::symlinkat(*target, dir, name)
            }
            Self::Link(path, target) => {
                let ((dir, name), (from, old)) = (at(path)?, at(target)?);
                rustix::fs::linkat(from, old, dir, name, none)
            }
            Self::Node(path, n) => {
                let (dir, name) = at(path)?;
                let kinds = [FileType::Fifo, FileType::CharacterDevice, FileType::BlockDevice];
                let device = rustix::fs::makedev(u32::from(*n), 77_777 * u32::from(*n));
                rustix::fs::mknodat(dir, name, kinds[usize::from(*n)], Mode::from_raw_mode(0o600), device)
            }
            Self::Remove(path) => remove(&by_path(path)?.0),
            Self::Rename(path, to) => {
                let ((dir, name), (to, new)) = (at(path)?, at(to)?);
                rustix::fs::renameat_with(dir, name, to, new, RenameFlags::empty())
            }
            Self::Mode(path, mode) => {
                let (path, _dir) = by_path(path)?;
                if path.is_symlink() {
                    return Ok(());
                }
                rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(*mode), none)
            }
            Self::Owner(path, id) => {
                let (dir, name) = at(path)?;
                let (uid, gid) = (Uid::from_raw(*id), Gid::from_raw(id / 3));
                rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::Time(path, n) => {
                let (dir, name) = at(path)?;
                let time = Timespec { tv_sec: LONG_AGO - i64::from(*n) * 2, tv_nsec: i64::from(*n) };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::Attribute(path, n) => {
                let (path, _dir) = by_path(path)?;
                let (name, value) = match n {
                    0 => ("user.x", b"\0\xff".to_vec()),
                    1 => ("security.capability", capabilities()),
                    2 => ("system.posix_acl_access", acl(7, (5, 4), 5, 1)),
                    _ => ("system.posix_acl_default", acl(7, (6, 7), 5, 0)),
                };
                rustix::fs::lsetxattr(path, name, &value, XattrFlags::empty())
            }
            Self::NoAttributes(path) => {
                let (path, _dir) = by_path(path)?;
                let _ = rustix::fs::lremovexattr(&path, "user.low");
                rustix::fs::lremovexattr(path, "system.posix_acl_access")
            }
        }
    }
}

fn remove(path: &Path) -> Result<(), Errno> {
    let gone = if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    gone.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn below() -> Vec<Layer> {
    vec![
        Layer::new([
            dir("a", 0o755).xattr("user.low", "1").xattr("system.posix_acl_access", acl(7, (3, 1), 5, 5)),
            file("a/a", "aa").owner(3, 3),
            file("a/b", "ab").mode(0o4755),
            link("a/c", "a/b"),
            dir("b", 0o2775).owner(0, 3),
            dir("b/a", 0o700),
            file("b/a/a", "baa").xattr("user.low", "2"),
            file("b/a/b", "bab"),
            symlink("c", "b"),
            Entry::new("b/c", What::Fifo),
        ]),
        Layer::new([file("b/b/c", "bbc"), file("d", "d"), dir("b/a", 0o711), dir("a/d", 0o1777)]),
    ]
}

/// Every change is one, and each difference between the trees is said.
fn check_diff(image: &Tree, now: &Tree, changes: &[Change]) {
    let (before, after) = (|p: &[u8]| image.0.contains_key(p), |p: &[u8]| now.0.contains_key(p));
    for change in changes {
        let path = &change.path[1..];
        let (was, is) = match change.kind {
            ChangeKind::Added => (false, true),
            ChangeKind::Changed => (true, true),
            ChangeKind::Deleted => (true, false),
        };
        assert_eq!((before(path), after(path)), (was, is), "{change}");
    }
    let said = |path: &[u8], kind| changes.iter().any(|c| c.kind == kind && c.path[1..] == *path);
    for path in now.0.keys().filter(|p| !before(p)) {
        assert!(said(path, ChangeKind::Added), "{} was added", path.escape_ascii());
    }
    for path in image.0.keys().filter(|p| !after(p)) {
        let prefixes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| &path[..i]);
        let gone = prefixes
            .chain([path.as_slice()])
            .any(|p| said(p, ChangeKind::Deleted) || (said(p, ChangeKind::Changed) && !now.0[p].is_dir()));
        assert!(gone, "{} was deleted", path.escape_ascii());
    }
    for (path, node) in &now.0 {
        let same = image.0.get(path).is_none_or(|old| (old.mode, &old.content) == (node.mode, &node.content));
        assert!(
            same || path.is_empty() || said(path, ChangeKind::Changed),
            "{} changed",
            path.escape_ascii()
        );
    }
}

fn round_trip(steps: &[Step]) {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let tars: Vec<_> = below().into_iter().map(|l| l.tar).collect();
    let image = pull(&store, "image", &tars).unwrap();
    let untouched = mount_bare(&store, 0, &image);
    let before = Tree::read(&fd_path(&untouched));
    let root = mount_bare(&store, 1, &image);
    for step in steps {
        let _ = step.run(&root);
    }
    let now = Tree::read(&fd_path(&root));
    let id = "01".repeat(32);
    check_diff(&before, &now, &store.diff(&id).unwrap());
    let committed = store.commit(&id, &CommitOptions::default()).unwrap();
    let again = mount_bare(&store, 2, &committed);
    let differences = differences(&now, &Tree::read(&fd_path(&again)), <[u8]>::is_empty);
    assert!(differences.is_empty(), "{differences}after {steps:#?}");
    // Once more on top of that, with nothing changed.
    assert_eq!(store.diff(&"02".repeat(32)).unwrap(), []);
}

#[test]
fn links_nodes_and_the_root_survive_a_commit() {
    if privileged() {
        let s = str::to_owned;
        round_trip(&[
            Step::Mode(String::new(), 0o711),
            Step::Link(s("link"), s("c")),
            Step::Link(s("pipe"), s("b/c")),
            Step::Link(s("a/d/up"), s("a/b")),
            Step::Remove(s("a/a")),
            Step::Remove(s("b")),
            Step::MakeDir(s("b")),
            Step::Write(s("b/a"), 9),
            Step::NoAttributes(s("a")),
            Step::Remove(s("c")),
            Step::MakeDir(s("c")),
        ]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn commits_give_the_same_tree_again(steps in prop::collection::vec(step(), 1..25)) {
        if privileged() {
            round_trip(&steps);
        }
    }
}
