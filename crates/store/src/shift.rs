//! IDs of containers in a user namespace. The image's layers are shown to them through ID-mapped mounts, but overlayfs takes no such
//! mount for the writable layer: what is in there has the host's numbers, on the disk too.

use serde::{Deserialize, Serialize};
use std::ffi::CStr;

/// Where the user and group IDs of a user namespace lie on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdShift {
    /// The host's number of the namespace's user 0.
    pub uid: u32,
    /// The host's number of the namespace's group 0.
    pub gid: u32,
    /// How many of each there are.
    pub length: u32,
}

/// What the kernel shows for IDs that a namespace does not map (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// `struct vfs_cap_data` and `vfs_ns_cap_data` (linux/capability.h): revisions, the mask of them, and where version 3 has the
/// namespace's root.
const CAP_REVISION_MASK: u32 = 0xff00_0000;
const CAP_REVISION_2: u32 = 0x0200_0000;
const CAP_REVISION_3: u32 = 0x0300_0000;
const CAP_ROOT: std::ops::Range<usize> = 20..24;

/// acl(5) as an attribute: a version, then entries of tag, permissions and ID.
const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

impl IdShift {
    /// A user of the namespace, as the host numbers it; its root if it is not mapped.
    pub(crate) fn user_on_host(self, uid: u32) -> u32 {
        self.uid.saturating_add(if uid < self.length { uid } else { 0 })
    }

    /// A group of the namespace, as the host numbers it; its root's if it is not mapped.
    pub(crate) fn group_on_host(self, gid: u32) -> u32 {
        self.gid.saturating_add(if gid < self.length { gid } else { 0 })
    }

    fn back(self, id: u32, first: u32) -> u32 {
        id.checked_sub(first).filter(|offset| *offset < self.length).unwrap_or(NOBODY)
    }

    /// A user of the host, as the namespace's processes see it.
    pub(crate) fn user(self, uid: u32) -> u32 {
        self.back(uid, self.uid)
    }

    /// A group of the host, as the namespace's processes see it.
    pub(crate) fn group(self, gid: u32) -> u32 {
        self.back(gid, self.gid)
    }

    /// The value of an extended attribute that holds IDs, as the namespace's processes see it; others stay as they are.
    pub(crate) fn attribute(self, name: &CStr, value: &mut Vec<u8>) {
        match name.to_bytes() {
            b"security.capability" => self.capabilities(value),
            b"system.posix_acl_access" | b"system.posix_acl_default" => self.acl(value),
            _ => {}
        }
    }

    /// Capabilities that the namespace's root gave are valid below that root alone. An image says nothing of namespaces.
    fn capabilities(self, value: &mut Vec<u8>) {
        let word = |value: &[u8], at: std::ops::Range<usize>| {
            value.get(at).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
        };
        let (Some(magic), Some(root)) = (word(value, 0..4), word(value, CAP_ROOT)) else { return };
        if magic & CAP_REVISION_MASK != CAP_REVISION_3 {
            return;
        }
        match self.user(root) {
            0 => {
                value.truncate(CAP_ROOT.start);
                let plain = (magic & !CAP_REVISION_MASK) | CAP_REVISION_2;
                value.splice(0..4, plain.to_le_bytes());
            }
            other => drop(value.splice(CAP_ROOT, other.to_le_bytes())),
        }
    }

    fn acl(self, value: &mut [u8]) {
        if !value.starts_with(&ACL_VERSION) {
            return;
        }
        for entry in value[ACL_VERSION.len()..].chunks_exact_mut(ACL_ENTRY) {
            let (tag, id) = entry.split_at_mut(4);
            let Ok(number) = <[u8; 4]>::try_from(&*id) else { continue };
            let number = u32::from_le_bytes(number);
            let seen = match u16::from_le_bytes([tag[0], tag[1]]) {
                ACL_USER => self.user(number),
                ACL_GROUP => self.group(number),
                _ => continue,
            };
            id.copy_from_slice(&seen.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: IdShift = IdShift { uid: 100_000, gid: 200_000, length: 65_536 };

    #[test]
    fn numbers_go_there_and_back() {
        assert_eq!((SHIFT.user_on_host(33), SHIFT.group_on_host(44)), (100_033, 200_044));
        assert_eq!((SHIFT.user(100_033), SHIFT.group(200_044)), (33, 44));
        for stranger in [0, 99_999, 165_536, u32::MAX] {
            assert_eq!(SHIFT.user(stranger), NOBODY);
        }
        assert_eq!(SHIFT.user_on_host(70_000), 100_000);
    }

    #[test]
    fn capabilities_of_the_namespaces_root_become_those_of_an_image() {
        let caps = |magic: u32, root: Option<u32>| {
            let mut value = magic.to_le_bytes().to_vec();
            value.extend([0x00, 0x20, 0, 0].iter().chain(&[0; 12]));
            value.extend(root.iter().flat_map(|r| r.to_le_bytes()));
            value
        };
        let seen = |mut value: Vec<u8>| {
            SHIFT.attribute(c"security.capability", &mut value);
            value
        };
        // The lowest bit says that they are effective.
        assert_eq!(seen(caps(0x0300_0001, Some(100_000))), caps(0x0200_0001, None));
        assert_eq!(seen(caps(0x0300_0000, Some(100_005))), caps(0x0300_0000, Some(5)));
        assert_eq!(seen(caps(0x0200_0001, None)), caps(0x0200_0001, None));
        assert_eq!(seen(vec![1, 2]), [1, 2]);
    }

    #[test]
    fn access_lists_name_the_namespaces_users() {
        let acl = |user: u32, group: u32| {
            let mut value = ACL_VERSION.to_vec();
            for (tag, id) in
                [(1_u16, u32::MAX), (ACL_USER, user), (4, u32::MAX), (ACL_GROUP, group), (0x20, u32::MAX)]
            {
                value.extend(tag.to_le_bytes());
                value.extend([7, 0]);
                value.extend(id.to_le_bytes());
            }
            value
        };
        let mut value = acl(100_033, 200_044);
        SHIFT.attribute(c"system.posix_acl_access", &mut value);
        assert_eq!(value, acl(33, 44));
        let mut odd = vec![9; 30];
        SHIFT.attribute(c"system.posix_acl_default", &mut odd);
        assert_eq!(odd, [9; 30]);
    }
}
