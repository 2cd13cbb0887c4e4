use super::{limited, number};
use k8s_cri::v1 as cri;
use strata_e2e::node::{Node, test};

fn of_container(node: &Node, id: &str) -> cri::ContainerStats {
    let request = cri::ContainerStatsRequest { container_id: id.into() };
    node.cri(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap()
}

fn of_pod(node: &Node, id: &str) -> cri::LinuxPodSandboxStats {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    let stats = node.cri(async |mut c| c.pod_sandbox_stats(request).await).unwrap().stats.unwrap();
    assert_eq!(stats.attributes.unwrap().id, id);
    stats.linux.unwrap()
}

#[test]
fn containers_and_pods() {
    test(|node| {
        let (_, pod_id, id) = limited(node, "busy", "while :; do :; done");
        let first = of_container(node, &id);
        let attributes = first.attributes.unwrap();
        assert_eq!((attributes.id.as_str(), attributes.metadata.unwrap().name.as_str()), (id.as_str(), "c"));
        let cpu = first.cpu.unwrap();
        assert!(number(cpu.usage_core_nano_seconds.as_ref()) > 0 && cpu.timestamp > 0);
        // Some of half a CPU, from the first answer on.
        strata_e2e::eventually(20, "the rate is that of a busy container", || {
            let cpu = of_container(node, &id).cpu.unwrap_or_default();
            let rate = cpu.usage_nano_cores.unwrap_or_default().value;
            if (10_000_000..2_000_000_000).contains(&rate) { Ok(()) } else { Err(rate.to_string()) }
        });
        // The kernel adds some of its counters up every other second only.
        let memory = strata_e2e::eventually(20, "page faults are counted", || {
            let memory = of_container(node, &id).memory.unwrap_or_default();
            let faults = memory.page_faults.as_ref().map_or(0, |n| n.value);
            if faults > 0 { Ok(memory) } else { Err(format!("{memory:?}")) }
        });
        let (working_set, usage) =
            (number(memory.working_set_bytes.as_ref()), number(memory.usage_bytes.as_ref()));
        assert!(working_set > 0 && working_set <= usage && usage < 64 << 20, "{memory:?}");
        let available = number(memory.available_bytes.as_ref());
        assert!((1..=64 << 20).contains(&available) && available + working_set == 64 << 20, "{memory:?}");
        assert!(number(memory.page_faults.as_ref()) > 0, "{memory:?}");
        assert!(memory.rss_bytes.is_some() && memory.major_page_faults.is_some());
        if let Some(swap) = first.swap {
            assert_eq!(number(swap.swap_available_bytes.as_ref()), 0, "{swap:?}");
            assert_eq!(number(swap.swap_usage_bytes.as_ref()), 0);
        }
        let layer = strata_e2e::eventually(30, "the writable layer is measured", || {
            of_container(node, &id).writable_layer.ok_or_else(|| "not yet".to_owned())
        });
        assert!(node.dir("root").starts_with(&layer.fs_id.unwrap().mountpoint));
        assert!(number(layer.inodes_used.as_ref()) > 0);

        let stats = of_pod(node, &pod_id);
        assert_eq!(stats.containers.len(), 1);
        assert_eq!(number(stats.process.unwrap().process_count.as_ref()), 1);
        assert!(number(stats.memory.unwrap().working_set_bytes.as_ref()) > 0);
        assert!(number(stats.cpu.unwrap().usage_core_nano_seconds.as_ref()) > 0);
        let listed = node
            .cri(async |mut c| c.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()).await)
            .unwrap();
        assert_eq!(listed.stats.len(), 1);
        node.crictl(&["statsp"]).ok().has(&["busy", &pod_id[..13]]);
        node.crictl(&["stats"]).ok().has(&[&id[..13]]);

        node.stop_container(&id, 0).unwrap();
        let listed = node
            .cri(async |mut c| c.list_container_stats(cri::ListContainerStatsRequest::default()).await)
            .unwrap();
        assert!(listed.stats.is_empty(), "{listed:?}");
        node.stop_pod(&pod_id).unwrap();
        let listed = node
            .cri(async |mut c| c.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()).await)
            .unwrap();
        assert!(listed.stats.is_empty(), "{listed:?}");
    });
}

#[test]
fn traffic_is_the_pods_own() {
    test(|node| {
        let (_, pod_id, id) = limited(node, "talks", "exec sleep 1000");
        let sent = || {
            let network = of_pod(node, &pod_id).network.unwrap();
            let own = network.default_interface.unwrap();
            assert_eq!(
                (own.name.as_str(), network.interfaces.len()),
                ("eth0", 0),
                "loopback is nobody's traffic"
            );
            assert_eq!((number(own.tx_errors.as_ref()), number(own.rx_errors.as_ref())), (0, 0));
            assert!(own.rx_bytes.is_some());
            number(own.tx_bytes.as_ref())
        };
        let before = sent();
        // Whoever answers: the question is traffic.
        node.exec(&id, "ping -c 2 -W 1 -s 1000 10.88.0.1 || true");
        assert!(sent() > before);
        // On the node's network nothing is the pod's alone.
        let mut host = strata_e2e::node::pod(node, "host");
        let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
        let context = host.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options = Some(options);
        let host_id = node.run_pod(&host);
        assert!(of_pod(node, &host_id).network.is_none());
    });
}

#[test]
fn what_the_kubelet_asks_of_the_node() {
    test(|node| {
        let config = node.cri(async |mut c| c.runtime_config(cri::RuntimeConfigRequest {}).await).unwrap();
        assert_eq!(config.linux.unwrap().cgroup_driver(), cri::CgroupDriver::Cgroupfs);
        let status = node.cri(async |mut c| c.status(cri::StatusRequest { verbose: true }).await).unwrap();
        let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
        let root = node.dir("root");
        assert_eq!(info["root"], root.to_str().unwrap(), "{info}");
        for key in [
            "version",
            "state",
            "cgroupMode",
            "cgroupDriver",
            "network",
            "bootID",
            "warnings",
            "kernel",
            "log",
        ] {
            assert!(!info[key].is_null(), "{key}: {info}");
        }
        let status = node.cri(async |mut c| c.status(cri::StatusRequest { verbose: false }).await).unwrap();
        assert!(status.info.is_empty());
    });
}
