//! Overlays of layers (Documentation/filesystems/overlayfs.rst).

use super::{Attrs, FsContext};
use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An overlay of read-only layers and, perhaps, a writable one.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a, P> {
    /// Layers, topmost first. overlayfs needs two of them where there is no upper.
    pub lowers: &'a [P],
    /// The writable layer and overlayfs' work directory.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Never synced, never to be mounted again (overlayfs.rst, "Volatile mount"; Linux 5.10).
    pub volatile: bool,
    /// The SELinux label of everything that it shows (mount(8), `context=`).
    pub label: Option<&'a str>,
}

impl<P: AsRef<Path>> Overlay<'_, P> {
    /// Mounts it, detached.
    ///
    /// redirect_dir, metacopy and index are off: a diff then reads the writable layer alone, and a layer's own
    /// `trusted.overlay.redirect` is not followed.
    pub fn mount(&self, attrs: Attrs) -> Result<OwnedFd> {
        let fs = FsContext::new("overlay")?;
        let _held = self.set_lowers(&fs)?;
        self.create(fs, attrs)
    }

    fn create(&self, fs: FsContext, attrs: Attrs) -> Result<OwnedFd> {
        if let Some((upper, work)) = self.upper {
            fs.set_string("upperdir", upper)?;
            fs.set_string("workdir", work)?;
        }
        fs.set_string("redirect_dir", "nofollow")?;
        fs.set_string("metacopy", "off")?;
        fs.set_string("index", "off")?;
        if self.volatile && self.upper.is_some() {
            fs.set_flag("volatile")?;
        }
        fs.set_label(self.label)?;
        fs.mount(attrs)
    }

    /// `lowerdir+` (Linux 6.5) takes any number of layers, the one string before it few. What it returns has to live until the
    /// overlay is made.
    fn set_lowers(&self, fs: &FsContext) -> Result<Vec<OwnedFd>> {
        for (n, lower) in self.lowers.iter().enumerate() {
            match fs.set_string("lowerdir+", lower.as_ref()) {
                Err(e) if n == 0 && e.errno == Errno::INVAL => return self.set_lowerdir(fs),
                other => other?,
            }
        }
        Ok(Vec::new())
    }

    /// Paths that are too long together are named by descriptors instead: some 13 layers.
    pub(super) fn set_lowerdir(&self, fs: &FsContext) -> Result<Vec<OwnedFd>> {
        use rustix::fs::{Mode, OFlags};
        let escape = |p: &Path| p.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        let mut joined = self.lowers.iter().map(|p| escape(p.as_ref())).collect::<Vec<_>>().join(":");
        let mut held = Vec::new();
        if joined.len() > LONGEST_STRING {
            for lower in self.lowers.iter().map(AsRef::as_ref) {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                held.push(
                    rustix::fs::open(lower, flags, Mode::empty())
                        .call(|| format!("open({lower:?}, O_PATH)"))?,
                );
            }
            let paths: Vec<_> =
                held.iter().map(|fd| crate::path::fd_path(fd).display().to_string()).collect();
            joined = paths.join(":");
        }
        if joined.len() > LONGEST_STRING {
            let what = format!("fsconfig(overlay, SET_STRING, \"lowerdir\") of {} layers", self.lowers.len());
            return Err(Error::new(what, Errno::NAMETOOLONG));
        }
        fs.set_string("lowerdir", joined)?;
        Ok(held)
    }
}

/// The longest string that fsconfig(2) takes.
const LONGEST_STRING: usize = 255;

impl Overlay<'_, PathBuf> {
    /// As [`Self::mount`], with these mounts for layers, topmost first, in place of `lowers`. Before Linux 6.15 they have to be
    /// attached somewhere in this mount namespace; before 6.13 they are named by their links in /proc.
    pub fn mount_over(&self, layers: &[OwnedFd], attrs: Attrs) -> Result<OwnedFd> {
        let fs = FsContext::new("overlay")?;
        for (n, layer) in layers.iter().enumerate() {
            let set = rustix::mount::fsconfig_set_fd(fs.fd.as_fd(), "lowerdir+", layer);
            // Before 6.13 descriptors of mounts, which are O_PATH, are refused before overlayfs is asked.
            if n == 0 && matches!(set, Err(Errno::INVAL | Errno::BADF)) {
                let lowers: Vec<PathBuf> = layers.iter().map(crate::path::fd_path).collect();
                return Overlay { lowers: &lowers, ..*self }.mount(attrs);
            }
            set.call(|| format!("fsconfig(overlay, SET_FD, \"lowerdir+\") of layer {n}"))
                .map_err(|e| fs.explain(e))?;
        }
        self.create(fs, attrs)
    }
}
