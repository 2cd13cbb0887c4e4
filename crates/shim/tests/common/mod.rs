//! A pod for tests: a real shim, real cgroups, a real root file system of busybox, and nothing left when it is dropped.

// Every test file is a crate of its own and uses a part of this.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod client;
pub mod plans;

pub use client::Client;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use strata_cgroup::{Group, Hierarchy};
use strata_sys::clone::CloneFlags;
use strata_sys::ns::{self, NsKind};
use strata_sys::userns::{self, Range};
use strata_wire::PodPlan;
use strata_wire::plan::{IdMap, IdRange, PodNamespaces};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says why a test does nothing here. Where everything is there that any test needs, `TEST_SKIPS=fail` says so: a test that would
/// do nothing fails.
#[track_caller]
pub fn skip(why: &str) {
    let refused = std::env::var_os("TEST_SKIPS").is_some_and(|value| value == "fail");
    assert!(!refused, "skipped, where no test is to be: {why}");
    eprintln!("skipped: {why}");
}

/// A pod with its shim.
pub struct Pod {
    pub id: String,
    pub top: PathBuf,
    pub shim_pid: i32,
    /// The private subtree that everything of this pod is in.
    pub cgroups: Group,
    mounted: bool,
    _tmp: tempfile::TempDir,
}

/// What differs from one test's pod to another's.
#[derive(Clone, Copy, Default)]
pub struct PodOptions {
    pub shared_pid: bool,
    /// A user namespace with this map, which owns the others.
    pub ids: Option<IdMap>,
}

impl Pod {
    /// A pod with network, IPC and UTS namespaces of its own; `None` without root.
    pub fn new() -> Option<Self> {
        Self::with(PodOptions::default())
    }

    pub fn with(options: PodOptions) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            skip("needs root and /bin/busybox");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmp = tempfile::Builder::new().prefix("strata-shim-").tempdir().unwrap();
        let top = tmp.path().to_owned();
        let name = format!("/strata-shim-test-{}-{number}", std::process::id());
        let cgroups = Hierarchy::detect().unwrap().group(&name).unwrap();
        let mut pod =
            Self { id: format!("pod{number}"), top, shim_pid: 0, cgroups, mounted: false, _tmp: tmp };
        pod.mount_if_on_overlay();
        pod.make_root_file_system();
        pod.start_shim(options);
        Some(pod)
    }

    /// An overlay's upper directory cannot be on an overlay, which is what tests in a container run on.
    fn mount_if_on_overlay(&mut self) {
        const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
        let on = rustix::fs::statfs(&self.top).unwrap().f_type;
        if on == OVERLAYFS_SUPER_MAGIC {
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", &self.top, "tmpfs", flags, None).unwrap();
            self.mounted = true;
        }
    }

    fn make_root_file_system(&self) {
        let bin = self.lower().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        std::fs::create_dir(self.lower().join("etc")).unwrap();
        std::fs::write(self.lower().join("etc/from-image"), "image\n").unwrap();
        std::fs::write(self.lower().join("etc/not-a-program"), "text\n").unwrap();
    }

    pub fn lower(&self) -> PathBuf {
        self.top.join("layer")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.top.join("pods").join(&self.id)
    }

    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("shim.sock")
    }

    fn start_shim(&mut self, options: PodOptions) {
        let dir = self.state_dir();
        std::fs::create_dir_all(&dir).unwrap();
        let group = |name: &str| {
            let group = self.cgroups.child(name).unwrap();
            group.create().unwrap();
            group.name()
        };
        let plan = PodPlan {
            id: self.id.clone(),
            state_dir: dir.to_str().unwrap().to_owned(),
            shim_cgroup: group("shims"),
            namespaces: pin_namespaces(&dir, &self.id, options.ids),
            ids: options.ids,
            shared_pid: options.shared_pid,
            pause_cgroup: if options.shared_pid { group("pause") } else { String::new() },
            oom_score_adj: Some(-998),
        };
        std::fs::write(dir.join("plan.json"), serde_json::to_vec(&plan).unwrap()).unwrap();
        self.shim_pid = spawn(&dir);
    }

    /// What the shim has written to its log: nothing, if all is well.
    pub fn shim_log(&self) -> String {
        std::fs::read_to_string(self.state_dir().join("shim.log")).unwrap_or_default()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// Whether the shim still runs.
    pub fn shim_alive(&self) -> bool {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let pid = Pid::from_raw(self.shim_pid).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }

    /// Whether this node can limit something; says so if it cannot.
    pub fn has(&self, controller: &str) -> bool {
        let has = self.cgroups.hierarchy().controllers().iter().any(|c| c == controller);
        if !has {
            eprintln!("not checked: no {controller} controller");
        }
        has
    }

    /// The container's group, made.
    pub fn group(&self, name: &str) -> Group {
        let group = self.cgroups.child(name).unwrap();
        group.create().unwrap();
        group
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let log = self.shim_log();
        if !log.is_empty() {
            eprintln!("shim.log: {log}");
        }
        // The shim first, lest it report on what is killed next; then all that it left behind.
        if self.shim_pid > 0 {
            let _ = strata_sys::process::kill(self.shim_pid, 9);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.shim_pid), None);
        }
        if let Err(e) = self.cgroups.kill().and_then(|()| self.cgroups.remove()) {
            eprintln!("clean up {}: {e}", self.cgroups.name());
        }
        for name in ["net", "ipc", "uts", "user"] {
            let _ = ns::unpin(&self.state_dir().join(name));
        }
        if self.mounted {
            let _ = strata_sys::mount::unmount(&self.top);
        }
    }
}

/// New namespaces, kept by bind mounts, with the pod's ID for a host name.
fn pin_namespaces(dir: &Path, hostname: &str, ids: Option<IdMap>) -> PodNamespaces {
    let (at, hostname) = (dir.to_owned(), hostname.to_owned());
    std::thread::spawn(move || {
        let kinds = [NsKind::Net, NsKind::Ipc, NsKind::Uts];
        if let Some(ids) = ids {
            let range = |r: IdRange| [Range { inside: r.inside, outside: r.outside, length: r.length }];
            let others = CloneFlags::NEWNET | CloneFlags::NEWIPC | CloneFlags::NEWUTS;
            let holder = userns::hold(&range(ids.uids), &range(ids.gids), others).unwrap();
            kinds.iter().for_each(|kind| ns::setns(holder.open(*kind).unwrap(), *kind).unwrap());
            holder.pin(NsKind::User, &at.join("user")).unwrap();
        } else {
            ns::unshare(&kinds).unwrap();
        }
        nix::unistd::sethostname(hostname).unwrap();
        kinds.iter().for_each(|kind| ns::pin(*kind, &at.join(kind.name())).unwrap());
    })
    .join()
    .unwrap();
    let path = |kind: NsKind| Some(dir.join(kind.name()).to_str().unwrap().to_owned());
    PodNamespaces {
        net: path(NsKind::Net),
        ipc: path(NsKind::Ipc),
        uts: path(NsKind::Uts),
        user: path(NsKind::User).filter(|_| ids.is_some()),
    }
}

/// Starts a shim as stratad does: the listening socket is descriptor 3.
fn spawn(dir: &Path) -> i32 {
    let listener = std::os::unix::net::UnixListener::bind(dir.join("shim.sock")).unwrap();
    let log = std::fs::File::create(dir.join("shim.log")).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let held: Vec<OwnedFd> = [null.as_fd(), log.as_fd(), listener.as_fd()]
        .into_iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 4).unwrap())
        .collect();
    let mut actions = PosixSpawnFileActions::init().unwrap();
    for (fd, target) in [(0, 0), (0, 1), (1, 2), (2, 3)] {
        actions.add_dup2(held[fd].as_raw_fd(), target).unwrap();
    }
    let mut attr = PosixSpawnAttr::init().unwrap();
    attr.set_sigmask(&nix::sys::signal::SigSet::empty()).unwrap();
    attr.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK).unwrap();
    let plan = CString::new(dir.join("plan.json").to_str().unwrap()).unwrap();
    let args = [c"strata-shim".to_owned(), c"--plan".to_owned(), plan];
    // A static release build can be named instead, to measure it.
    let binary =
        std::env::var("STRATA_SHIM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_strata-shim").to_owned());
    nix::spawn::posix_spawn(Path::new(&binary), &actions, &attr, &args, &[c"PATH=/usr/bin:/bin".to_owned()])
        .unwrap()
        .as_raw()
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const APPLETS: &str = "sh cat echo sleep id true false env ls mkdir touch stty printf hostname mount umount head dd \
    readlink stat tail yes kill ps nproc seq tty setsid wc grep test unshare nc chmod tr sync df";
