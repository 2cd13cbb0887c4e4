//! What the kubelet writes outside of its own directory.

use crate::Result;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

/// Sysctls that the kubelet sets, and what to: a copy that says so already stays as it is.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Mounts of this process's mount namespace over what is the machine's: sysctls, and directories that no setting moves
/// (`/var/lib/kubelet/device-plugins`, `/var/log/containers`). Dropping takes them away.
#[derive(Debug)]
pub(super) struct Cover(Vec<PathBuf>);

impl Cover {
    /// With copies below `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let mut cover = Self(Vec::new());
        let sysctls = dir.join("sysctls");
        std::fs::create_dir_all(&sysctls)?;
        for (name, value) in SYSCTLS {
            let copy = sysctls.join(name.replace('/', "."));
            std::fs::write(&copy, format!("{value}\n"))?;
            cover.mount(&copy, &Path::new("/proc/sys").join(name), None, MsFlags::MS_BIND, "")?;
        }
        // A proc with covers is none that the kernel would let a user namespace see again: mount_namespaces(7).
        let whole = dir.join("proc");
        std::fs::create_dir_all(&whole)?;
        cover.mount("proc".as_ref(), &whole, Some("proc"), MsFlags::empty(), "")?;
        for covered in ["/var/lib", "/var/log"] {
            let at = dir.join(covered.replace('/', "_"));
            let (upper, work) = (at.join("upper"), at.join("work"));
            std::fs::create_dir_all(&upper)?;
            std::fs::create_dir_all(&work)?;
            let options =
                format!("lowerdir={covered},upperdir={},workdir={}", upper.display(), work.display());
            cover.mount("overlay".as_ref(), covered.as_ref(), Some("overlay"), MsFlags::empty(), &options)?;
        }
        Ok(cover)
    }

    fn mount(
        &mut self,
        from: &Path,
        to: &Path,
        kind: Option<&str>,
        flags: MsFlags,
        options: &str,
    ) -> Result<()> {
        mount(Some(from), to, kind, flags, Some(options))
            .map_err(|e| format!("{} over {}: {e}", from.display(), to.display()))?;
        self.0.push(to.into());
        Ok(())
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}
