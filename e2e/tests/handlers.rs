//! RuntimeClass handlers: what each changes, and what a pod keeps of it.

use k8s_cri::v1::{self as cri, PodSandboxConfig};
use std::os::unix::fs::MetadataExt as _;
use strata_e2e::node::{Node, cgroups, container, pod, security, test, test_with};
use tonic::{Code, Status};

const CONFIG: &str = "[runtime.handlers.locked]\nseccomp = \"runtime/default\"\nprivileged = false\nnetwork = \"none\"\n\
                      pids_limit = 33\n[runtime.handlers.strict]\nseccomp = \"localhost/no-chmod.json\"\n";

fn run(node: &Node, config: &PodSandboxConfig, handler: &str) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
    node.cri(async |mut c| c.run_pod_sandbox(request).await).map(|answer| answer.pod_sandbox_id)
}

fn handlers(node: &Node) -> Vec<String> {
    let status = node.cri(async |mut c| c.status(cri::StatusRequest::default()).await).unwrap();
    status.runtime_handlers.into_iter().map(|h| h.name).collect()
}

/// Whether a shell in a container is under a seccomp filter: `Seccomp` of proc_pid_status(5).
fn filtered(node: &Node, id: &str) -> bool {
    match node.exec(id, "grep Seccomp: /proc/self/status").trim() {
        "Seccomp:\t0" => false,
        "Seccomp:\t2" => true,
        other => panic!("{other}"),
    }
}

#[test]
fn the_built_in_one_is_always_there_and_others_are_named_in_the_error() {
    test_with(CONFIG, |node| {
        assert_eq!(handlers(node), ["", "locked", "strata", "strict"]);
        let refused = run(node, &pod(node, "stranger"), "kata").unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        for told in ["\"kata\"", "locked, strata, strict", "[runtime.handlers.kata]"] {
            assert!(refused.message().contains(told), "{refused}");
        }
        for handler in ["", "strata"] {
            let id = run(node, &pod(node, &format!("own{handler}")), handler).unwrap();
            assert_eq!(node.pod_status(&id).runtime_handler, handler);
        }
    });
    test(|node| assert_eq!(handlers(node), ["", "strata"]));
}

#[test]
fn a_handler_says_what_the_pod_does_not() {
    test_with(CONFIG, |node| {
        node.pull("busybox");
        let config = pod(node, "locked");
        let id = run(node, &config, "locked").unwrap();
        assert_eq!(run(node, &config, "locked").unwrap(), id, "the same request gives the same pod");
        assert_eq!(run(node, &config, "").unwrap_err().code(), Code::AlreadyExists);
        let listed =
            node.cri(async |mut c| c.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await).unwrap();
        assert_eq!(listed.items[0].runtime_handler, "locked");
        node.crictl(&["inspectp", "-o", "yaml", &id]).ok().has(&["runtimeHandler: locked"]);
        node.strata(&["pods"]).ok().has(&["RUNTIME", "locked"]);

        let plain = container(node, "plain", "exec sleep 1000");
        let plain = node.run_container(&id, &config, &plain);
        assert!(filtered(node, &plain));
        assert_eq!(node.exec(&plain, "ls /sys/class/net"), "lo\n");
        // With an empty address instead the kubelet would make the pod anew, again and again.
        assert_eq!(node.pod_status(&id).network, None);
        assert_eq!(cgroups::read(node.cgroup(), &plain, ["pids.max"; 2]), "33");
        node.strata(&["inspect", &plain]).ok().has(&["\"Runtime\": \"locked\""]);
        node.strata(&["ps"]).ok().has(&["RUNTIME", "locked"]);
        node.strata(&["info"]).ok().has(&["Runtimes: locked strata strict"]);

        // What it does say counts.
        let mut open = container(node, "open", "exec sleep 1000");
        security(&mut open).seccomp = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Unconfined.into(),
            localhost_ref: String::new(),
        });
        let open = node.run_container(&id, &config, &open);
        assert!(!filtered(node, &open));

        let mut privileged = pod(node, "privileged");
        privileged.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
        let refused = run(node, &privileged, "locked").unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("[runtime.handlers.locked]"), "{refused}");
        run(node, &privileged, "").unwrap();

        // Without a handler nothing of this holds.
        let config = pod(node, "free");
        let id = run(node, &config, "").unwrap();
        let free = node.run_container(&id, &config, &container(node, "free", "exec sleep 1000"));
        assert!(!filtered(node, &free));
        assert_ne!(node.pod_status(&id).network.unwrap().ip, "");
        assert_ne!(cgroups::read(node.cgroup(), &free, ["pids.max"; 2]), "33");
    });
}

#[test]
fn a_handlers_parent_holds_the_cgroups_of_pods_that_name_none() {
    test(|node| {
        node.pull("busybox");
        let parent = format!("{}/aside", node.cgroup());
        let file = node.dir("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}\n[runtime.handlers.aside]\ncgroup_parent = \"{parent}\"\n"))
            .unwrap();
        node.crash();
        // The groups of its process, one of each hierarchy: proc_pid_cgroup(5).
        let groups = |config: &PodSandboxConfig, handler: &str, name: &str| -> (String, Vec<String>) {
            let pod_id = run(node, config, handler).unwrap();
            let id = node.run_container(&pod_id, config, &container(node, name, "exec sleep 1000"));
            let dir = cgroups::below(node.cgroup()).into_iter().find(|dir| dir.ends_with(&id)).unwrap();
            let pid = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
            let pid = pid.trim();
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let groups = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(String::from);
            (format!("{pod_id}/{id}"), groups.filter(|group| group.starts_with(node.cgroup())).collect())
        };
        let (below, found) = groups(&pod(node, "aside"), "aside", "aside");
        assert!(!found.is_empty());
        assert!(found.iter().all(|group| *group == format!("{parent}/{below}")), "{found:?}");
        let (below, found) = groups(&pod(node, "plain"), "", "plain");
        assert!(!found.is_empty());
        assert!(found.iter().all(|group| *group == format!("{}/pods/{below}", node.cgroup())), "{found:?}");
        // The kubelet's word counts for more.
        let mut config = pod(node, "kubelets");
        let kubelets = format!("{}/kubepods/pod-1", node.cgroup());
        config.linux.get_or_insert_default().cgroup_parent = kubelets.clone();
        let (_, found) = groups(&config, "aside", "kubelets");
        assert!(!found.is_empty());
        assert!(found.iter().all(|group| group.starts_with(&format!("{kubelets}/"))), "{found:?}");
        node.remove_everything();
        // What is configured stays, and what the kubelet makes, the kubelet removes; here nobody else does.
        for parent in [parent, format!("{}/kubepods", node.cgroup())] {
            assert!(cgroups::processes(&parent).is_empty());
            cgroups::remove(&parent);
        }
    });
}

#[test]
fn a_handlers_file_is_what_runtime_default_means() {
    test_with(CONFIG, |node| {
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(node.dir("seccomp/no-chmod.json"), profile).unwrap();
        node.pull("busybox");
        let config = pod(node, "strict");
        let id = run(node, &config, "strict").unwrap();
        for (name, said) in [("silent", None), ("default", Some(cri::SecurityProfile::default()))] {
            let mut wanted = container(node, name, "exec sleep 1000");
            security(&mut wanted).seccomp = said;
            let container = node.run_container(&id, &config, &wanted);
            let (out, err, code) = node.try_exec(&container, "touch /x && chmod 700 /x", 30).unwrap();
            assert!(code != 0 && err.contains("not permitted"), "{name}: {out}{err}");
        }
    });
}

#[test]
fn a_handler_gives_each_pod_users_of_its_own() {
    let config =
        "[runtime.handlers.apart]\nuser_namespace = { first_id = 1000000, ids_per_pod = 65536, pods = 2 }\n";
    test_with(config, |node| {
        let status = node.cri(async |mut c| c.status(cri::StatusRequest::default()).await).unwrap();
        if !status.runtime_handlers.iter().all(|h| h.features.as_ref().is_some_and(|f| f.user_namespaces)) {
            strata_e2e::skip("this kernel or file system maps no IDs");
            return;
        }
        node.pull("busybox");
        let volume = node.dir("volume");
        std::fs::create_dir(&volume).unwrap();
        let mut pods = Vec::new();
        for (name, first) in [("one", "1000000"), ("two", "1065536")] {
            let mut config = pod(node, name);
            // As the kubelet says it where hostUsers is unset.
            let options = cri::NamespaceOption {
                pid: cri::NamespaceMode::Container.into(),
                userns_options: Some(cri::UserNamespace {
                    mode: cri::NamespaceMode::Node.into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.namespace_options = Some(options.clone());
            let id = run(node, &config, "apart").unwrap();
            assert_eq!(run(node, &config, "apart").unwrap(), id, "the same request gives the same pod");
            let mut wanted = container(node, name, "exec sleep 1000");
            security(&mut wanted).namespace_options = Some(options);
            wanted.mounts.push(cri::Mount {
                container_path: "/volume".into(),
                host_path: volume.display().to_string(),
                ..Default::default()
            });
            let container = node.run_container(&id, &config, &wanted);
            let map = node.exec(&container, "cat /proc/self/uid_map");
            assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", first, "65536"]);
            // Volumes are the pod's as they are another's.
            node.exec(&container, &format!("touch /volume/{name} && [ $(stat -c %u /volume/{name}) = 0 ]"));
            assert_eq!(std::fs::metadata(volume.join(name)).map(|m| m.uid()).unwrap(), 0);
            pods.push(id);
        }
        let refused = run(node, &pod(node, "three"), "apart").unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        node.crash();
        node.stop_pod(&pods[0]).unwrap();
        node.remove_pod(&pods[0]).unwrap();
        let mut host = pod(node, "host");
        let context = host.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().set_network(cri::NamespaceMode::Node);
        let refused = run(node, &host, "apart").unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        run(node, &pod(node, "three"), "apart").unwrap();
    });
}

#[test]
fn a_pod_outlives_its_handler() {
    test_with(CONFIG, |node| {
        node.pull("busybox");
        let config = pod(node, "locked");
        let id = run(node, &config, "locked").unwrap();
        let before = node.run_container(&id, &config, &container(node, "before", "exec sleep 1000"));
        let file = node.dir("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(CONFIG, "")).unwrap();
        node.crash();
        assert_eq!(handlers(node), ["", "strata"]);
        assert_eq!(node.pod_status(&id).runtime_handler, "locked");
        assert!(filtered(node, &before));
        let after = node.run_container(&id, &config, &container(node, "after", "exec sleep 1000"));
        assert!(filtered(node, &after), "what is made in it later is under what it was made with");
        assert_eq!(run(node, &pod(node, "late"), "locked").unwrap_err().code(), Code::InvalidArgument);
        node.stop_pod(&id).unwrap();
        node.remove_pod(&id).unwrap();
    });
}
