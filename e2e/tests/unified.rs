//! Nodes with cgroup v2 only; hack/vm has one.

use k8s_cri::v1 as cri;
use strata_api::cri as newest;
use strata_e2e::node::{Node, cgroups, container, pod, security, test};
use strata_e2e::skip;
use tonic::Code;

pub(crate) type Limits = cri::LinuxContainerResources;

/// As [`test`], where no hierarchy but the unified one is mounted.
pub(crate) fn test_unified(f: impl FnOnce(&Node)) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.contains(" - cgroup ") || !mounts.contains(" - cgroup2 ") {
        return skip("cgroup v2 is not the only hierarchy here; the step vm of hack/test runs this");
    }
    test(f);
}

pub(crate) fn unified(settings: &[(&str, &str)]) -> Limits {
    let unified = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Limits { unified, ..Default::default() }
}

pub(crate) fn limited(node: &Node, name: &str, script: &str, limits: Limits) -> cri::ContainerConfig {
    let mut config = container(node, name, script);
    config.linux.get_or_insert_default().resources = Some(limits);
    config
}

#[test]
fn what_the_kubelet_sets_by_name_is_set_and_changed() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "unified");
        let pod_id = node.run_pod(&config);
        let limits =
            unified(&[("memory.high", "50331648"), ("memory.swap.max", "0"), ("memory.oom.group", "1")]);
        let limits = Limits { memory_limit_in_bytes: 64 << 20, cpu_shares: 1024, ..limits };
        let id = node.run_container(&pod_id, &config, &limited(node, "c", "exec sleep 1000", limits));
        let read = |file| cgroups::read(node.cgroup(), &id, [file, file]);
        for (file, want) in [
            ("memory.max", "67108864"),
            ("memory.high", "50331648"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "100"),
        ] {
            assert_eq!(read(file), want, "{file}");
        }
        let update = |limits| {
            let id = id.clone();
            let request = cri::UpdateContainerResourcesRequest {
                container_id: id,
                linux: Some(limits),
                ..Default::default()
            };
            node.cri(async |mut c| c.update_container_resources(request).await)
        };
        update(unified(&[("memory.high", "max"), ("memory.low", "8388608"), ("cpu.idle", "1")])).unwrap();
        assert_eq!(
            (read("memory.high"), read("memory.low"), read("cpu.idle")),
            ("max".into(), "8388608".into(), "1".into())
        );
        update(Limits { cpu_shares: 2, ..unified(&[("cpu.idle", "0")]) }).unwrap();
        assert_eq!(read("cpu.weight"), "1");

        let refused = update(unified(&[("memory.low", "0"), ("memory.hihg", "1")])).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("memory.hihg"), "{refused}");
        assert_eq!(read("memory.low"), "8388608", "what was set before one was refused is taken back");
        // Also what nobody has set before; the files are written in the order of their names.
        let refused = update(unified(&[("memory.min", "4194304"), ("memory.nim", "1")])).unwrap_err();
        assert!(refused.message().contains("memory.nim"), "{refused}");
        assert_eq!(read("memory.min"), "0");
        let before = node.traces();
        let wrong = limited(node, "wrong", "exit", unified(&[("io.weigth", "1")]));
        let refused = node.try_create(&pod_id, &config, &wrong).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        node.assert_traces(&before);
    });
}

#[test]
fn without_an_oom_group_the_rest_of_a_container_lives_on() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "oom");
        let pod_id = node.run_pod(&config);
        let script = "sh -c 'x=x; while :; do x=$x$x; done'; echo survived $?; exec sleep 1000";
        let limits = |group| Limits {
            memory_limit_in_bytes: 32 << 20,
            ..unified(&[("memory.oom.group", group), ("memory.swap.max", "0")])
        };
        let one = node.run_container(&pod_id, &config, &limited(node, "one", script, limits("0")));
        strata_e2e::eventually(20, "the shell lives on", || {
            let log = node.log(&one);
            // It says too that its child was killed.
            if log.iter().any(|line| line.text == "survived 137") { Ok(()) } else { Err(format!("{log:?}")) }
        });
        assert_eq!(node.exec(&one, "echo so does the rest"), "so does the rest\n");
        let all = node.run_container(&pod_id, &config, &limited(node, "all", script, limits("1")));
        let status = node.wait_exit(&all);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
        assert!(!node.log(&all).iter().any(|line| line.text.starts_with("survived")));
    });
}

#[test]
fn a_container_sees_its_own_cgroup_as_the_root_and_a_privileged_one_all() {
    test_unified(|node| {
        node.pull("busybox");
        let mut config = pod(node, "sight");
        config.linux.get_or_insert_default().security_context =
            Some(cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() });
        let pod_id = node.run_pod(&config);
        let limits = Limits { memory_limit_in_bytes: 64 << 20, ..Default::default() };
        let plain = limited(node, "plain", "exec sleep 1000", limits.clone());
        let plain = node.run_container(&pod_id, &config, &plain);
        assert_eq!(node.exec(&plain, "cat /proc/1/cgroup /sys/fs/cgroup/memory.max"), "0::/\n67108864\n");
        assert!(node.exec(&plain, "mkdir /sys/fs/cgroup/x 2>&1 || true").contains("Read-only"));
        let mut privileged = limited(node, "privileged", "exec sleep 1000", limits);
        security(&mut privileged).privileged = true;
        let privileged = node.run_container(&pod_id, &config, &privileged);
        let own = format!("{}/pods/{pod_id}/{privileged}", node.cgroup());
        assert_eq!(node.exec(&privileged, "cat /proc/1/cgroup"), format!("0::{own}\n"));
        assert_eq!(node.exec(&privileged, &format!("cat /sys/fs/cgroup{own}/memory.max")), "67108864\n");
    });
}

#[test]
fn an_exec_has_a_group_of_its_own_and_dies_with_all_that_it_started() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "execs");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let place = node.exec(&id, "cat /proc/self/cgroup");
        assert!(place.starts_with("0::/exec-"), "{place}");
        let refused =
            node.try_exec(&id, "setsid sleep 2000 & setsid sleep 2001 & exec sleep 2002", 1).unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
        strata_e2e::eventually(10, "only the container's own process is left", || {
            let left = cgroups::processes(&format!("{}/pods/{pod_id}/{id}", node.cgroup()));
            if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
        });
        // Groups that have become empty go.
        assert_eq!(node.exec(&id, "find /sys/fs/cgroup -mindepth 1 -type d | wc -l"), "1\n");
    });
}

#[test]
fn nothing_runs_where_groups_have_children() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "rules");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let (root, pods) = (node.cgroup().to_owned(), format!("{}/pods", node.cgroup()));
        for inner in [&root, &pods, &format!("{pods}/{pod_id}")] {
            let procs = std::fs::read_to_string(format!("/sys/fs/cgroup{inner}/cgroup.procs")).unwrap();
            assert_eq!(procs, "", "{inner}");
        }
        let has = cgroups::read(&root, &id, ["cgroup.controllers"; 2]);
        assert!(["cpuset", "cpu", "io", "memory", "pids"].iter().all(|c| has.contains(c)), "{has}");
        // The shim goes there a moment after it has begun.
        strata_e2e::eventually(10, "the shim is in the group for shims", || {
            let shims = cgroups::processes(&format!("{root}/shims"));
            if shims.len() == 1 { Ok(()) } else { Err(format!("{shims:?}")) }
        });
    });
}

#[test]
fn a_pod_below_processes_is_refused() {
    test_unified(|node| {
        node.pull("busybox");
        let mut config = pod(node, "below");
        // So that the node's own group is there, with controllers for its children.
        let other = node.run_pod(&config);
        node.remove_pod(&other).unwrap();
        let busy = format!("{}/busy", node.cgroup());
        let dir = format!("/sys/fs/cgroup{busy}");
        std::fs::create_dir(&dir).unwrap();
        let mut inside = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(format!("{dir}/cgroup.procs"), inside.id().to_string()).unwrap();
        config.linux.get_or_insert_default().cgroup_parent = format!("{busy}/pod-1");
        let refused = node.try_run_pod(&config);
        inside.kill().unwrap();
        inside.wait().unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(&busy), "{refused}");
        // Nothing was kept: it works as soon as nobody is in the way.
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        assert_eq!(cgroups::processes(&format!("{busy}/pod-1/{id}")).len(), 1);
        node.remove_pod(&pod_id).unwrap();
        // What the kubelet makes, the kubelet removes; here nobody else does.
        cgroups::remove(&busy);
    });
}

#[test]
fn devices_are_denied_by_the_filter() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "devices");
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "c", "exec sleep 1000");
        let mknod = cri::Capability { add_capabilities: vec!["MKNOD".into()], ..Default::default() };
        security(&mut wanted).capabilities = Some(mknod);
        let id = node.run_container(&pod_id, &config, &wanted);
        // The node's /dev/mem, and one that everybody may use.
        let script = "mknod /mem c 1 1 && (head -c 1 /mem || echo refused) 2>&1; head -c 1 /dev/zero | wc -c";
        let said = node.exec(&id, script);
        assert!(
            said.contains("not permitted") && said.contains("refused") && said.ends_with("1\n"),
            "{said}"
        );
    });
}

/// Of what a container waits for, what some of its processes wait for; the kernel's file says the same in microseconds.
fn waited(node: &Node, id: &str, file: &str) -> (newest::PsiData, u64) {
    let request = newest::ContainerStatsRequest { container_id: id.into() };
    let stats = node.newest(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap();
    let told = match file {
        "cpu.pressure" => stats.cpu.unwrap().psi,
        "memory.pressure" => stats.memory.unwrap().psi,
        _ => stats.io.unwrap().psi,
    };
    let told = told.unwrap();
    let (some, full) = (told.some.unwrap(), told.full.unwrap());
    for average in [some.avg10, some.avg60, some.avg300, full.avg10] {
        assert!((0.0..=100.0).contains(&average), "{some:?} {full:?}");
    }
    assert!(full.total <= some.total, "{some:?} {full:?}");
    let text = cgroups::read(node.cgroup(), id, [file, file]);
    let total = text.lines().next().and_then(|line| line.strip_prefix("some ")?.rsplit_once("total="));
    (some, total.unwrap().1.parse::<u64>().unwrap() * 1000)
}

#[test]
fn pressure_is_told_where_containers_wait() {
    test_unified(|node| {
        node.pull("busybox");
        let config = pod(node, "pressure");
        let pod_id = node.run_pod(&config);
        // A twentieth of a CPU for what would take all of it, less memory than is read again and again, and writing for the disk.
        let write = "while :; do dd if=/dev/zero of=/f bs=64k count=4 conv=fsync 2>/dev/null; done";
        let read = "dd if=/dev/zero of=/f bs=1M count=40 2>/dev/null; while :; do cat /f >/dev/null; done";
        let quota = Limits { cpu_quota: 5000, cpu_period: 100_000, ..Default::default() };
        let little = Limits { memory_limit_in_bytes: 16 << 20, ..Default::default() };
        let all = [
            ("cpu.pressure", "while :; do :; done", quota),
            ("memory.pressure", read, little),
            ("io.pressure", write, Limits::default()),
        ]
        .map(|(file, script, limits)| {
            let name = file.split('.').next().unwrap();
            (file, node.run_container(&pod_id, &config, &limited(node, name, script, limits)))
        });
        for (file, id) in &all {
            let (first, _) = waited(node, id, file);
            strata_e2e::eventually(30, "it waits longer and longer", || {
                let (told, kernel) = waited(node, id, file);
                assert!(told.total <= kernel, "{file}: {told:?} {kernel}");
                // Writing waits for the disk at times only: overlayfs does not sync what is `volatile`.
                let average = told.avg10 > 0.0 || *file == "io.pressure";
                // As much as the kernel counts in a moment: the unit is right.
                match told.total > first.total && told.total * 2 > kernel && average {
                    true => Ok(()),
                    false => Err(format!("{file}: {first:?} {told:?} {kernel}")),
                }
            });
        }
        let request = newest::PodSandboxStatsRequest { pod_sandbox_id: pod_id.clone() };
        let stats = node.newest(async |mut c| c.pod_sandbox_stats(request).await).unwrap().stats.unwrap();
        let linux = stats.linux.unwrap();
        for psi in [linux.cpu.unwrap().psi, linux.memory.unwrap().psi, linux.io.unwrap().psi] {
            assert!(psi.unwrap().some.unwrap().total > 0, "{psi:?}");
        }
        // In whole seconds.
        strata_e2e::eventually(30, "a metric tells it too", || {
            let request = cri::ListPodSandboxMetricsRequest {};
            let told = node.cri(async |mut c| c.list_pod_sandbox_metrics(request).await).unwrap();
            let told: Vec<u64> = told.pod_metrics[0]
                .container_metrics
                .iter()
                .filter(|c| c.container_id == all[0].1)
                .flat_map(|c| &c.metrics)
                .filter(|m| m.name == "container_pressure_cpu_waiting_seconds_total")
                .map(|m| m.value.unwrap_or_default().value)
                .collect();
            if told.len() == 1 && told[0] > 0 { Ok(()) } else { Err(format!("{told:?}")) }
        });
    });
}
