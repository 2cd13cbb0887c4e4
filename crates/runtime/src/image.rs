//! Images as volumes: their layers, merged and read-only, or what is at a path of them.

use crate::userns::Bench;
use crate::{Step, failure};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use strata_sys::CallExt;
use strata_sys::mount::{self, Attrs, Overlay};
use strata_sys::path::Root;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::Mount;

/// What CRI's errors of image volumes say, by which they are told from others (k8s.io/cri-api/pkg/errors).
const FAILED: &str = "ImageVolumeMountFailed";

/// The layers of an image, or the part of them that is asked for, as a detached mount.
///
/// In a user namespace, `bench` shows the layers to its users.
///
/// The path is resolved by the kernel beneath the image's root, in the very mount that is attached afterwards: nothing can be
/// exchanged in between, and no symlink of the image leads out of it.
pub(crate) fn open(
    m: &Mount,
    lowers: &[String],
    subpath: &str,
    label: Option<&str>,
    bench: Option<&Bench<'_>>,
) -> Result<OwnedFd, Failure> {
    let step = || format!("{FAILED}: image volume on {}", m.target);
    let Some(top) = lowers.first() else {
        return Err(failure(FailureKind::Invalid, step(), "it has no layers, not even an empty one"));
    };
    // Where an overlay is attached it can be copied in parts before Linux 6.15, too: copies of parts of detached mounts are
    // refused. Its own topmost directory is nobody else's, and this mount namespace's view of it goes with the old root.
    let place = Root::open(Path::new(top)).step(step)?;
    let readonly = Attrs { readonly: true, ..Attrs::default() };
    let merged = if lowers.len() == 1 {
        mount::clone_tree(&place, c"", false).step(step)?
    } else if let Some(bench) = bench {
        let layers = bench.layers(lowers)?;
        Overlay { lowers: &[], upper: None, volatile: false, label }
            .mount_over(&layers, readonly)
            .step(step)?
    } else {
        Overlay { lowers, upper: None, volatile: false, label }.mount(readonly).step(step)?
    };
    if subpath.is_empty() {
        return Ok(merged);
    }
    mount::attach(&merged, &place).step(step)?;
    let root = Root::from_fd(merged);
    let part = root.resolve_beneath(subpath, OFlags::PATH).map_err(|e| match e.errno {
        Errno::NOENT | Errno::NOTDIR => failure(
            FailureKind::Invalid,
            step(),
            format!("the image has no {subpath:?}; check the volume's sub path"),
        ),
        Errno::XDEV | Errno::LOOP => failure(
            FailureKind::Invalid,
            step(),
            format!(
                "sub path {subpath:?} leads out of the image, or round in circles, by a symlink or \"..\""
            ),
        ),
        _ => Failure {
            kind: FailureKind::Internal,
            step: step(),
            message: e.to_string(),
            errno: Some(e.errno.raw_os_error()),
        },
    })?;
    let stat = rustix::fs::fstat(&part).call(|| format!("fstat({subpath:?})")).step(step)?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile) {
        let message = format!("sub path {subpath:?} is neither a directory nor a file");
        return Err(failure(FailureKind::Invalid, step(), message));
    }
    mount::clone_tree(&part, c"", false).step(step)
}
