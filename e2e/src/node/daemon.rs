//! Starting, stopping and killing a node's daemon.

use super::{Node, cgroups, leaks, lock, process};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

impl Node {
    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn launch(&self) {
        self.launch_with(&[]);
    }

    /// The same with further variables in the daemon's environment.
    #[track_caller]
    pub fn launch_with(&self, variables: &[(&str, &str)]) {
        self.start_daemon(&mut || (), variables);
        self.wait_for_daemon();
    }

    /// The same with something done in the thread that starts it: what that changes about the thread is the daemon's too.
    #[track_caller]
    pub fn launch_from(&self, prepare: &mut (dyn FnMut() + Send)) {
        self.start_daemon(prepare, &[]);
        self.wait_for_daemon();
    }

    #[track_caller]
    fn wait_for_daemon(&self) {
        crate::eventually(20, "stratad answers", || {
            if let Some(status) = self.ended() {
                panic!("stratad has ended: {status}");
            }
            self.version().map_err(|e| e.to_string())
        });
    }

    /// Starts the daemon, and what it starts, on a kernel that refuses some calls: a seccomp profile in JSON. It may end at
    /// once: waits until it has, or answers, and says whether it answers.
    #[track_caller]
    pub fn launch_refused(&self, profile: &serde_json::Value) -> bool {
        use strata_oci::seccomp::{Arch, Profile, compile};
        let profile = Profile::parse(profile.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let arch = Arch::native().unwrap_or_else(|| panic!("no seccomp compiler for this architecture"));
        let filter = compile(&profile, arch, 0, (5, 0)).unwrap_or_else(|e| panic!("{e}"));
        // A filter is its thread's, which ends with this, and that of what the thread starts.
        let refuse = &mut || strata_sys::seccomp::load(&filter, 0).unwrap_or_else(|e| panic!("{e}"));
        self.start_daemon(refuse, &[]);
        crate::eventually(20, "stratad answers or ends", || match self.ended() {
            Some(_) => Ok(false),
            None => self.version().map(|_| true).map_err(|e| e.to_string()),
        })
    }

    /// How the daemon has ended, if it has.
    fn ended(&self) -> Option<std::process::ExitStatus> {
        lock(&self.daemon).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    #[track_caller]
    fn start_daemon(&self, prepare: &mut (dyn FnMut() + Send), variables: &[(&str, &str)]) {
        let log = || {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.dir("stratad.log"))
                .unwrap_or_else(|e| panic!("stratad.log: {e}"))
        };
        let mut command = Command::new(&self.programs.stratad);
        command.arg("--config").arg(self.dir("config.toml"));
        for (flag, below) in [("--root", "root"), ("--state", "state"), ("--socket", "stratad.sock")] {
            command.arg(flag).arg(self.dir(below));
        }
        command.stdin(Stdio::null()).stdout(log()).stderr(log()).env("RUST_BACKTRACE", "1");
        command.envs(variables.iter().copied());
        let spawn = || {
            prepare();
            command.spawn()
        };
        let child = self.netns.run(spawn).unwrap_or_else(|e| panic!("stratad: {e}"));
        *lock(&self.daemon) = Some(child);
    }

    /// The daemon's process ID; 0 if none runs.
    pub fn pid(&self) -> i32 {
        lock(&self.daemon).as_ref().map_or(0, |child| i32::try_from(child.id()).unwrap_or(0))
    }

    /// `kill -9` of the daemon, if it runs.
    pub fn kill9(&self) {
        if let Some(mut child) = lock(&self.daemon).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, upon which it must end well.
    #[track_caller]
    pub fn stop(&self) {
        let Some(mut child) = lock(&self.daemon).take() else { return };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let status = crate::eventually(20, "stratad ends on SIGTERM", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(status.success(), "stratad ended with {status} on SIGTERM");
    }

    /// A new daemon with another configuration file, made from what there was.
    #[track_caller]
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        self.reconfigure_with(change, &[]);
    }

    /// The same with further variables in the daemon's environment.
    #[track_caller]
    pub fn reconfigure_with(&self, change: impl FnOnce(String) -> String, variables: &[(&str, &str)]) {
        self.stop();
        let file = self.dir("config.toml");
        let changed = std::fs::read_to_string(&file).and_then(|text| std::fs::write(&file, change(text)));
        changed.unwrap_or_else(|e| panic!("config.toml: {e}"));
        self.launch_with(variables);
    }

    /// `kill -9`, and a new daemon.
    #[track_caller]
    pub fn crash(&self) {
        self.kill9();
        self.launch();
    }

    /// What a power cut leaves: no process, no mount, no cgroup, an empty state directory, and another boot ID.
    #[track_caller]
    pub fn reboot(&self) {
        self.kill9();
        for (pid, line) in process::naming(&self.dir("state")) {
            assert!(!line.contains("registry"), "{line}");
            process::kill(pid);
        }
        cgroups::kill(&self.cgroup);
        for below in ["root", "state", "netns"] {
            for mount in leaks::mounts(&self.dir(below)) {
                let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        cgroups::remove(&self.cgroup);
        for below in ["state", "netns"] {
            let _ = std::fs::remove_dir_all(self.dir(below));
            std::fs::create_dir_all(self.dir(below)).unwrap_or_else(|e| panic!("{below}: {e}"));
        }
        let _ = self.run("ip", &["link", "delete", "e2e0"]);
        let _ = self.run("nft", &["flush", "ruleset"]);
        static BOOTS: AtomicU32 = AtomicU32::new(2);
        self.set_boot_id(&format!("boot {}", BOOTS.fetch_add(1, Ordering::Relaxed)));
        self.launch();
    }

    pub(super) fn set_boot_id(&self, text: &str) {
        std::fs::write(self.dir("boot_id"), format!("{text}\n")).unwrap_or_else(|e| panic!("boot_id: {e}"));
    }
}
