//! What cannot be written: limits are as they were if their record is not, and what a container owes stays owed.

use super::sleeper;
use k8s_cri::v1 as cri;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use std::path::{Path, PathBuf};
use strata_api::cri as newest;
use strata_e2e::command::Output;
use strata_e2e::eventually;
use strata_e2e::node::{Node, cgroups, test};
use tonic::Code;

/// A file or directory that the daemon cannot write to by its path, until this is dropped.
struct ReadOnly<'a>(&'a Node, PathBuf);

impl<'a> ReadOnly<'a> {
    fn new(node: &'a Node, path: &Path) -> Self {
        let made = Self(node, path.into());
        let path = path.to_str().unwrap();
        made.there(&["mount", "--bind", path, path]).ok();
        made.there(&["mount", "-o", "remount,bind,ro", path]).ok();
        made
    }

    /// In the daemon's mount namespace.
    fn there(&self, command: &[&str]) -> Output {
        let pid = self.0.pid().to_string();
        self.0.run("nsenter", &[&["-t", &pid, "-m", "--"], command].concat())
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = self.there(&["umount", "-l", &self.1.to_string_lossy()]);
    }
}

/// Starts the daemon once more, with mounts of its own.
fn with_own_mounts(node: &Node) {
    node.stop();
    node.launch_from(&mut || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    });
}

fn limits(node: &Node, name: &str) -> [String; 2] {
    [["cpu.shares", "cpu.weight"], ["memory.limit_in_bytes", "memory.max"]]
        .map(|files| cgroups::read(node.cgroup(), name, files))
}

fn update(node: &Node, id: &str, cpuset: &str) -> Result<(), tonic::Status> {
    let linux = cri::LinuxContainerResources {
        cpu_shares: 77,
        memory_limit_in_bytes: 96 << 20,
        cpuset_cpus: cpuset.into(),
        ..Default::default()
    };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri(async |mut c| c.update_container_resources(request).await).map(drop)
}

fn update_pod(node: &Node, id: &str, cpuset: &str) -> Result<(), tonic::Status> {
    let resources = newest::LinuxContainerResources {
        cpu_shares: 77,
        memory_limit_in_bytes: 96 << 20,
        cpuset_cpus: cpuset.into(),
        ..Default::default()
    };
    let request = newest::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        overhead: None,
        resources: Some(resources),
    };
    node.newest(async |mut c| c.update_pod_sandbox_resources(request).await).map(drop)
}

#[test]
fn limits_are_taken_back_if_a_file_or_their_record_cannot_be_written() {
    test(|node| {
        with_own_mounts(node);
        let (pod_id, id) = sleeper(node, "limits", |_, _| ());
        type Update = fn(&Node, &str, &str) -> Result<(), tonic::Status>;
        let both: [(&str, &str, Update); 2] = [(&id, "containers", update), (&pod_id, "pods", update_pod)];
        for (name, records, update) in both {
            let before = limits(node, name);
            // No machine has so many: the first of its files are written by then.
            let refused = update(node, name, "4000").unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            assert_eq!(limits(node, name), before, "{records}");
            let memory = cgroups::below(node.cgroup())
                .into_iter()
                .filter(|dir| dir.ends_with(name))
                .flat_map(|dir| ["memory.limit_in_bytes", "memory.max"].map(|file| dir.join(file)))
                .find(|path| path.exists())
                .unwrap();
            let fixed = ReadOnly::new(node, &memory);
            let refused = update(node, name, "").unwrap_err();
            assert!(
                refused.code() == Code::Internal && refused.message().contains("Read-only"),
                "{refused:?}"
            );
            assert_eq!(limits(node, name), before, "{records}");
            drop(fixed);
            let record = ReadOnly::new(node, &node.dir(&format!("root/{records}/{name}")));
            let refused = update(node, name, "").unwrap_err();
            assert!(
                refused.code() == Code::Internal && refused.message().contains("Read-only"),
                "{refused:?}"
            );
            assert_eq!(limits(node, name), before, "{records}");
            drop(record);
            update(node, name, "").unwrap();
            assert_eq!(limits(node, name)[1], (96 << 20).to_string());
        }
    });
}

/// It may run twice, and never not at all.
#[test]
fn a_poststop_hook_whose_record_cannot_be_written_is_owed_still() {
    test(|node| {
        let report = node.dir("ran");
        let script = format!("echo >> {}", report.display());
        let hook =
            serde_json::json!({ "hookName": "poststop", "path": "/bin/sh", "args": ["sh", "-c", script] });
        let spec = serde_json::json!({ "cdiVersion": "0.3.0", "kind": "vendor.example/hooked",
            "devices": [{ "name": "x", "containerEdits": { "hooks": [hook] } }] });
        std::fs::write(node.dir("cdi/hooked.json"), spec.to_string()).unwrap();
        let (_, id) = sleeper(node, "owed", |_, config| {
            config.cdi_devices = vec![cri::CdiDevice { name: "vendor.example/hooked=x".into() }];
        });
        let runs = || std::fs::read_to_string(&report).unwrap_or_default().lines().count();
        let ran = |wanted: usize| {
            eventually(30, "its poststop hook has run", || match runs() {
                now if now == wanted => Ok(()),
                now => Err(now.to_string()),
            });
        };
        let record = ReadOnly::new(node, &node.dir("root/containers").join(&id));
        node.stop_container(&id, 0).unwrap();
        assert_eq!(node.status(&id).exit_code, 137);
        ran(1);
        // In this daemon's eyes it is done: nothing runs it again, and the removal cannot go on as long as the disk is so.
        assert_eq!(node.remove_container(&id).unwrap_err().code(), Code::Internal);
        node.crash();
        ran(2);
        assert_eq!(node.status(&id).exit_code, 137, "the shim still knows");
        drop(record);
        node.crash();
        ran(3);
        node.remove_container(&id).unwrap();
        assert_eq!(runs(), 3);
    });
}
