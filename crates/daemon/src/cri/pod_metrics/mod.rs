//! ListMetricDescriptors and ListPodSandboxMetrics: what the kubelet serves in place of cAdvisor under /metrics/cadvisor
//! (KEP-2371), with cAdvisor's names, labels and units.
//!
//! Labels are those that the kubelet gives cAdvisor's metrics, so that queries and dashboards go on: `id` is the cgroup, `name`
//! the container's ID. Traffic is the pod's, with no container. Values are whole numbers, CRI has no others: seconds are
//! rounded down.

mod container;
mod descriptors;
mod devices;

use super::stats;
use crate::container::ContainerInfo;
use crate::error::Result;
use crate::node::Node;
use crate::pod::{Pod, PodInfo};
use crate::tasks::blocking;
use crate::usage::PodUsage;
use container::Seen;
pub(super) use descriptors::all as descriptors;
use descriptors::{Descriptor, network};
use std::sync::Arc;
use std::time::Duration;
use strata_api::cri;

/// How long the writable layers of new containers may take to be measured for the first time.
const PATIENCE: Duration = Duration::from_millis(200);

/// Metrics of one pod or container.
struct Sheet {
    labels: Vec<String>,
    metrics: Vec<cri::Metric>,
}

impl Sheet {
    /// With the labels that all of its metrics have, in the order of [`descriptors::LABELS`].
    fn new(container: Option<&ContainerInfo>, pod: &PodInfo) -> Self {
        let metadata = pod.metadata();
        let (name, id, image, own) = match container {
            None => (String::new(), pod.cgroup_parent.clone(), String::new(), pod.id.clone()),
            Some(c) => (
                c.record.config.metadata.clone().unwrap_or_default().name,
                c.record.cgroup.clone(),
                c.record.config.image.clone().unwrap_or_default().image,
                c.record.id.clone(),
            ),
        };
        Self { labels: vec![name, id, image, own, metadata.namespace, metadata.name], metrics: Vec::new() }
    }

    /// Adds a value that has been read just now.
    fn add(&mut self, what: &Descriptor, value: u64) {
        self.add_for(what, &[], value);
    }

    /// Adds a value if this node counts it.
    fn maybe(&mut self, what: &Descriptor, value: Option<u64>) {
        if let Some(value) = value {
            self.add(what, value);
        }
    }

    /// Adds a value with further labels.
    fn add_for(&mut self, what: &Descriptor, labels: &[&str], value: u64) {
        // A timestamp says that a value is older than the answer (CRI, "Metric").
        self.add_of(what, labels, value, 0);
    }

    /// Adds a value of that time, in nanoseconds since 1970.
    fn add_of(&mut self, what: &Descriptor, labels: &[&str], value: u64, timestamp: i64) {
        debug_assert_eq!(what.labels.len(), labels.len(), "{}", what.name);
        let own = self.labels.iter().cloned();
        self.metrics.push(cri::Metric {
            name: what.name.to_owned(),
            timestamp,
            metric_type: what.kind.into(),
            label_values: own.chain(labels.iter().map(|l| (*l).to_owned())).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }
}

/// ListPodSandboxMetrics: of the pods that are ready, and of their containers that run.
pub(super) async fn of_pods(node: &Arc<Node>) -> Result<Vec<cri::PodSandboxMetrics>> {
    let (node, pods) = (node.clone(), stats::ready(node));
    blocking(move || {
        let mut running = super::containers::matching(&node, None)?;
        running.retain(|c| c.live.running() && pods.iter().any(|p| p.id() == c.record.pod_id));
        let new = running.iter().filter(|c| node.store.writable(c.id()).is_none());
        let new: Vec<String> = new.map(|c| c.id().to_owned()).collect();
        if !new.is_empty() {
            node.store.measure_writable(&new, PATIENCE);
        }
        let used = node.containers_usage(&running)?;
        let seen = Seen::of(&node, &running)?;
        let traffic = node.pods_usage(&pods)?;
        let of_pod = |(pod, traffic): (&Arc<Pod>, &PodUsage)| {
            let pod = pod.info();
            let own = running.iter().zip(&used).zip(&seen.containers);
            let own = own.filter(|((c, _), _)| c.record.pod_id == pod.id);
            let containers = own.map(|((container, used), more)| cri::ContainerMetrics {
                container_id: container.id().to_owned(),
                metrics: container::metrics(container, &pod, used, more, &seen),
            });
            cri::PodSandboxMetrics {
                pod_sandbox_id: pod.id.clone(),
                metrics: traffic_of(&pod, traffic),
                container_metrics: containers.collect(),
            }
        };
        Ok(pods.iter().zip(&traffic).map(of_pod).collect())
    })
    .await
}

fn traffic_of(pod: &PodInfo, used: &PodUsage) -> Vec<cri::Metric> {
    let mut sheet = Sheet::new(None, pod);
    for interface in used.interfaces.iter().flatten() {
        let values = [
            (&network::RECEIVED_BYTES, interface.received.bytes),
            (&network::RECEIVED_PACKETS, interface.received.packets),
            (&network::RECEIVED_DROPPED, interface.received.dropped),
            (&network::RECEIVED_ERRORS, interface.received.errors),
            (&network::SENT_BYTES, interface.sent.bytes),
            (&network::SENT_PACKETS, interface.sent.packets),
            (&network::SENT_DROPPED, interface.sent.dropped),
            (&network::SENT_ERRORS, interface.sent.errors),
        ];
        for (what, value) in values {
            sheet.add_for(what, &[&interface.name], value);
        }
    }
    sheet.metrics
}
