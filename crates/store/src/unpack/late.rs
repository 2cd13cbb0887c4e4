//! What a directory hands down to what is made in it comes last of all: an archive says itself what each file has.

use super::tree::{name_of, parent_of};
use super::{Attrs, Unpacker};
use crate::error::{Context, Result};
use crate::escape::escape;
use crate::xattr;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use strata_sys::path::fd_path;

const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
/// On a directory: its group is inherited, and this bit (inode(7)).
const SET_GROUP_ID: u32 = 0o2000;

/// What waits for the end.
pub(super) struct Late {
    set_group_id: bool,
    default_acl: Option<Vec<u8>>,
}

impl Unpacker<'_> {
    /// Gives a directory its attributes, but for what it would hand down.
    pub(super) fn apply_dir(&mut self, path: &[u8], attrs: &Attrs) -> Result<()> {
        let dir = self.parent_fd(path)?;
        let default_acl = attrs.xattrs.iter().find(|(name, _)| name.as_c_str() == DEFAULT_ACL);
        let late = Late {
            set_group_id: attrs.mode & SET_GROUP_ID != 0,
            default_acl: default_acl.map(|(_, value)| value.clone()),
        };
        if !late.set_group_id && late.default_acl.is_none() {
            self.late.remove(path);
            return attrs.apply_dir(&dir, name_of(path));
        }
        let mut now = attrs.clone();
        now.mode &= !SET_GROUP_ID;
        now.xattrs.retain(|(name, _)| name.as_c_str() != DEFAULT_ACL);
        now.apply_dir(&dir, name_of(path))?;
        self.late.insert(path.to_vec(), late);
        Ok(())
    }

    pub(super) fn finish_late(&mut self) -> Result<()> {
        for (path, late) in std::mem::take(&mut self.late) {
            if !self.tree.is_dir(&path) {
                continue;
            }
            let parent = self.root.resolve(OsStr::from_bytes(parent_of(&path)), OFlags::PATH)?;
            let at = fd_path(&parent).join(OsStr::from_bytes(name_of(&path)));
            if let Some(acl) = &late.default_acl {
                xattr::set(&at, DEFAULT_ACL, acl)?;
            }
            if late.set_group_id {
                let set = || {
                    let name = name_of(&path);
                    let mode = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777;
                    rustix::fs::chmodat(
                        &parent,
                        name,
                        Mode::from_raw_mode(mode | SET_GROUP_ID),
                        AtFlags::empty(),
                    )
                };
                let fail = |e: rustix::io::Errno| std::io::Error::from(e);
                set().map_err(fail).context(|| format!("chmod {:?}", escape(&path)))?;
            }
        }
        Ok(())
    }
}
