//! A daemon of one's own, with everything it needs, and the check that nothing of it stays.

pub mod cgroups;
pub mod cni;
mod cri;
mod daemon;
mod ending;
pub mod leaks;
pub mod netns;
pub mod place;
pub mod process;
pub mod registry;
pub mod steps;

pub use cri::{LogLine, container, pod, security};
pub use ending::remove_nodes_on_signals;

use crate::Result;
use crate::command::{Output, limited, run};
use crate::images::Registry;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A node: stratad, a registry, and a network namespace, a directory and cgroups of its own.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    cgroup: String,
    programs: place::Programs,
    netns: netns::Netns,
    registry: Mutex<Option<registry::Server>>,
    daemon: Mutex<Option<std::process::Child>>,
    runtime: tokio::runtime::Runtime,
}

/// Runs a test on a node of its own; afterwards nothing of it may be left.
///
/// On a machine that cannot run a node it prints why and returns. When the test panics, the daemon's and the shims'
/// logs are printed.
#[track_caller]
pub fn test(f: impl FnOnce(&Node)) {
    test_with("", f);
}

/// The same with further lines for the configuration file: keys of `[registry]`, then whole tables that [`Node`] does not
/// write itself.
#[track_caller]
pub fn test_with(config: &str, f: impl FnOnce(&Node)) {
    if let Some(why) = place::lacking() {
        crate::skip(why);
        return;
    }
    let node = Node::start(config).unwrap_or_else(|e| panic!("{e}"));
    let done = catch_unwind(AssertUnwindSafe(|| {
        f(&node);
        node.finish();
    }));
    if let Err(panic) = done {
        node.print_logs();
        resume_unwind(panic);
    }
}

impl Node {
    fn start(config: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let programs = place::Programs::find()?;
        let id = format!("strata-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = place::base()?.join(&id);
        ending::begun(&dir, &format!("/{id}"));
        std::fs::create_dir(&dir)?;
        let node = Self {
            dir,
            cgroup: format!("/{id}"),
            programs,
            netns: netns::Netns::new()?,
            registry: Mutex::new(None),
            daemon: Mutex::new(None),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?,
        };
        let copied =
            Command::new("cp").arg("-a").arg(registry::stored()?).arg(node.dir("registry")).status()?;
        if !copied.success() {
            return Err("the registry's storage could not be copied".into());
        }
        *lock(&node.registry) = Some(registry::Server::start(&node.netns, &node.dir, &node.dir("registry"))?);
        node.configure(config)?;
        node.launch();
        Ok(node)
    }

    fn configure(&self, more: &str) -> Result<()> {
        let certs = self.dir(&format!("certs.d/{}", registry::HOST));
        std::fs::create_dir_all(&certs)?;
        std::fs::write(certs.join("hosts.toml"), format!("server = \"http://{}\"\n", registry::HOST))?;
        for name in ["netns", "logs", "seccomp", "cdi"] {
            std::fs::create_dir_all(self.dir(name))?;
        }
        self.set_boot_id("first boot");
        let dir = self.dir.display();
        let text = format!(
            "[log]\nlevel = \"info\"\n[network]\ncri = \"builtin\"\nbridge = \"e2e0\"\nsubnet = \"10.88.0.0/24\"\nnetns_dir = \"{dir}/netns\"\n\
             [cgroup]\nroot = \"{}\"\n[runtime]\nboot_id = \"{dir}/boot_id\"\nseccomp_dir = \"{dir}/seccomp\"\ncdi_spec_dirs = [\"{dir}/cdi\"]\n\
             [registry]\nconfig_path = \"{dir}/certs.d\"\n{more}",
            self.cgroup
        );
        Ok(std::fs::write(self.dir("config.toml"), text)?)
    }

    /// A path below the node's own directory: `root`, `state`, `logs`, `netns`, `stratad.log`…
    pub fn dir(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// The node's cgroup, relative to each hierarchy's root.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.dir("stratad.sock")
    }

    /// `e2e/<name>` in the node's registry.
    pub fn image(&self, name: &str) -> String {
        format!("{}/e2e/{name}:latest", registry::HOST)
    }

    /// Pushes to the node's registry, from inside its network namespace.
    #[track_caller]
    pub fn push(&self, f: impl AsyncFnOnce(Registry) -> Result<()> + Send) {
        registry::push(&self.netns, f).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Starts another registry on the same storage at another `host:port`; see [`registry::Server::start_at`].
    #[track_caller]
    pub fn another_registry(&self, host: &str, more: &str) -> registry::Server {
        registry::Server::start_at(&self.netns, &self.dir, &self.dir("registry"), host, more)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The node's network namespace.
    pub fn netns(&self) -> &netns::Netns {
        &self.netns
    }

    /// Writes `certs.d/<registry>/<name>`.
    #[track_caller]
    pub fn set_hosts(&self, registry: &str, name: &str, text: &str) {
        let dir = self.dir("certs.d").join(registry);
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(name), text));
        written.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }

    /// Ends the registry.
    pub fn stop_registry(&self) {
        lock(&self.registry).take();
    }

    /// A program in the node's network namespace.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> Output {
        let mut command = limited(program.as_ref(), 90);
        command.args(args);
        self.run_command(&mut command)
    }

    #[track_caller]
    fn run_command(&self, command: &mut Command) -> Output {
        self.netns.run(|| run(command))
    }

    /// `crictl …`, as a person would type it.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn crictl(&self, args: &[&str]) -> Output {
        self.run_command(self.crictl_command().args(args))
    }

    /// The command for `crictl`, to be started by the caller.
    pub fn crictl_command(&self) -> Command {
        let mut command = limited(&self.programs.crictl, 90);
        let endpoint = format!("unix://{}", self.socket().display());
        // A configuration file of the machine's must not matter.
        command.env("CRI_CONFIG_FILE", self.dir("crictl.yaml")).args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
            "--timeout",
            "60s",
        ]);
        let _ = std::fs::write(self.dir("crictl.yaml"), "");
        command
    }

    /// `strata …`, as a person would type it.
    #[must_use = "say .ok() or .fails()"]
    #[track_caller]
    pub fn strata(&self, args: &[&str]) -> Output {
        self.run_command(self.strata_command().args(args))
    }

    /// stratad's program, for what it does while it does not serve.
    pub fn stratad(&self) -> &Path {
        &self.programs.stratad
    }

    /// The command for `strata`, to be started by the caller (in the node's network namespace: [`Node::within`]).
    pub fn strata_command(&self) -> Command {
        let mut command = limited(&self.programs.strata, 90);
        command.env("STRATA_SOCKET", self.socket());
        command
    }

    /// `strata …` without a time limit around it, for a terminal.
    pub fn strata_plain(&self) -> Command {
        let mut command = Command::new(&self.programs.strata);
        command.env("STRATA_SOCKET", self.socket());
        command
    }

    /// The process of a pod's shim.
    #[track_caller]
    pub fn shim(&self, pod_id: &str) -> i32 {
        let state = self.dir("state");
        let pod = state.join("pods").join(pod_id).display().to_string();
        let shims: Vec<i32> = process::naming(&state)
            .into_iter()
            .filter(|(pid, line)| line.contains(&pod) && *pid != self.pid())
            .map(|(pid, _)| pid)
            .collect();
        let [shim] = shims[..] else { panic!("shims of pod {pod_id}: {shims:?}") };
        shim
    }

    /// Runs something in the node's network namespace.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f)
    }

    /// Fetches `/index.html` of `<ip>:<port>` from inside the node's network namespace; an error if nobody answers.
    pub fn fetch(&self, address: &str) -> std::result::Result<String, String> {
        use std::io::{Read as _, Write as _};
        let fetched = self.within(|| -> std::io::Result<String> {
            let address = address.parse().map_err(std::io::Error::other)?;
            let mut stream = std::net::TcpStream::connect_timeout(&address, crate::patience(20))?;
            stream.set_read_timeout(Some(crate::patience(20)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = fetched.map_err(|e| format!("{address}: {e}"))?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(answer)
    }

    /// One line for each thing that is there because of the node: to be compared before and after a call.
    pub fn traces(&self) -> std::collections::BTreeSet<String> {
        leaks::find(&self.dir, &self.cgroup).into_iter().collect()
    }

    /// The same once shims are where they stay: that of a pod which was removed may still be ending, and where the unified hierarchy is
    /// the only one, a new one enters its cgroup a second after its start.
    #[track_caller]
    pub fn settled_traces(&self) -> std::collections::BTreeSet<String> {
        let pods = self.dir("state/pods");
        let own = format!("{}/shims", self.cgroup);
        crate::eventually(30, "shims are where they stay", || {
            let there = leaks::names(&pods);
            let of_nobody = |line: &str| !there.iter().any(|id| line.contains(id.as_str()));
            if let Some(ending) = process::naming(&pods).iter().find(|(_, line)| of_nobody(line)) {
                return Err(format!("{ending:?}"));
            }
            if let Some(pid) = cgroups::processes(&self.cgroup).into_iter().find(|pid| !process::runs(*pid)) {
                return Err(format!("process {pid} has ended and is in a cgroup"));
            }
            for id in &there {
                let read = |path: PathBuf| {
                    std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
                };
                let shim = read(pods.join(id).join("shim.pid"))?;
                let groups = read(Path::new("/proc").join(shim.trim()).join("cgroup"))?;
                if !groups.lines().any(|group| group.ends_with(&own)) {
                    return Err(groups);
                }
            }
            Ok(())
        });
        self.traces()
    }

    /// What is there because of the node must be the same as before; what ends by itself may take its time.
    #[track_caller]
    pub fn assert_traces(&self, before: &std::collections::BTreeSet<String>) {
        crate::eventually(20, "nothing new stays", || {
            let now = self.traces();
            let differ: Vec<&String> = now.symmetric_difference(before).collect();
            if differ.is_empty() { Ok(()) } else { Err(format!("{differ:#?}")) }
        });
    }

    /// Removes everything, stops the daemon, and complains about whatever is left.
    #[track_caller]
    fn finish(&self) {
        self.remove_everything();
        // By a thread that comes after everybody else.
        crate::eventually(40, "the store's tmp and trash are empty", || {
            let left = leaks::unfinished(&self.dir);
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        });
        self.stop();
        self.stop_registry();
        crate::eventually(10, "nothing is left behind", || {
            let left = leaks::find(&self.dir, &self.cgroup);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    fn print_logs(&self) {
        let tail = |path: &Path| {
            let text = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            println!("--- {}", path.display());
            for line in lines.iter().skip(lines.len().saturating_sub(150)) {
                println!("{line}");
            }
        };
        tail(&self.dir("stratad.log"));
        for pod in leaks::names(&self.dir("state/pods")) {
            tail(&self.dir(&format!("state/pods/{pod}/shim.log")));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
        self.stop_registry();
        leaks::wipe(&self.dir, &self.cgroup);
        ending::over(&self.dir);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
