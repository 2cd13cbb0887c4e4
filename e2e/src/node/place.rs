//! Where things are, and whether this machine can run a node at all.

use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use strata_sys::ns::{self, NsKind};

/// The programs that a node is made of.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub stratad: PathBuf,
    /// The command line.
    pub strata: PathBuf,
    /// Kubernetes' own command line for CRI.
    pub crictl: PathBuf,
}

/// cargo's target directory: the tests run from `<target>/<profile>/deps`, programs from one above.
pub fn target() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| {
            let dir = exe.parent()?;
            let profile = if dir.ends_with("deps") { dir.parent()? } else { dir };
            profile.parent().map(Path::to_path_buf)
        })
        .unwrap_or_else(|| "target".into())
}

impl Programs {
    /// Those of `STRATA_BIN_DIR` and `STRATA_CRICTL`, otherwise what `hack/build` and `hack/deps` made.
    pub fn find() -> Result<Self> {
        let dist = std::env::var_os("STRATA_BIN_DIR").map_or_else(|| target().join("dist"), PathBuf::from);
        let crictl =
            std::env::var_os("STRATA_CRICTL").map_or_else(|| target().join("tools/crictl"), PathBuf::from);
        let programs = Self { stratad: dist.join("stratad"), strata: dist.join("strata"), crictl };
        for (path, by) in [
            (&programs.stratad, "hack/build makes it"),
            (&programs.strata, "hack/build makes it"),
            (&dist.join("strata-shim"), "hack/build makes it"),
            (&programs.crictl, "hack/deps makes it"),
        ] {
            if !path.is_file() {
                return Err(format!("{}: not there; {by}", path.display()).into());
            }
        }
        Ok(programs)
    }
}

/// A directory that overlayfs can use, with a short name: a socket's may have 107 bytes.
pub fn base() -> Result<PathBuf> {
    static BASE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    Ok(BASE.get_or_init(find_base).clone()?)
}

fn find_base() -> std::result::Result<PathBuf, String> {
    let mut refusals = Vec::new();
    let named = std::env::var_os("STRATA_E2E_DIR").map(PathBuf::from);
    for dir in named.into_iter().chain(["/var/tmp", "/tmp", "/dev/shm"].map(PathBuf::from)) {
        match try_overlay(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) => refusals.push(format!("{}: {e}", dir.display())),
        }
    }
    Err(format!("no directory can hold an overlay's upper layer ({})", refusals.join("; ")))
}

fn try_overlay(dir: &Path) -> Result<()> {
    let tmp = tempfile::tempdir_in(dir)?;
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(tmp.path().join(name))?;
    }
    let at = |name: &str| tmp.path().join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    nix::mount::mount(
        Some("overlay"),
        &tmp.path().join("merged"),
        Some("overlay"),
        nix::mount::MsFlags::empty(),
        Some(options.as_str()),
    )?;
    // An overlay over another one mounts and then refuses to be written.
    let written = std::fs::write(tmp.path().join("merged/file"), "x");
    nix::mount::umount(&tmp.path().join("merged"))?;
    Ok(written?)
}

/// Why this machine cannot run a node; none if it can.
pub fn lacking() -> Option<&'static str> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    LACKING
        .get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return Some("needs root".into());
            }
            if let Err(e) = base() {
                return Some(e.to_string());
            }
            let probe = format!("/strata-e2e-probe-{}", std::process::id());
            if let Err(e) = super::cgroups::probe(&probe) {
                return Some(format!("cgroups cannot be made here: {e}"));
            }
            super::netns::Netns::new().err().map(|e| format!("network namespaces cannot be made here: {e}"))
        })
        .as_deref()
}

/// Gives this process, which must not have started threads, IPC and mount namespaces of its own.
pub fn isolate() -> Result<()> {
    ns::unshare(&[NsKind::Ipc, NsKind::Mount])?;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    Ok(nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?)
}
