//! Where the files are written, and that nothing of it stays.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Scratch {
    made: Cell<u32>,
    root: PathBuf,
    mounted: bool,
    _dir: tempfile::TempDir,
}

/// A directory that goes away with this.
pub(crate) struct Dir(PathBuf);

impl Scratch {
    pub(crate) fn make() -> Self {
        let dir = match std::env::var_os("STRATA_BENCH_DIR") {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        let (root, image) = (dir.path().join("root"), dir.path().join("image"));
        std::fs::create_dir(&root).unwrap();
        let mounted = std::env::var_os("STRATA_BENCH_DIR").is_none()
            && rustix::process::geteuid().is_root()
            && mount(&image, &root);
        let kind = if mounted { "a fresh ext4, mounted by a loop device" } else { "as it is there" };
        println!("writing to {}: {kind}", root.display());
        Self { made: Cell::new(0), root, mounted, _dir: dir }
    }

    pub(crate) fn dir(&self) -> Dir {
        self.made.set(self.made.get() + 1);
        let dir = self.root.join(self.made.get().to_string());
        std::fs::create_dir(&dir).unwrap();
        Dir(dir)
    }
}

fn mount(image: &Path, at: &Path) -> bool {
    let file = std::fs::File::create(image).unwrap();
    file.set_len(8 << 30).unwrap();
    let run = |program: &str, args: &[&str]| {
        Command::new(program).args(args).arg(image).output().is_ok_and(|out| out.status.success())
    };
    // A disk's journal: what is measured is not the waiting for room in that of a small device.
    let like_a_disk = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    run("mkfs.ext4", &["-q", "-F", "-J", "size=1024", "-E", like_a_disk]) && {
        // Past the page cache of the file's own file system, where that can be: a disk has no second one.
        let device = attach(image, "--direct-io=on").or_else(|| attach(image, "--direct-io=off"));
        device.is_some_and(|device| {
            let mount = Command::new("mount").arg(device.trim()).arg(at).output();
            // It goes with the mount.
            let _ = Command::new("losetup").args(["--detach", device.trim()]).output();
            mount.is_ok_and(|out| out.status.success())
        })
    }
}

fn attach(image: &Path, direct: &str) -> Option<String> {
    let done = Command::new("losetup").args(["--find", "--show", direct]).arg(image).output().ok()?;
    done.status.success().then(|| String::from_utf8(done.stdout).ok())?
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(&self.root).output();
        }
    }
}

impl Dir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // What the next one measures is not the writing back of this one.
        if let Some(parent) = self.0.parent()
            && let Ok(dir) = std::fs::File::open(parent)
        {
            let _ = rustix::fs::syncfs(dir);
        }
    }
}
