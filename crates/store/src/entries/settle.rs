//! What became of a layer's entries, where the kernel does not store just what it was told.

use super::{EntryMeta, Packed};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::walk::stat_at;
use crate::xattr;
use rustix::fs::OFlags;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use strata_sys::path::{Root, fd_path};

/// The entries that must be recorded otherwise than the archive has them.
///
/// * An archive may replace a file after it has linked another name to it: the names of a file are those that it has now,
///   the first of them in the list's order without a `link`.
/// * An access ACL changes the mode and the other way round, one that says no more than the mode is not stored, and a default
///   ACL is handed down to what is made below it (acl(5)).
pub(super) fn settle(fs: &Path, entries: &mut [Packed]) -> Result<()> {
    let (mut acls, mut firsts) = (false, HashSet::new());
    for entry in &*entries {
        let meta = entry.meta();
        acls |= meta.xattrs().iter().any(|(name, _)| is_acl(name.to_bytes()));
        firsts.extend(meta.hard_link);
    }
    if !acls && firsts.is_empty() {
        return Ok(());
    }
    let root = Root::open(fs)?;
    // By inode, and then in the list's order.
    let mut names: Vec<(u64, usize)> = Vec::new();
    for (at, entry) in entries.iter_mut().enumerate() {
        let meta = entry.meta();
        let linked = meta.hard_link.is_some() || firsts.contains(entry.path());
        if !linked && !acls {
            continue;
        }
        let (meta_now, ino) = now(&root, entry.path(), &meta, acls)
            .map_err(|e| e.context(format!("entry {:?}", escape(entry.path()))))?;
        if linked {
            names.push((ino, at));
        }
        if meta_now != meta {
            *entry = Packed::new(entry.path(), &meta_now, entry.marks());
        }
    }
    drop(firsts);
    names.sort_unstable();
    for same in names.chunk_by(|a, b| a.0 == b.0) {
        let first = same.first().and_then(|(_, at)| entries.get(*at)).map(|entry| entry.path().to_vec());
        for (n, (_, at)) in same.iter().enumerate() {
            let Some(entry) = entries.get_mut(*at) else { continue };
            let mut meta = entry.meta();
            meta.hard_link = first.clone().filter(|_| n > 0);
            *entry = Packed::new(entry.path(), &meta, entry.marks());
        }
    }
    Ok(())
}

fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// An entry as it is on disk, as far as the kernel decides about it, and its inode.
fn now(root: &Root, name: &[u8], meta: &EntryMeta, acls: bool) -> Result<(EntryMeta, u64)> {
    let (parent, last) =
        name.iter().rposition(|b| *b == b'/').map_or((&b""[..], name), |i| (&name[..i], &name[i + 1..]));
    let dir = root.resolve(OsStr::from_bytes(parent), OFlags::PATH | OFlags::DIRECTORY)?;
    let stat = stat_at(&dir, last).context(|| "stat".into())?;
    let mut meta = meta.clone();
    if acls && meta.kind != super::Kind::Whiteout && meta.kind != super::Kind::Symlink {
        meta.mode = stat.st_mode & 0o7777;
        meta = meta.with_xattrs(xattr::list(&fd_path(&dir).join(OsStr::from_bytes(last)))?);
    }
    Ok((meta, stat.st_ino))
}
