//! A program of the harness that is told to end leaves nothing of its node.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use strata_e2e::node::{cgroups, container, leaks, place, pod, remove_nodes_on_signals, test};

/// Where the program says what its node is; set only for it.
const FILE: &str = "STRATA_ENDING_TEST_FILE";

#[test]
fn the_program_that_is_told_to_end() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    remove_nodes_on_signals().unwrap();
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "endless");
        let id = node.run_pod(&config);
        node.run_container(&id, &config, &container(node, "endless", "exec sleep 100000"));
        std::fs::write(file.with_extension("new"), format!("{}\n{}", node.dir("").display(), node.cgroup()))
            .unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
}

/// Told to end again by whoever fails before it has ended.
struct Program(Child);

impl Program {
    fn tell(&self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.tell();
        }
    }
}

#[test]
fn a_node_goes_with_a_program_that_is_told_to_end() {
    if let Some(why) = place::lacking() {
        return strata_e2e::skip(why);
    }
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("node");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ending::the_program_that_is_told_to_end", "--nocapture"])
        .env(FILE, &file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut program = Program(child);
    let text = strata_e2e::eventually(60, "a container runs", || {
        std::fs::read_to_string(&file).map_err(|e| e.to_string())
    });
    let (dir, cgroup) = text.split_once('\n').unwrap();
    assert!(!leaks::find(Path::new(dir), cgroup).is_empty());
    program.tell();
    let status = strata_e2e::eventually(60, "it ends", || match program.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32), "{status}");
    assert_eq!(leaks::find(Path::new(dir), cgroup), Vec::<String>::new());
    assert!(!Path::new(dir).exists() && cgroups::below(cgroup).is_empty());
}
