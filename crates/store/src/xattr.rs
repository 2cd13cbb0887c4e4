//! Extended attributes: which ones a layer keeps, and reading them from trees.

use crate::error::{Context, Error, Result};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

/// What marks a directory that hides what is below it (overlayfs.rst).
pub(crate) const OVERLAY_OPAQUE: &CStr = c"trusted.overlay.opaque";

/// Whether a layer keeps an attribute. Others would change how overlayfs reads the layer (`trusted.overlay.*`), or belong
/// to the host (`security.selinux`, `security.ima`).
pub(crate) fn kept(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Sets one; a symlink at the end of the path is not followed.
pub(crate) fn set(path: &Path, name: &CStr, value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .map_err(|e| failed("lsetxattr", path, name, e))
}

/// Sets one of an open file.
pub(crate) fn set_open(file: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    let set = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).map_err(std::io::Error::from);
    set.context(|| format!("fsetxattr {}", name.to_string_lossy()))
}

fn failed(call: &str, path: &Path, name: &CStr, e: Errno) -> Error {
    let io = std::io::Error::from(e);
    Error::from(io).context(format!("{call}({}, {})", path.display(), name.to_string_lossy()))
}

/// XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h).
const MAX: usize = 64 << 10;

/// The value of one, if it is set.
fn get(path: &Path, name: &CStr, follow: bool) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX];
    let read = if follow {
        rustix::fs::getxattr(path, name, &mut value[..])
    } else {
        rustix::fs::lgetxattr(path, name, &mut value[..])
    };
    match read {
        Ok(n) => {
            value.truncate(n);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(failed("getxattr", path, name, e)),
    }
}

/// All that a layer keeps, by name; a symlink at the end of the path is not followed.
pub(crate) fn list(path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
    list_of(path, false)
}

/// The same of what a descriptor's link in /proc leads to.
pub(crate) fn list_followed(path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
    list_of(path, true)
}

fn list_of(path: &Path, follow: bool) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = vec![0_u8; MAX];
    let read = if follow {
        rustix::fs::listxattr(path, &mut names[..])
    } else {
        rustix::fs::llistxattr(path, &mut names[..])
    };
    let n = match read {
        Ok(n) => n,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(failed("listxattr", path, c"", e)),
    };
    let mut found = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| kept(n)) {
        let Ok(name) = CString::new(name) else { continue };
        if let Some(value) = get(path, &name, follow)? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}

/// Takes away all that a layer keeps; a symlink at the end of the path is not followed.
pub(crate) fn clear(path: &Path) -> Result<()> {
    list(path)?.iter().try_for_each(|(name, _)| {
        rustix::fs::lremovexattr(path, name).map_err(|e| failed("lremovexattr", path, name, e))
    })
}

/// Whether a directory hides what is below it.
pub(crate) fn is_opaque(path: &Path) -> Result<bool> {
    Ok(get(path, OVERLAY_OPAQUE, false)?.is_some_and(|v| v == b"y"))
}
