//! Mounts below the root. Every target is a descriptor resolved inside the root: a symlink that the image put there
//! cannot lead a mount out of it (CVE-2021-30465).

use crate::userns::{self, Bench};
use crate::{Step, failure, image, rootfs};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use strata_cgroup::Group;
use strata_sys::CallExt;
use strata_sys::mount::{self, Attrs, FsContext};
use strata_sys::path::Root;
use strata_wire::message::{Failure, FailureKind};
use strata_wire::plan::{ContainerPlan, Mount, MountAttrs, MountKind, Propagation};

/// What mounts show, as far as it is opened before their turn comes.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The user namespaces that ID-mapped mounts are shown through, for each mount.
    maps: &'a [Option<OwnedFd>],
    /// For each mount.
    opened: Vec<Option<OwnedFd>>,
    /// The SELinux label of what is made for this container.
    label: Option<&'a str>,
}

impl<'a> Sources<'a> {
    /// Copies the sources of shared binds. It must happen before this namespace's mounts are made slaves of the host's: a copy
    /// of a slave hears of the host's mounts, but the host not of those made below it.
    pub(crate) fn shared(plan: &'a ContainerPlan, maps: &'a [Option<OwnedFd>]) -> Result<Self, Failure> {
        let mut sources = Self { maps, opened: Vec::new(), label: plan.mount_label.as_deref() };
        for (n, m) in plan.mounts.iter().enumerate() {
            let shared = matches!(m.kind, MountKind::Bind { propagation: Propagation::Shared, .. });
            sources.opened.push(if shared { Some(sources.bind(n, m)?) } else { None });
        }
        Ok(sources)
    }

    /// Opens everything that a user namespace's root could not.
    pub(crate) fn open_all(&mut self, mounts: &[Mount], bench: &Bench<'_>) -> Result<(), Failure> {
        for (n, m) in mounts.iter().enumerate() {
            let opened = match &m.kind {
                MountKind::Bind { .. } if self.opened.get(n).is_none_or(Option::is_none) => {
                    self.bind(n, m)?
                }
                // They show the pod's namespaces, which have been joined; a root of the user namespace may only mount what its
                // mount namespace shows already, in full.
                MountKind::Fs { fstype, options } if ["sysfs", "mqueue"].contains(&fstype.as_str()) => {
                    make_fs(m, fstype, options, self.label)?
                }
                MountKind::Image { lowers, subpath } => {
                    image::open(m, lowers, subpath, self.label, Some(bench))?
                }
                _ => continue,
            };
            if let Some(slot) = self.opened.get_mut(n) {
                *slot = Some(opened);
            }
        }
        Ok(())
    }

    fn bind(&self, n: usize, m: &Mount) -> Result<OwnedFd, Failure> {
        let MountKind::Bind { source, recursive, .. } = &m.kind else {
            return Err(failure(FailureKind::Internal, "bind mount", "it is none"));
        };
        let step = || format!("bind mount {source} on {}", m.target);
        let tree = mount::clone_tree(CWD, source.as_str(), *recursive).step(step)?;
        if let Some(Some(map)) = self.maps.get(n) {
            userns::idmap(&tree, map, source, *recursive)?;
        }
        Ok(tree)
    }

    fn take(&mut self, n: usize) -> Option<OwnedFd> {
        self.opened.get_mut(n).and_then(Option::take)
    }
}

/// Attaches mounts in their order. `cgroup` is the container's, and whether it is the root of what it sees.
pub(crate) fn attach_all(
    root: &Root,
    mounts: &[Mount],
    mut sources: Sources<'_>,
    cgroup: (&Group, bool),
) -> Result<(), Failure> {
    mounts.iter().enumerate().try_for_each(|(n, m)| match (&m.kind, sources.take(n)) {
        (MountKind::Bind { recursive, propagation, .. }, opened) => {
            let tree = match opened {
                Some(tree) => tree,
                None => sources.bind(n, m)?,
            };
            bind(root, m, &tree, *recursive, *propagation)
        }
        (MountKind::Fs { fstype, options }, opened) => {
            let mounted = match opened {
                Some(mounted) => mounted,
                None => make_fs(m, fstype, options, sources.label)?,
            };
            let step = || format!("mount {fstype} on {}", m.target);
            mount::attach(&mounted, target(root, &m.target, true)?).step(step)
        }
        (MountKind::Cgroup, _) => cgroups(root, m, cgroup, sources.label),
        (MountKind::Image { lowers, subpath }, opened) => {
            let tree = match opened {
                Some(tree) => tree,
                None => image::open(m, lowers, subpath, sources.label, None)?,
            };
            bind(root, m, &tree, false, Propagation::Private)
        }
        (MountKind::Own, _) => own(root, m),
    })
}

fn attrs(attrs: MountAttrs) -> Attrs {
    Attrs {
        readonly: attrs.readonly || attrs.recursive_readonly,
        nosuid: attrs.nosuid,
        nodev: attrs.nodev,
        noexec: attrs.noexec,
        strictatime: attrs.strictatime,
    }
}

fn bind(
    root: &Root,
    m: &Mount,
    tree: &OwnedFd,
    recursive: bool,
    propagation: Propagation,
) -> Result<(), Failure> {
    let step = || format!("bind mount on {}", m.target);
    let stat = rustix::fs::fstat(tree).call(|| "fstat(bind source)".into()).step(step)?;
    // Mounts below are restricted only if that was asked for: a plain read-only bind leaves its submounts (KEP-3857).
    let own = attrs(m.attrs);
    mount::set_attrs(tree, own, Some(rootfs::propagation(propagation)), false).step(step)?;
    if m.attrs.recursive_readonly {
        mount::set_attrs(tree, Attrs { readonly: true, ..Attrs::default() }, None, true).step(step)?;
    }
    let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
    target(root, &m.target, directory)
        .and_then(|target| mount::attach(tree, &target).step(step))
        .map_err(|failed| unlike(root, &m.target, directory).unwrap_or(failed))?;
    // A copy of a shared mount is in its peer group even if detached; below the root only what was asked for may be.
    if recursive && propagation != Propagation::Shared {
        mount::set_attrs(tree, Attrs::default(), Some(rootfs::propagation(propagation)), true).step(step)?;
    }
    Ok(())
}

/// Only the root's own mount becomes read-only later, so what is a mount of its own does not.
fn own(root: &Root, m: &Mount) -> Result<(), Failure> {
    let step = || format!("mount {} on itself", m.target);
    let there = match root.resolve(&m.target, OFlags::PATH) {
        Err(e) if e.errno == Errno::NOENT => root.mkdir_all(&m.target, 0o755),
        other => other,
    };
    let tree = mount::clone_tree(there.step(step)?, c"", false).step(step)?;
    bind(root, m, &tree, false, Propagation::Private)
}

fn make_fs(
    m: &Mount,
    fstype: &str,
    options: &[(String, Option<String>)],
    label: Option<&str>,
) -> Result<OwnedFd, Failure> {
    let step = || format!("mount {fstype} on {}", m.target);
    let fs = FsContext::new(fstype).step(step)?;
    for (key, value) in options {
        match value {
            Some(value) => fs.set_string(key, value.as_str()).step(step)?,
            None => fs.set_flag(key).step(step)?,
        }
    }
    // Those of the kernel's own files are the policy's to give.
    fs.set_label(label.filter(|_| ["tmpfs", "devpts"].contains(&fstype))).step(step)?;
    let mounted = fs.mount(attrs(m.attrs)).step(step)?;
    // It came with the IPC namespace, and takes no options any more.
    if let Some(label) = label.filter(|_| fstype == "mqueue") {
        label_top(&mounted, label).step(step)?;
    }
    Ok(mounted)
}

/// Labels the top directory of a mount, where the policy labels files there at all.
fn label_top(mounted: &OwnedFd, label: &str) -> strata_sys::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(mounted, ".", flags, Mode::empty()).call(|| "openat(\".\")".into())?;
    match rustix::fs::fsetxattr(&top, "security.selinux", label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other.call(|| format!("fsetxattr(security.selinux, {label:?})")),
    }
}

/// The container's own groups, and nothing above them: on v2 its directory, on v1 a tmpfs with one for each hierarchy.
fn cgroups(
    root: &Root,
    m: &Mount,
    (group, namespace): (&Group, bool),
    label: Option<&str>,
) -> Result<(), Failure> {
    let step = || format!("mount cgroups on {}", m.target);
    let target = target(root, &m.target, true)?;
    if group.hierarchy().mode() == strata_cgroup::Mode::V2 {
        // Without a namespace /proc/self/cgroup has the node's path, which is to be found here.
        let top = group.hierarchy().mount_points().next().filter(|_| !namespace).map(Path::to_path_buf);
        return match top.or_else(|| group.v2_dir()) {
            Some(dir) => bind_group(&dir, &target, m.attrs),
            None => Ok(()),
        };
    }
    let fs = FsContext::new("tmpfs").step(step)?;
    fs.set_string("mode", "755").step(step)?;
    fs.set_string("size", "64k").step(step)?;
    fs.set_label(label).step(step)?;
    let tmpfs = fs.mount(Attrs { readonly: false, ..Attrs::INERT }).step(step)?;
    mount::attach(&tmpfs, &target).step(step)?;
    let top = Root::from_fd(tmpfs);
    for at in group.hierarchy().mount_points() {
        let Some(name) = at.file_name().and_then(|n| n.to_str()) else { continue };
        let dir = at.join(group.name().trim_start_matches('/'));
        bind_group(&dir, &top.mkdir_all(name, 0o755).step(step)?, m.attrs)?;
        // `cpu,cpuacct` is known by each of its names.
        for part in name.split(',').filter(|part| *part != name) {
            let linked = rustix::fs::symlinkat(name, &top, part).call(|| format!("symlinkat({part:?})"));
            linked.step(step)?;
        }
    }
    if m.attrs.readonly {
        mount::set_attrs(&top, Attrs { readonly: true, ..Attrs::INERT }, None, false).step(step)?;
    }
    Ok(())
}

fn bind_group(dir: &Path, target: impl AsFd, wanted: MountAttrs) -> Result<(), Failure> {
    let step = || format!("bind the cgroup {}", dir.display());
    let tree = mount::clone_tree(CWD, dir, false).step(step)?;
    let own = Attrs { readonly: wanted.readonly, ..Attrs::INERT };
    mount::set_attrs(&tree, own, Some(mount::Propagation::Private), false).step(step)?;
    mount::attach(&tree, target).step(step)
}

/// Why nothing can be mounted there, if it is that a file cannot be on a directory, nor a directory on a file (mount(2)).
fn unlike(root: &Root, target: &str, directory: bool) -> Option<Failure> {
    let there = root.resolve(target, OFlags::PATH).ok()?;
    let stat = rustix::fs::fstat(&there).ok()?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() == directory {
        return None;
    }
    let (source, there) = if directory { ("a directory", "a file") } else { ("a file", "a directory") };
    let message = format!(
        "its source is {source}, and the container has {there} there; mount a file on a file and a directory on a directory, or \
         choose another path"
    );
    Some(failure(FailureKind::Invalid, format!("bind mount on {target}"), message))
}

/// Opens a mount's target, made if it is missing.
fn target(root: &Root, path: &str, directory: bool) -> Result<OwnedFd, Failure> {
    let step = || format!("make the mount point {path}");
    if !path.starts_with('/') {
        return Err(failure(FailureKind::Invalid, step(), "it is not an absolute path"));
    }
    if directory {
        return root.mkdir_all(path, 0o755).step(step);
    }
    match root.resolve(path, OFlags::PATH) {
        Err(e) if e.errno == Errno::NOENT => {}
        other => return other.step(step),
    }
    drop(root.create_file_all(path, 0o644, 0o755).step(step)?);
    root.resolve(PathBuf::from(path), OFlags::PATH).step(step)
}
