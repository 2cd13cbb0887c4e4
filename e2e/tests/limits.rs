//! Limits: memory, processors, processes, and what happens at them.

use k8s_cri::v1 as cri;
use strata_e2e::node::{cgroups, container, pod, test};

fn limited(config: &mut cri::ContainerConfig, change: impl FnOnce(&mut cri::LinuxContainerResources)) {
    change(config.linux.get_or_insert_default().resources.get_or_insert_default());
}

#[test]
fn too_much_memory_is_told_as_such() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "oom");
        let pod_id = node.run_pod(&config);
        // The shell holds the pages itself, so that the kernel has process 1 to choose.
        let hog = "x=x; while :; do x=$x$x; done";
        let mut wanted = container(node, "hog", hog);
        limited(&mut wanted, |r| {
            r.memory_limit_in_bytes = 32 << 20;
            r.memory_swap_limit_in_bytes = 32 << 20;
        });
        let id = node.run_container(&pod_id, &config, &wanted);
        let status = node.wait_exit(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    });
}

#[test]
fn limits_reach_the_kernel() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "limits");
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "c", "exec sleep 1000");
        limited(&mut wanted, |r| {
            r.memory_limit_in_bytes = 64 << 20;
            r.cpu_shares = 512;
            r.cpu_quota = 25_000;
            r.cpu_period = 50_000;
            r.cpuset_cpus = "0".into();
            r.oom_score_adj = 500;
        });
        let id = node.run_container(&pod_id, &config, &wanted);
        let read = |files| cgroups::read(node.cgroup(), &id, files);
        assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
        assert!(matches!(read(["cpu.cfs_quota_us", "cpu.max"]).as_str(), "25000" | "25000 50000"));
        assert!(matches!(read(["cpu.shares", "cpu.weight"]).as_str(), "512" | "59"));
        assert_eq!(read(["cpuset.cpus", "cpuset.cpus"]), "0");
        assert_eq!(node.exec(&id, "cat /proc/1/oom_score_adj"), "500\n");
        let update = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 96 << 20,
                ..Default::default()
            }),
            ..Default::default()
        };
        node.cri(async |mut c| c.update_container_resources(update).await).unwrap();
        assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (96 << 20).to_string());
        assert!(matches!(read(["cpu.cfs_quota_us", "cpu.max"]).as_str(), "25000" | "25000 50000"));
    });
}

#[test]
fn what_was_not_limited_is_not_limited_by_an_update_that_is_refused() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "whole");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let read = || {
            [
                ["cpu.cfs_quota_us", "cpu.max"],
                ["cpu.shares", "cpu.weight"],
                ["memory.limit_in_bytes", "memory.max"],
                // A set that processes have cannot be made empty again in cgroup v2: then it is said what it had from above.
                ["cpuset.effective_cpus", "cpuset.cpus.effective"],
            ]
            .map(|files| cgroups::read(node.cgroup(), &id, files))
        };
        let before = read();
        let update = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(cri::LinuxContainerResources {
                cpu_shares: 77,
                cpu_quota: 25_000,
                cpu_period: 50_000,
                memory_limit_in_bytes: 96 << 20,
                // No machine has so many.
                cpuset_cpus: "4000".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let refused = node.cri(async |mut c| c.update_container_resources(update).await).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("cpuset.cpus cannot be set to \"4000\""), "{refused}");
        assert_eq!(read(), before);
    });
}

#[test]
fn the_kubelets_cgroups_are_used() {
    test(|node| {
        node.pull("busybox");
        let mut config = pod(node, "parent");
        let parent = format!("{}/kubepods/burstable/pod-1", node.cgroup());
        config.linux.get_or_insert_default().cgroup_parent = parent.clone();
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let inside = cgroups::processes(&format!("{parent}/{id}"));
        assert_eq!(inside.len(), 1, "{inside:?}");
        // No shim and nothing else of Strata's lives there: the kubelet kills all it finds under an orphaned pod.
        assert_eq!(cgroups::processes(&parent), inside);
        node.stop_pod(&pod_id).unwrap();
        node.remove_pod(&pod_id).unwrap();
        // What the kubelet makes, the kubelet removes; here nobody else does.
        cgroups::remove(&format!("{}/kubepods", node.cgroup()));
    });
}

#[test]
fn stats_follow_what_is_used() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "stats");
        let pod_id = node.run_pod(&config);
        let busy = "dd if=/dev/zero of=/file bs=1M count=4 2>/dev/null; while :; do :; done";
        let id = node.run_container(&pod_id, &config, &container(node, "busy", busy));
        let stats = || {
            let request = cri::ContainerStatsRequest { container_id: id.clone() };
            node.cri(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap()
        };
        let cpu = |stats: &cri::ContainerStats| {
            stats.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds).map_or(0, |v| v.value)
        };
        let first = stats();
        assert_eq!(first.attributes.as_ref().unwrap().id, id);
        assert_eq!(first.attributes.as_ref().unwrap().metadata.as_ref().unwrap().name, "busy");
        strata_e2e::eventually(10, "processor time grows", || {
            let now = stats();
            if cpu(&now) > cpu(&first) { Ok(()) } else { Err(format!("{now:?}")) }
        });
        strata_e2e::eventually(30, "the writable layer's size is known", || {
            let used = stats().writable_layer.and_then(|w| w.used_bytes).map_or(0, |v| v.value);
            if used >= 4 << 20 { Ok(()) } else { Err(used.to_string()) }
        });
        let memory = stats().memory.unwrap();
        assert!(memory.working_set_bytes.is_some_and(|v| v.value > 0), "{memory:?}");
    });
}

#[test]
fn limits_of_strata_run() {
    test(|node| {
        let image = node.pull("busybox");
        let script = "ulimit -n; cat /proc/1/cgroup | grep -c strata-e2e; exec sleep 1000";
        let flags = [
            "run",
            "-d",
            "--name",
            "small",
            "--memory",
            "48m",
            "--pids-limit",
            "20",
            "--ulimit",
            "nofile=77:88",
        ];
        let flags: Vec<&str> = flags.into_iter().chain([image.as_str(), "sh", "-c", script]).collect();
        let id = node.strata(&flags).ok().text().to_owned();
        let read = |files| cgroups::read(node.cgroup(), &id, files);
        assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (48 << 20).to_string());
        assert_eq!(read(["pids.max", "pids.max"]), "20");
        let logged = || {
            let logs = node.strata(&["logs", "small"]).ok();
            if logs.stdout.starts_with("77\n") { Ok(()) } else { Err(logs.to_string()) }
        };
        strata_e2e::eventually(10, "the limit is seen inside", logged);
        let bomb = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done";
        let _ = node.strata(&["exec", "small", "sh", "-c", bomb]);
        node.strata(&["rm", "-f", "small"]).ok();
    });
}
