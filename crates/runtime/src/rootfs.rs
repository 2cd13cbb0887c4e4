//! The root file system: an overlay, first attached where nobody looks, then the root.

use crate::{Step, failure};
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::path::Path;
use strata_sys::mount::{self, Attrs, Overlay};
use strata_sys::path::Root;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::{self, Rootfs};

/// What overlayfs leaves below `work` when it has been mounted volatile (overlayfs.rst, "Volatile mount").
const VOLATILE_MARK: &str = "work/incompat/volatile";

/// Mounts the overlay and attaches it in this mount namespace.
///
/// Mounts can be attached to a detached one only since Linux 6.15, so it needs a place.
pub(crate) fn attach(rootfs: &Rootfs, label: Option<&str>, at: &Path) -> Result<Root, Failure> {
    let merged = overlay(rootfs, &rootfs.lowers, label).mount(Attrs::default());
    place(explain(rootfs, merged)?, at)
}

/// The overlay, detached, over mounts of its layers.
pub(crate) fn mount_over(
    rootfs: &Rootfs,
    label: Option<&str>,
    layers: &[OwnedFd],
) -> Result<OwnedFd, Failure> {
    explain(rootfs, overlay(rootfs, &[], label).mount_over(layers, Attrs::default()))
}

/// Attaches a detached root file system over a directory.
pub(crate) fn place(merged: OwnedFd, at: &Path) -> Result<Root, Failure> {
    mount::attach(&merged, Root::open(at).step(step)?).step(step)?;
    mount::set_attrs(&merged, Attrs::default(), Some(mount::Propagation::Private), false).step(step)?;
    Ok(Root::from_fd(merged))
}

fn step() -> String {
    "mount the root file system".to_owned()
}

fn overlay<'a, P>(rootfs: &'a Rootfs, lowers: &'a [P], label: Option<&'a str>) -> Overlay<'a, P> {
    let upper = Some((Path::new(&rootfs.upper), Path::new(&rootfs.work)));
    Overlay { lowers, upper, volatile: rootfs.volatile, label }
}

fn explain(rootfs: &Rootfs, mounted: strata_sys::Result<OwnedFd>) -> Result<OwnedFd, Failure> {
    if rootfs.lowers.is_empty() {
        return Err(failure(FailureKind::Invalid, step(), "the image has no layers"));
    }
    mounted.step(step).map_err(|mut failure| {
        if Path::new(&rootfs.work).join(VOLATILE_MARK).exists() {
            failure
                .message
                .push_str("; this writable layer has been mounted volatile and cannot be mounted again");
        }
        failure
    })
}

/// Makes the working directory of the container's program, where the image has none.
pub(crate) fn make_working_directory(root: &Root, cwd: &str) -> Result<(), Failure> {
    if !cwd.starts_with('/') {
        let message = format!("{cwd:?} is not absolute");
        return Err(failure(FailureKind::Invalid, "working directory", message));
    }
    root.mkdir_all(cwd, 0o755).step(|| format!("make the working directory {cwd}")).map(drop)
}

/// Makes it the root of this mount namespace.
pub(crate) fn enter(root: &Root, rootfs: &Rootfs) -> Result<(), Failure> {
    mount::pivot_root(root).step(|| "pivot_root".into())?;
    // Private is what it already is.
    if rootfs.propagation != plan::Propagation::Private {
        let propagation = Some(propagation(rootfs.propagation));
        mount::set_attrs(root, Attrs::default(), propagation, false).step(|| "root propagation".into())?;
    }
    Ok(())
}

/// Makes the root read-only; mounts on it stay as they are.
pub(crate) fn make_readonly(root: &Root) -> Result<(), Failure> {
    let attrs = Attrs { readonly: true, ..Attrs::default() };
    // After pivot_root the descriptor still is the mount's root.
    let fd = root.resolve(".", OFlags::PATH | OFlags::DIRECTORY).step(|| "read-only root".into())?;
    mount::set_attrs(fd, attrs, None, false).step(|| "read-only root".into())
}

pub(crate) fn propagation(propagation: plan::Propagation) -> mount::Propagation {
    match propagation {
        plan::Propagation::Private => mount::Propagation::Private,
        plan::Propagation::Slave => mount::Propagation::Slave,
        plan::Propagation::Shared => mount::Propagation::Shared,
    }
}
