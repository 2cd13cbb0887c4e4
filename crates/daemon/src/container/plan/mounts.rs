//! What a container finds mounted.

use super::hostmounts::{Sharing, sharing};
use super::images;
use crate::error::{Error, Result};
use crate::pod::userns;
use crate::request::known;
use std::path::{Path, PathBuf};
use strata_api::cri;
use strata_wire::plan::{Mount, MountAttrs, MountKind, Propagation};

/// Hidden from containers that are not privileged, where they exist: what Docker and containerd hide.
pub(crate) const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only in containers that are not privileged.
pub(crate) const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The pod's files and directories that its containers share.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFiles {
    /// On /dev/shm: the pod's tmpfs or the host's.
    pub(crate) shm: PathBuf,
    /// On /etc/hosts.
    pub(crate) hosts: PathBuf,
    /// On /etc/hostname.
    pub(crate) hostname: PathBuf,
    /// On /etc/resolv.conf.
    pub(crate) resolv_conf: PathBuf,
}

/// What decides over mounts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// CRI's mounts.
    pub(crate) mounts: &'a [cri::Mount],
    /// The strata command's tmpfs mounts.
    pub(crate) tmpfs: &'a [String],
    /// For each of CRI's mounts that is an image, in their order: its layers, topmost first.
    pub(crate) images: &'a [Vec<PathBuf>],
    /// The image's VOLUMEs.
    pub(crate) volumes: &'a [String],
    /// What CDI devices bring.
    pub(crate) injected: &'a [Mount],
    /// Everything writable that can be.
    pub(crate) privileged: bool,
    /// The container's root is read-only.
    pub(crate) readonly_rootfs: bool,
}

/// The mounts in their order (parents first), and the propagation that the root then needs.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for paths and options that make no sense,
/// and [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) for propagation from a mount that does not propagate.
pub(crate) fn mounts(wanted: &Wanted<'_>, pod: &PodFiles) -> Result<(Vec<Mount>, Propagation)> {
    let mut root = Propagation::Private;
    let mut images = wanted.images.iter();
    let asked = wanted.mounts.iter().map(|asked| match images::image_of(asked)? {
        None => cri_mount(asked),
        Some(image) => {
            let lowers =
                images.next().ok_or_else(|| Error::internal(format!("image {image} is not mounted")))?;
            Ok(images::mount(asked, absolute(&asked.container_path)?, lowers))
        }
    });
    let asked: Vec<Mount> = asked.chain(wanted.injected.iter().cloned().map(Ok)).collect::<Result<_>>()?;
    let mut all = kernel_mounts(wanted.privileged);
    // Whoever brings devices brings their terminals and queues.
    if asked.iter().any(|m| m.target == "/dev") {
        all.retain(|m| !m.target.starts_with("/dev/"));
    }
    all.push(bind("/dev/shm", &pod.shm, MountAttrs { nosuid: true, nodev: true, noexec: true, ..ATTRS }));
    for (target, source) in
        [("/etc/hosts", &pod.hosts), ("/etc/hostname", &pod.hostname), ("/etc/resolv.conf", &pod.resolv_conf)]
    {
        if !source.as_os_str().is_empty() {
            all.push(bind(target, source, MountAttrs { readonly: wanted.readonly_rootfs, ..ATTRS }));
        }
    }
    all.extend(wanted.volumes.iter().filter_map(|path| volume(path)));
    for text in wanted.tmpfs {
        put(&mut all, tmpfs(text)?);
    }
    for mount in asked {
        if let MountKind::Bind { propagation, .. } = mount.kind {
            root = stronger(root, propagation);
        }
        put(&mut all, mount);
    }
    // Parents first; a stable sort keeps the order among those of one depth.
    all.sort_by_key(|m| Path::new(&m.target).components().count());
    Ok((all, root))
}

const ATTRS: MountAttrs = MountAttrs {
    readonly: false,
    recursive_readonly: false,
    nosuid: false,
    nodev: false,
    noexec: false,
    strictatime: false,
    ids: None,
};

fn kernel_mounts(privileged: bool) -> Vec<Mount> {
    let inert = MountAttrs { nosuid: true, nodev: true, noexec: true, ..ATTRS };
    let inert_ro = MountAttrs { readonly: !privileged, ..inert };
    let options = |list: &[(&str, &str)]| {
        list.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect::<Vec<_>>()
    };
    let fs = |target: &str, fstype: &str, list: &[(&str, &str)], attrs: MountAttrs| Mount {
        target: target.into(),
        kind: MountKind::Fs { fstype: fstype.into(), options: options(list) },
        attrs,
    };
    let mut pts = fs(
        "/dev/pts",
        "devpts",
        &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        MountAttrs { nosuid: true, noexec: true, ..ATTRS },
    );
    if let MountKind::Fs { options, .. } = &mut pts.kind {
        options.push(("newinstance".into(), None));
    }
    vec![
        fs("/proc", "proc", &[], inert),
        fs(
            "/dev",
            "tmpfs",
            &[("mode", "755"), ("size", "65536k")],
            MountAttrs { nosuid: true, strictatime: true, ..ATTRS },
        ),
        pts,
        fs("/dev/mqueue", "mqueue", &[], inert),
        fs("/sys", "sysfs", &[], inert_ro),
        Mount { target: "/sys/fs/cgroup".into(), kind: MountKind::Cgroup, attrs: inert_ro },
    ]
}

fn bind(target: &str, source: &Path, attrs: MountAttrs) -> Mount {
    Mount {
        target: target.into(),
        kind: MountKind::Bind {
            source: source.to_string_lossy().into_owned(),
            recursive: true,
            propagation: Propagation::Private,
        },
        attrs,
    }
}

/// A later mount takes the place of an earlier one with the same target, and of the image's volumes below that. Others below it
/// stay, in whatever order they were listed: they are mounted on top of it.
fn put(all: &mut Vec<Mount>, mount: Mount) {
    all.retain(|m| {
        let below = Path::new(&m.target).starts_with(&mount.target);
        !below || m.kind != MountKind::Own && m.target != mount.target
    });
    all.push(mount);
}

/// A VOLUME of the image: a directory of the container's own that stays writable below a read-only root, as with runtimes that
/// mount a volume there. Some images name the kernel's own file systems, which have their mounts.
fn volume(path: &str) -> Option<Mount> {
    let target = absolute(path).ok()?;
    let kernels = ["/dev", "/proc", "/sys"].iter().any(|top| Path::new(&target).starts_with(top));
    (!kernels).then_some(Mount { target, kind: MountKind::Own, attrs: ATTRS })
}

fn stronger(a: Propagation, b: Propagation) -> Propagation {
    match (a, b) {
        (Propagation::Shared, _) | (_, Propagation::Shared) => Propagation::Shared,
        (Propagation::Slave, _) | (_, Propagation::Slave) => Propagation::Slave,
        _ => Propagation::Private,
    }
}

fn cri_mount(asked: &cri::Mount) -> Result<Mount> {
    let target = absolute(&asked.container_path)?;
    if asked.host_path.is_empty() || !asked.host_path.starts_with('/') || asked.host_path.contains('\0') {
        let text = format!("mount on {target}: host path {:?} must be absolute", asked.host_path);
        return Err(Error::invalid(text));
    }
    let source = host_source(&asked.host_path)?;
    let propagation = match known(asked.propagation, format_args!("mount on {target}: propagation"))? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::Slave,
        cri::MountPropagation::PropagationBidirectional => Propagation::Shared,
    };
    if asked.recursive_read_only && (!asked.readonly || propagation != Propagation::Private) {
        return Err(Error::invalid(format!(
            "mount on {target}: recursive_read_only needs readonly and private propagation"
        )));
    }
    check_propagation(&source, propagation)?;
    let attrs = MountAttrs {
        readonly: asked.readonly,
        recursive_readonly: asked.recursive_read_only,
        ids: userns::of_mount(asked)?,
        ..ATTRS
    };
    let mut mount = bind(&target, &source, attrs);
    if let MountKind::Bind { propagation: p, .. } = &mut mount.kind {
        *p = propagation;
    }
    Ok(mount)
}

/// A path inside the container, absolute and without `.` and `..`; a relative one is taken from the root.
fn absolute(path: &str) -> Result<String> {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    match clean.to_str() {
        Some(text) if text != "/" && !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!("mount on {path:?}: must be a path below the container's root"))),
    }
}

/// The host's path with its symlinks followed, as a directory made anew if nothing is there: what other runtimes do,
/// and what hostPath volumes without a type rely on.
fn host_source(path: &str) -> Result<PathBuf> {
    let bad = |what: &str, e: &dyn std::fmt::Display| {
        Error::precondition(format!("host path {path} of a mount {what}: {e}; check the volume"))
    };
    match std::fs::metadata(path) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(|e| bad("does not exist and cannot be made", &e))?;
        }
        Err(e) => return Err(bad("cannot be reached", &e)),
    }
    Ok(PathBuf::from(path))
}

/// Whether the mount that holds a path propagates as a bind mount of it needs.
///
/// # Errors
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) if it does not.
pub(crate) fn check_propagation(source: &Path, wanted: Propagation) -> Result<()> {
    let enough = match wanted {
        Propagation::Private => return Ok(()),
        Propagation::Slave => [Sharing::Shared, Sharing::Slave].contains(&sharing(source)?),
        Propagation::Shared => sharing(source)? == Sharing::Shared,
    };
    if enough {
        return Ok(());
    }
    let kind = if wanted == Propagation::Shared { "shared" } else { "shared or slave" };
    Err(Error::precondition(format!(
        "path {} is not on a {kind} mount, which its mount propagation needs; make it one with mount --make-rshared",
        source.display()
    )))
}

/// `target[:options]`, as Docker's `--tmpfs`.
fn tmpfs(text: &str) -> Result<Mount> {
    let (target, list) = text.split_once(':').unwrap_or((text, ""));
    let mut attrs = MountAttrs { nosuid: true, nodev: true, noexec: true, ..ATTRS };
    let mut options = Vec::new();
    for option in list.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            None => match option {
                "ro" => attrs.readonly = true,
                "rw" => attrs.readonly = false,
                "exec" => attrs.noexec = false,
                "noexec" => attrs.noexec = true,
                "suid" => attrs.nosuid = false,
                "nosuid" => attrs.nosuid = true,
                "dev" => attrs.nodev = false,
                "nodev" => attrs.nodev = true,
                other => return Err(Error::invalid(format!("tmpfs {target}: unknown option {other:?}"))),
            },
            Some((key @ ("size" | "mode" | "uid" | "gid" | "nr_inodes"), value)) => {
                options.push((key.to_owned(), Some(value.to_owned())));
            }
            Some((key, _)) => return Err(Error::invalid(format!("tmpfs {target}: unknown option {key:?}"))),
        }
    }
    if !options.iter().any(|(k, _)| k == "mode") {
        options.push(("mode".into(), Some("1777".into())));
    }
    Ok(Mount { target: absolute(target)?, kind: MountKind::Fs { fstype: "tmpfs".into(), options }, attrs })
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
