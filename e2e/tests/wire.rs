//! Shims that outlive a change of stratad's release: those of older ones, and of ones that stratad does not speak with.
//!
//! Between a real stratad and a real shim stands what changes the greeting: the rest is theirs.

use k8s_cri::v1::ContainerState;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strata_e2e::node::{Node, container, pod, process, test};
use tonic::Code;

/// Stands where a pod's shim listens, and hands on to it what comes, with another greeting, until it is dropped.
struct Between {
    dir: PathBuf,
    over: Arc<AtomicBool>,
}

impl Between {
    fn new(node: &Node, pod_id: &str, hello: Value) -> Self {
        let dir = node.dir("state/pods").join(pod_id);
        std::fs::rename(dir.join("shim.sock"), dir.join("real.sock")).unwrap();
        let listener = short(&dir, "shim.sock", |path| UnixListener::bind(path)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, at) = (over.clone(), dir.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                // The shim may be gone with its pod.
                let _ = relay(client.unwrap(), &at, &hello);
            }
        });
        Self { dir, over }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Whoever is about to connect gets the real one; what waits for the next connection is told that there is none.
        if self.dir.exists() {
            let _last = short(&self.dir, "shim.sock", |path| UnixStream::connect(path));
            std::fs::rename(self.dir.join("real.sock"), self.dir.join("shim.sock")).unwrap();
        }
    }
}

/// A socket's path has room for 108 bytes only.
fn short<T>(dir: &Path, name: &str, f: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let held = std::fs::File::open(dir)?;
    f(&PathBuf::from(format!("/proc/self/fd/{}/{name}", held.as_raw_fd())))
}

/// One connection. Descriptors are not handed on: nothing is executed over it.
fn relay(mut client: UnixStream, dir: &Path, hello: &Value) -> std::io::Result<()> {
    let mut shim = short(dir, "real.sock", |path| UnixStream::connect(path))?;
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut greeting = vec![0; u32::from_le_bytes(length) as usize];
    client.read_exact(&mut greeting)?;
    let mut greeting: Value = serde_json::from_slice(&greeting)?;
    assert!(greeting["body"]["Hello"]["version"].is_u64(), "{greeting}");
    greeting["body"]["Hello"] = hello.clone();
    let greeting = greeting.to_string();
    shim.write_all(&u32::try_from(greeting.len()).unwrap().to_le_bytes())?;
    shim.write_all(greeting.as_bytes())?;
    let (mut back, mut there) = (shim.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut there);
        let _ = there.shutdown(std::net::Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut client, &mut shim);
        let _ = shim.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}

fn counting(node: &Node, name: &str) -> (String, String) {
    let config = pod(node, name);
    let pod_id = node.run_pod(&config);
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";
    let id = node.run_container(&pod_id, &config, &container(node, "c", script));
    (pod_id, id)
}

fn found(node: &Node, id: &str) {
    strata_e2e::eventually(30, "it is found again", || match node.status(id).state() {
        ContainerState::ContainerRunning => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn assert_whole_log(node: &Node, id: &str) {
    let numbers: Vec<usize> = node.log(id).iter().map(|line| line.text.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
}

#[test]
fn a_shim_that_speaks_no_version_of_stratad_s_keeps_its_pod() {
    test(|node| {
        node.pull("busybox");
        let (kept, id) = counting(node, "kept");
        let (given_up, _) = counting(node, "given-up");
        let shim = Pid::from_raw(node.shim(&given_up));
        // As between a stratad that went back to a release long ago and a new shim, with the numbers on the other side.
        let other = json!({ "oldest": 1000, "version": 1001 });
        let between = Between::new(node, &kept, other.clone());
        let _between = Between::new(node, &given_up, other);
        node.crash();
        assert_eq!(node.status(&id).state(), ContainerState::ContainerUnknown);
        let refusals = [
            node.try_exec(&id, "true", 5).map(drop).unwrap_err(),
            node.stop_container(&id, 0).unwrap_err(),
            node.remove_container(&id).unwrap_err(),
        ];
        for refused in refusals {
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            for part in
                ["this shim speaks versions 1 to ", " 1000 to 1001: its pod runs on", "make the pod anew"]
            {
                assert!(refused.message().contains(part), "{refused}");
            }
        }
        let lines = node.log(&id).len();
        strata_e2e::eventually(30, "it runs on", || match node.log(&id).len() {
            more if more > lines => Ok(()),
            same => Err(same.to_string()),
        });
        node.stop_pod(&given_up).unwrap();
        node.remove_pod(&given_up).unwrap();
        strata_e2e::eventually(30, "a shim of a pod that is given up goes too", || {
            if process::runs(shim.as_raw()) { Err("it is there".to_owned()) } else { Ok(()) }
        });
        // As with a stratad that speaks with it again.
        drop(between);
        found(node, &id);
        assert_eq!(node.exec(&id, "echo still here"), "still here\n");
        node.stop_container(&id, 0).unwrap();
        assert_whole_log(node, &id);
    });
}

/// The first protocol's greeting said one version only; newer ones say from which on they speak.
#[test]
fn older_and_newer_greetings_are_answered() {
    test(|node| {
        node.pull("busybox");
        for (name, hello) in [
            ("first", json!({ "version": 1 })),
            ("newer", json!({ "oldest": 1, "version": 1001, "unheard of": true })),
        ] {
            let (pod_id, id) = counting(node, name);
            let between = Between::new(node, &pod_id, hello);
            node.crash();
            found(node, &id);
            node.stop_container(&id, 0).unwrap();
            assert_whole_log(node, &id);
            node.remove_container(&id).unwrap();
            node.stop_pod(&pod_id).unwrap();
            assert_eq!(node.crictl(&["pods", "-q", "--state", "ready"]).ok().text(), "");
            drop(between);
            node.remove_pod(&pod_id).unwrap();
        }
    });
}
