//! What became of a layer's entries, where the kernel does not store just what it was told.

use super::EntryMeta;
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::walk::stat_at;
use crate::xattr;
use rustix::fs::OFlags;
use std::collections::{BTreeMap, HashMap};
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
pub(super) fn settle<'a>(
    fs: &Path,
    entries: &'a [(Vec<u8>, EntryMeta)],
) -> Result<HashMap<&'a [u8], EntryMeta>> {
    let mut settled = HashMap::new();
    let acls = entries.iter().any(|(_, e)| e.xattrs().iter().any(|(name, _)| is_acl(name.to_bytes())));
    if !acls && entries.iter().all(|(_, e)| e.hard_link.is_none()) {
        return Ok(settled);
    }
    let root = Root::open(fs)?;
    let by_name: HashMap<&[u8], &EntryMeta> =
        entries.iter().filter(|(_, e)| e.hard_link.is_some()).map(|(n, e)| (n.as_slice(), e)).collect();
    let firsts: std::collections::HashSet<&[u8]> =
        by_name.values().filter_map(|e| e.hard_link.as_deref()).collect();
    let mut groups: BTreeMap<u64, Vec<(&'a [u8], &'a EntryMeta)>> = BTreeMap::new();
    for (name, meta) in entries {
        let linked = meta.hard_link.is_some() || firsts.contains(name.as_slice());
        if !linked && !acls {
            continue;
        }
        let (meta_now, ino) =
            now(&root, name, meta, acls).map_err(|e| e.context(format!("entry {:?}", escape(name))))?;
        if linked {
            groups.entry(ino).or_default().push((name, meta));
        }
        settled.insert(name.as_slice(), meta_now);
    }
    for mut names in groups.into_values() {
        names.sort_unstable_by(|a, b| super::order(a.0, b.0));
        let first = names.first().map(|(name, _)| name.to_vec());
        for (n, (name, _)) in names.iter().enumerate() {
            if let Some(meta) = settled.get_mut(name) {
                meta.hard_link = if n == 0 { None } else { first.clone() };
            }
        }
    }
    Ok(settled)
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
