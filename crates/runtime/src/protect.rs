//! What a container may not see or change: sysctls, read-only and masked paths.

use crate::{Step, failure};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use strata_sys::CallExt;
use strata_sys::mount::{self, Attrs, FsContext};
use strata_sys::path::Root;
use strata_wire::message::{Failure, FailureKind};

/// Writes sysctls of this container's namespaces, through a proc that no mount can redirect.
pub(crate) fn write_sysctls(proc: &Root, sysctls: &[(String, String)]) -> Result<(), Failure> {
    for (path, value) in sysctls {
        let step = || format!("set sysctl {path}");
        let file = proc.resolve(format!("sys/{path}"), OFlags::WRONLY).step(step)?;
        rustix::io::write(&file, value.as_bytes()).call(|| format!("write({value:?})")).step(step)?;
    }
    Ok(())
}

/// Opens what is to be covered; `None`: the container has no such path.
fn find(root: &Root, path: &str) -> strata_sys::Result<Option<OwnedFd>> {
    match root.resolve(path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.errno, Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts read-only copies over paths, where they exist.
pub(crate) fn make_readonly(root: &Root, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        let step = || format!("make {path} read-only");
        let Some(target) = find(root, path).step(step)? else { continue };
        let tree = mount::clone_tree(&target, c"", true).step(step)?;
        mount::set_attrs(&tree, Attrs { readonly: true, ..Attrs::default() }, None, true).step(step)?;
        mount::attach(&tree, &target).step(step)?;
    }
    Ok(())
}

/// Hides paths, where they exist: files behind /dev/null, directories behind an empty read-only tmpfs, which has the
/// label.
pub(crate) fn mask(root: &Root, paths: &[String], label: Option<&str>) -> Result<(), Failure> {
    for path in paths {
        let step = || format!("mask {path}");
        let Some(target) = find(root, path).step(step)? else { continue };
        let stat = rustix::fs::fstat(&target).call(|| format!("fstat({path:?})")).step(step)?;
        let cover = if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let fs = FsContext::new("tmpfs").step(step)?;
            fs.set_string("size", "0").step(step)?;
            fs.set_string("nr_inodes", "1").step(step)?;
            fs.set_label(label).step(step)?;
            fs.mount(Attrs { readonly: true, ..Attrs::INERT }).step(step)?
        } else {
            mount::clone_tree(&null(root)?, c"", false).step(step)?
        };
        mount::attach(&cover, &target).step(step)?;
    }
    Ok(())
}

/// The container's /dev/null, if it is the real one: an image's plain file of that name would show what it holds.
fn null(root: &Root) -> Result<OwnedFd, Failure> {
    let step = || "find /dev/null for masked paths".to_owned();
    let fd = root.resolve("dev/null", OFlags::PATH).step(step)?;
    let stat = rustix::fs::fstat(&fd).call(|| "fstat(\"dev/null\")".into()).step(step)?;
    let device = FileType::from_raw_mode(stat.st_mode).is_char_device();
    if !device || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(failure(
            FailureKind::Internal,
            step(),
            "the container's /dev/null is not the null device",
        ));
    }
    Ok(fd)
}
