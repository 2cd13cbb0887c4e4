//! A file system that does not answer: who looks something up in it, or reads its directory, waits in the kernel, where no
//! signal ends it.

use fuser::{
    BackgroundSession, Config, Errno, Filesystem, INodeNo, OpenFlags, ReplyEntry, ReplyOpen, Request,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct State {
    names: Vec<ReplyEntry>,
    directories: Vec<ReplyOpen>,
    /// From now on everybody is refused at once.
    answers: bool,
}

#[derive(Clone, Default)]
struct Silent(Arc<Mutex<State>>);

impl Filesystem for Silent {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        let mut state = self.0.lock().unwrap();
        if state.answers { reply.error(Errno::ENOENT) } else { state.names.push(reply) }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.0.lock().unwrap();
        if state.answers { reply.error(Errno::EIO) } else { state.directories.push(reply) }
    }
}

/// The file system while it is mounted.
pub(crate) struct Hung {
    at: PathBuf,
    asked: Silent,
    _session: BackgroundSession,
}

impl Hung {
    /// Mounts it on a directory that is made; `None` where there is no FUSE.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            strata_e2e::skip("no /dev/fuse");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let asked = Silent::default();
        let session = fuser::spawn_mount(asked.clone(), at, &Config::default()).unwrap();
        Some(Self { at: at.to_owned(), asked, _session: session })
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.asked.0.lock().unwrap();
        state.names.len() + state.directories.len()
    }

    /// Lets everybody go who waits, and nobody wait any more.
    pub(crate) fn answer(&self) {
        let mut state = self.asked.0.lock().unwrap();
        state.answers = true;
        state.names.drain(..).for_each(|reply| reply.error(Errno::ENOENT));
        state.directories.drain(..).for_each(|reply| reply.error(Errno::EIO));
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.answer();
        // Who has just been let go may have it open still.
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}
