use super::limited;
use k8s_cri::v1::{self as cri, MetricType};
use std::collections::HashMap;
use strata_e2e::node::test;

/// What must be told of every container, as the newest validation suite of cri-tools has it, and its type in cAdvisor.
const COUNTERS: [&str; 20] = [
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
    "container_oom_events_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_blkio_device_usage_total",
];
const GAUGES: [&str; 28] = [
    "container_file_descriptors",
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_limit_bytes",
    "container_fs_usage_bytes",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_kernel_usage",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_start_time_seconds",
    "container_threads",
    "container_threads_max",
    "container_ulimits_soft",
    "container_hugetlb_usage_bytes",
    "container_hugetlb_max_usage_bytes",
];
/// Told where the kernel counts them, and where something has happened.
const PERHAPS: [&str; 6] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_ulimits_soft",
];

#[test]
fn what_cadvisor_would_tell() {
    test(|node| {
        let (_, pod_id, id) = limited(node, "seen", "exec sleep 1000");
        node.exec(&id, "mkdir -p /var/lib/t && for i in 1 2 3; do echo hi > /var/lib/t/$i; done; sync");
        // What is asked for earlier waits no longer than a moment for this.
        strata_e2e::eventually(30, "the writable layer is measured", || {
            let request = cri::ContainerStatsRequest { container_id: id.clone() };
            let stats = node.cri(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap();
            stats.writable_layer.map(drop).ok_or_else(|| "not yet".to_owned())
        });
        let descriptors = node
            .cri(async |mut c| c.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await)
            .unwrap();
        let labels: HashMap<&str, &[String]> =
            descriptors.descriptors.iter().map(|d| (d.name.as_str(), d.label_keys.as_slice())).collect();
        let answer = node
            .cri(async |mut c| c.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await)
            .unwrap();
        assert_eq!(answer.pod_metrics.len(), 1);
        let pod = &answer.pod_metrics[0];
        assert_eq!((pod.pod_sandbox_id.as_str(), pod.container_metrics.len()), (pod_id.as_str(), 1));
        assert_eq!(pod.container_metrics[0].container_id, id);
        let metrics: Vec<&cri::Metric> =
            pod.metrics.iter().chain(&pod.container_metrics[0].metrics).collect();
        for metric in &metrics {
            assert_eq!(metric.label_values.len(), labels[metric.name.as_str()].len(), "{metric:?}");
            assert!(metric.value.is_some(), "{metric:?}");
        }
        let of = |name: &str| -> Vec<&cri::Metric> {
            metrics.iter().filter(|m| m.name == name).copied().collect()
        };
        for (names, kind) in [(&COUNTERS[..], MetricType::Counter), (&GAUGES[..], MetricType::Gauge)] {
            for name in names {
                assert!(labels.contains_key(name), "{name} is not described");
                assert!(PERHAPS.contains(name) || !of(name).is_empty(), "{name} is missing");
                assert!(of(name).iter().all(|m| m.metric_type() == kind), "{name}");
            }
        }
        values(node, &id, &labels, &of);
        let shown = node.crictl(&["metricsp"]).ok();
        assert_eq!(shown.json()["podMetrics"][0]["podSandboxId"], pod_id.as_str());
        node.crictl(&["metricdescs"]).ok().has(&["container_memory_working_set_bytes"]);
    });
}

fn values<'a>(
    node: &strata_e2e::node::Node,
    id: &str,
    labels: &HashMap<&str, &[String]>,
    of: &impl Fn(&str) -> Vec<&'a cri::Metric>,
) {
    let value = |name: &str| of(name)[0].value.as_ref().unwrap().value;
    assert_eq!(value("container_spec_cpu_period"), 100_000);
    assert_eq!(value("container_spec_cpu_quota"), 50_000);
    assert_eq!(value("container_spec_cpu_shares"), 1024);
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    let processes = value("container_processes");
    assert!(processes == 1 && value("container_threads") == 1, "{processes}");
    assert!(value("container_file_descriptors") >= 3);
    let working_set = value("container_memory_working_set_bytes");
    assert!(working_set > 0 && working_set <= value("container_memory_usage_bytes"));
    assert!(value("container_memory_max_usage_bytes") >= value("container_memory_working_set_bytes"));
    assert!(value("container_fs_limit_bytes") > value("container_fs_usage_bytes"));
    let started = u64::try_from(node.status(id).started_at).unwrap() / 1_000_000_000;
    assert_eq!(value("container_start_time_seconds"), started);
    assert!(value("container_last_seen") >= started);
    assert_eq!(value("container_oom_events_total"), 0);
    let label = |name: &str, key: &str| {
        let place =
            labels[name].iter().position(|k| k == key).unwrap_or_else(|| panic!("{name} has no {key}"));
        of(name)[0].label_values[place].clone()
    };
    for (key, wanted) in [("container", "c"), ("pod", "seen"), ("namespace", "e2e"), ("name", id)] {
        assert_eq!(label("container_memory_rss", key), wanted);
    }
    assert!(label("container_memory_rss", "image").ends_with("/e2e/busybox:latest"));
    assert!(label("container_memory_rss", "id").ends_with(id));
    assert_eq!(label("container_cpu_usage_seconds_total", "cpu"), "total");
    assert_eq!(label("container_network_receive_bytes_total", "interface"), "eth0");
    assert_eq!(label("container_network_receive_bytes_total", "container"), "");
    assert!(!label("container_fs_limit_bytes", "device").is_empty());
    let scopes: Vec<_> =
        of("container_memory_failures_total").iter().map(|m| m.label_values[6..].join(" ")).collect();
    assert_eq!(
        scopes,
        ["pgfault container", "pgmajfault container", "pgfault hierarchy", "pgmajfault hierarchy"]
    );
    // What is read for the answer has no time of its own; the size of the writable layer was found before.
    assert_eq!(of("container_memory_rss")[0].timestamp, 0);
    assert!(of("container_fs_usage_bytes")[0].timestamp > 0);
}
