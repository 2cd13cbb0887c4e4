//! Kernels that lack a call: what ARCHITECTURE.md's table says is done without it is done, and a call that nothing can be
//! done without is named.
//!
//! A seccomp filter around stratad and all that it starts makes one call fail as on a kernel that does not know it.

mod asked;

use k8s_cri::v1 as cri;
use serde_json::{Value, json};
use strata_e2e::node::{Node, container, pod, test};

const ENOSYS: u32 = 38;

/// A seccomp profile that allows everything but this.
fn without(names: &[&str], errno: u32, args: &Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args }],
    })
}

/// What every node must do: images in and out, a pod, a container, exec, stats, diff, commit, and away with it.
fn walk(node: &Node) {
    let image = node.pull("busybox");
    let config = pod(node, "walk");
    let pod_id = node.run_pod(&config);
    let script = "echo made > /made; rm /etc/group; echo said; while :; do sleep 0.1; done";
    let id = node.run_container(&pod_id, &config, &container(node, "walk", script));
    strata_e2e::eventually(20, "it has said something", || {
        let log = node.log(&id);
        if log.iter().any(|line| line.text == "said") { Ok(()) } else { Err(format!("{log:?}")) }
    });
    assert_eq!(node.exec(&id, "cat /made; hostname"), "made\nwalk\n");
    let request = cri::ContainerStatsRequest { container_id: id.clone() };
    let stats = node.cri(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    node.strata(&["diff", &id]).ok().has(&["A /made", "D /etc/group"]);
    node.strata(&["commit", &id, "walked:v1"]).ok();
    let archive = node.dir("walked.tar").display().to_string();
    node.strata(&["save", "-o", &archive, "walked:v1"]).ok();
    node.stop_container(&id, 0).unwrap();
    node.remove_container(&id).unwrap();
    node.remove_pod(&pod_id).unwrap();
    node.strata(&["rmi", "walked:v1", &image]).ok();
    node.strata(&["load", "-i", &archive]).ok();
    let said = node.strata(&["run", "--rm", "walked:v1", "sh", "-c", "cat /made; ls /etc/group"]);
    assert_eq!((said.stdout.as_str(), said.code), ("made\n", 1), "{said}");
    node.strata(&["fsck"]).ok();
    std::fs::remove_file(archive).unwrap();
}

fn walks_without(names: &[&str], errno: u32, args: &Value, walk: impl FnOnce(&Node)) {
    test(|node| {
        node.kill9();
        assert!(
            node.launch_refused(&without(names, errno, args)),
            "without {names:?} stratad does not start"
        );
        walk(node);
    });
}

#[test]
fn statx() {
    walks_without(&["statx"], ENOSYS, &json!([]), walk);
}

/// Each by itself: one of them may do for another.
#[test]
fn copying_ranges() {
    walks_without(&["copy_file_range"], ENOSYS, &json!([]), walk);
}

#[test]
fn sending_files() {
    walks_without(&["sendfile"], ENOSYS, &json!([]), walk);
}

#[test]
fn splicing() {
    walks_without(&["splice"], ENOSYS, &json!([]), walk);
}

#[test]
fn copies_in_the_kernel() {
    walks_without(&["copy_file_range", "sendfile", "splice"], ENOSYS, &json!([]), walk);
}

/// What limits devices on cgroup v2; v1 has a controller for that.
#[test]
fn programs_for_the_kernel() {
    walks_without(&["bpf"], ENOSYS, &json!([]), |node| {
        if std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup ") {
            return walk(node);
        }
        node.pull("busybox");
        let config = pod(node, "devices");
        let pod_id = node.run_pod(&config);
        let refused = node.try_create(&pod_id, &config, &container(node, "c", "true")).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("CONFIG_CGROUP_BPF"), "{refused}");
    });
}

#[test]
fn hints_about_priorities_and_writing() {
    walks_without(&["ioprio_set", "setpriority", "sync_file_range"], ENOSYS, &json!([]), walk);
}

#[test]
fn keyrings() {
    walks_without(&["keyctl", "add_key", "request_key"], ENOSYS, &json!([]), walk);
}

#[test]
fn what_only_the_c_library_uses() {
    let calls = ["faccessat2", "rseq", "membarrier", "fchmodat2", "epoll_pwait2", "preadv2", "pwritev2"];
    walks_without(&calls, ENOSYS, &json!([]), walk);
}

/// A pod with a user namespace of its own.
fn mapped(node: &Node, name: &str) -> (cri::PodSandboxConfig, cri::NamespaceOption) {
    let mut config = pod(node, name);
    let ids = |host| vec![cri::IdMapping { host_id: host, container_id: 0, length: 65_536 }];
    let user =
        cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: ids(300_000), gids: ids(400_000) };
    let options = cri::NamespaceOption { userns_options: Some(user), pid: 1, ..Default::default() };
    config.linux.get_or_insert_default().security_context = Some(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(options.clone()),
        ..Default::default()
    });
    (config, options)
}

/// The answer of kernels before 6.13 to a descriptor of a mount: FSCONFIG_SET_FD is command 5.
#[test]
fn descriptors_of_layers() {
    let set_fd = json!([{ "index": 1, "value": 5, "op": "SCMP_CMP_EQ" }]);
    walks_without(&["fsconfig"], 9, &set_fd, |node| {
        let image = node.pull("busybox");
        let (config, options) = mapped(node, "mapped");
        let info = node.crictl(&["info"]).ok().json();
        if info["runtimeHandlers"][0]["features"]["user_namespaces"] != true {
            strata_e2e::skip("no user namespaces with ID-mapped mounts here");
            return;
        }
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "mapped", "while :; do sleep 0.1; done");
        strata_e2e::node::security(&mut wanted).namespace_options = Some(options);
        let id = node.run_container(&pod_id, &config, &wanted);
        let said = node.exec(&id, "cat /proc/self/uid_map; stat -c %u:%g /bin/busybox");
        let words: Vec<_> = said.split_whitespace().collect();
        assert_eq!(words, ["0", "300000", "65536", "0:0"], "{image}");
    });
}

#[test]
fn what_is_required_is_named() {
    let required = [
        ("renameat2", "3.15"),
        ("memfd_create", "3.17"),
        ("pidfd_send_signal", "5.1"),
        ("fsopen", "5.2"),
        ("fsconfig", "5.2"),
        ("fsmount", "5.2"),
        ("move_mount", "5.2"),
        ("open_tree", "5.2"),
        ("clone3", "5.3"),
        ("pidfd_open", "5.3"),
        ("openat2", "5.6"),
        ("close_range", "5.9"),
        ("mount_setattr", "5.12"),
    ];
    test(|node| {
        for (call, since) in required {
            node.kill9();
            let log = node.dir("stratad.log");
            std::fs::remove_file(&log).unwrap();
            let answers = node.launch_refused(&without(&[call], ENOSYS, &json!([])));
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(!answers, "without {call} stratad starts: {said}");
            assert!(said.contains(&format!("does not answer {call} (Linux {since})")), "{said}");
        }
        node.kill9();
        node.launch();
    });
}
