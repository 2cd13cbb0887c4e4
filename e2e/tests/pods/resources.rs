//! Limits that change while a container runs.

use super::sleeper;
use k8s_cri::v1 as cri;
use strata_api::cri as newest;
use strata_e2e::node::{Node, cgroups, container, pod, test};
use tonic::{Code, Status};

type Limits = cri::LinuxContainerResources;

fn update(node: &Node, id: &str, linux: Limits) -> Result<(), Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri(async |mut c| c.update_container_resources(request).await).map(drop)
}

fn told(node: &Node, id: &str) -> Limits {
    node.status(id).resources.unwrap().linux.unwrap()
}

const MIB: i64 = 1 << 20;

#[test]
fn limits_change_in_place_and_are_told() {
    test(|node| {
        let (_, id) = sleeper(node, "resized", |_, config| {
            config.linux.get_or_insert_default().resources = Some(Limits {
                memory_limit_in_bytes: 64 * MIB,
                memory_swap_limit_in_bytes: 64 * MIB,
                cpu_quota: 20_000,
                cpu_period: 50_000,
                cpu_shares: 256,
                oom_score_adj: 500,
                ..Default::default()
            });
        });
        let read = |files| cgroups::read(node.cgroup(), &id, files);
        let memory = || read(["memory.limit_in_bytes", "memory.max"]);
        // Up past the old limit for memory and swap together, and down again.
        for mib in [128, 32] {
            update(node, &id, Limits { memory_limit_in_bytes: mib * MIB, ..Default::default() }).unwrap();
            assert_eq!(memory(), (mib * MIB).to_string());
            let limits = told(node, &id);
            assert_eq!(
                (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes),
                (mib * MIB, mib * MIB)
            );
        }
        update(node, &id, Limits { cpu_quota: 30_000, cpu_shares: 512, ..Default::default() }).unwrap();
        assert!(matches!(read(["cpu.cfs_quota_us", "cpu.max"]).as_str(), "30000" | "30000 50000"));
        assert!(matches!(read(["cpu.shares", "cpu.weight"]).as_str(), "512" | "59"));
        update(node, &id, Limits { cpuset_cpus: "0".into(), oom_score_adj: 700, ..Default::default() })
            .unwrap();
        assert_eq!(read(["cpuset.cpus", "cpuset.cpus"]), "0");
        assert_eq!(node.exec(&id, "cat /proc/1/oom_score_adj"), "700\n");
        update(
            node,
            &id,
            Limits {
                cpu_quota: -1,
                memory_limit_in_bytes: -1,
                memory_swap_limit_in_bytes: -1,
                ..Default::default()
            },
        )
        .unwrap();
        assert!(matches!(read(["cpu.cfs_quota_us", "cpu.max"]).as_str(), "-1" | "max 50000"));
        assert_eq!((told(node, &id).oom_score_adj, told(node, &id).cpu_shares), (700, 512));
        // It is so for a daemon that comes later.
        node.crash();
        assert_eq!(told(node, &id).cpu_shares, 512);
    });
}

#[test]
fn limits_that_are_refused_change_nothing() {
    test(|node| {
        let (pod_id, id) = sleeper(node, "kept", |_, config| {
            config.linux.get_or_insert_default().resources =
                Some(Limits { cpu_shares: 256, memory_limit_in_bytes: 64 * MIB, ..Default::default() });
        });
        let read = |files| cgroups::read(node.cgroup(), &id, files);
        let page = |page_size: &str| vec![cri::HugepageLimit { page_size: page_size.into(), limit: 0 }];
        for (bad, why) in [
            (Limits { cpu_shares: 512, cpuset_cpus: "4095".into(), ..Default::default() }, "cpuset.cpus"),
            (Limits { cpu_shares: 512, cpuset_cpus: "x".into(), ..Default::default() }, "cpuset.cpus"),
            (Limits { cpu_shares: -1, ..Default::default() }, "cpu_shares"),
            (Limits { memory_limit_in_bytes: -2, ..Default::default() }, "memory_limit"),
            (Limits { memory_swap_limit_in_bytes: 32 * MIB, ..Default::default() }, "memory_swap_limit"),
            (Limits { oom_score_adj: 2000, ..Default::default() }, "oom_score_adj"),
            (Limits { hugepage_limits: page("../../x"), ..Default::default() }, "huge pages"),
            (
                Limits { unified: [("../x.y".to_owned(), "1".to_owned())].into(), ..Default::default() },
                "../x.y",
            ),
        ] {
            let refused = update(node, &id, bad.clone()).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}: {refused:?}");
            assert!(refused.message().contains(why), "{bad:?}: {refused:?}");
            assert!(matches!(read(["cpu.shares", "cpu.weight"]).as_str(), "256" | "35"), "{bad:?}");
            assert_eq!(told(node, &id).cpu_shares, 256, "{bad:?}");
        }
        let none = cri::UpdateContainerResourcesRequest { container_id: id.clone(), ..Default::default() };
        let refused = node.cri(async |mut c| c.update_container_resources(none).await).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        // One that was only created can be changed, one that has ended cannot.
        let config = pod(node, "kept");
        let created = node.create(&pod_id, &config, &container(node, "created", "true"));
        update(node, &created, Limits { cpu_shares: 1024, ..Default::default() }).unwrap();
        node.try_start(&created).unwrap();
        node.wait_exit(&created);
        let late = update(node, &created, Limits { cpu_shares: 2, ..Default::default() }).unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition);
    });
}

#[test]
fn a_pods_own_limits_change_too() {
    test(|node| {
        let (pod_id, _) = sleeper(node, "pod", |_, _| ());
        let update = |id: &str, memory: i64, overhead: Option<i64>| {
            let limits = |bytes| newest::LinuxContainerResources {
                memory_limit_in_bytes: bytes,
                ..Default::default()
            };
            let request = newest::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.into(),
                overhead: overhead.map(limits),
                resources: Some(limits(memory)),
            };
            node.newest(async |mut c| c.update_pod_sandbox_resources(request).await).map(drop)
        };
        let read = |name: &str| cgroups::read(node.cgroup(), name, ["memory.limit_in_bytes", "memory.max"]);
        update(&pod_id, 256 * MIB, Some(16 * MIB)).unwrap();
        assert_eq!(read(&pod_id), (272 * MIB).to_string());
        update(&pod_id, 128 * MIB, None).unwrap();
        assert_eq!(read(&pod_id), (144 * MIB).to_string(), "what is left out stays");
        let inspected = node.crictl(&["inspectp", &pod_id]).ok().text().to_owned();
        assert!(inspected.contains(&(128 * MIB).to_string()), "{inspected}");
        assert_eq!(update(&pod_id, -7, None).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(update(&"0".repeat(64), 5, None).unwrap_err().code(), Code::NotFound);
        let nothing =
            newest::UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod_id.clone(), ..Default::default() };
        let refused = node.newest(async |mut c| c.update_pod_sandbox_resources(nothing).await).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        node.stop_pod(&pod_id).unwrap();
        assert_eq!(update(&pod_id, 64 * MIB, None).unwrap_err().code(), Code::FailedPrecondition);
        // What the kubelet has made, the kubelet limits: it only says so.
        let mut config = pod(node, "kubelets");
        let parent = format!("{}/kubepods/pod-7", node.cgroup());
        config.linux.get_or_insert_default().cgroup_parent = parent;
        let kubelets = node.run_pod(&config);
        let before = read("pod-7");
        update(&kubelets, 64 * MIB, None).unwrap();
        assert_eq!(read("pod-7"), before);
        node.stop_pod(&kubelets).unwrap();
        node.remove_pod(&kubelets).unwrap();
        cgroups::remove(&format!("{}/kubepods", node.cgroup()));
    });
}

#[test]
fn huge_pages_are_limited_where_the_node_can() {
    test(|node| {
        let hugetlb = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers")
            .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers"))
            .is_ok_and(|all| all.split_whitespace().any(|c| c == "hugetlb"));
        let limits = Limits {
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            ..Default::default()
        };
        let (_, id) = sleeper(node, "huge", |_, config| {
            config.linux.get_or_insert_default().resources = Some(limits);
        });
        if hugetlb || std::path::Path::new("/sys/fs/cgroup/hugetlb").exists() {
            let read = cgroups::read(node.cgroup(), &id, ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"]);
            assert_eq!(read, (4 << 20).to_string());
        } else {
            // Without the controller Kubernetes goes on, and the node says so.
            node.crictl(&["info"]).ok().has(&["hugetlb"]);
        }
    });
}
