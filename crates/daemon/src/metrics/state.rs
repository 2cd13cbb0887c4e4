//! What is looked up when Prometheus asks: nothing of it is counted on the way.

use crate::container::state::ContainerState;
use crate::node::Node;
use crate::pod::state::PodState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::{Arc, Weak};

/// The node's state.
#[derive(Debug)]
pub(super) struct State(Weak<Node>);

impl State {
    pub(super) fn of(node: &Arc<Node>) -> Self {
        Self(Arc::downgrade(node))
    }
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node) = self.0.upgrade() else { return Ok(()) };
        let mut sheet = Sheet(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        sheet.gauges("build_info", "The version of stratad", [(version, 1)])?;
        pods(&node, &mut sheet)?;
        store(&node, &mut sheet)?;
        let followers = count(node.events.followers());
        sheet.gauge("event_followers", "Clients that follow GetContainerEvents", followers)?;
        let cut = "Clients that were cut off because they took events too slowly";
        sheet.counter("event_followers_cut", cut, node.events.cut_off())?;
        own(&mut sheet)
    }
}

struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn count(n: usize) -> u64 {
    n as u64
}

/// Every state is told, also with none in it: a line that comes and goes makes gaps in graphs.
fn pods(node: &Node, sheet: &mut Sheet<'_>) -> fmt::Result {
    let all: Vec<PodState> = node.pods.all().iter().map(|p| p.state()).collect();
    let pod = |name, state| ([("state", name)], count(all.iter().filter(|s| **s == state).count()));
    let states = [
        pod("creating", PodState::Creating),
        pod("ready", PodState::Ready),
        pod("stopping", PodState::Stopping),
        pod("notready", PodState::NotReady),
        pod("discarding", PodState::Discarding),
    ];
    sheet.gauges("pods", "Pods by state, of Kubernetes and of strata run", states)?;
    let all: Vec<ContainerState> = node.containers.all().iter().map(|c| c.state()).collect();
    let container = |name, state| ([("state", name)], count(all.iter().filter(|s| **s == state).count()));
    let states = [
        container("creating", ContainerState::Creating),
        container("created", ContainerState::Created),
        container("running", ContainerState::Running),
        container("exited", ContainerState::Exited),
        container("unknown", ContainerState::Unknown),
        container("removing", ContainerState::Removing),
    ];
    sheet.gauges("containers", "Containers by state, of Kubernetes and of strata run", states)
}

fn store(node: &Node, sheet: &mut Sheet<'_>) -> fmt::Result {
    let usage = node.store.usage();
    sheet.gauge("store_images", "Images", count(usage.images.len()))?;
    sheet.gauge("store_layers", "Unpacked layers", count(usage.layers.len()))?;
    sheet.gauge("store_blobs", "Blobs: manifests, configs, compressed layers", count(usage.blobs.len()))?;
    let kind = |name, bytes| ([("kind", name)], bytes);
    let bytes = [
        kind("images", usage.image_bytes),
        kind("containers", usage.container_bytes),
        kind("trash", usage.trash_bytes),
    ];
    sheet.gauges("store_bytes", "Bytes on disk", bytes)?;
    let help = "Of the images' bytes, what would be free if all went on which no container stands";
    sheet.gauge("store_reclaimable_bytes", help, usage.reclaimable)?;
    let gc = node.store.collected();
    sheet.counter("store_gc_runs", "Garbage collections", gc.runs)?;
    sheet.counter("store_gc_removed_layers", "Layers that garbage collections removed", gc.layers)?;
    sheet.counter("store_gc_removed_blobs", "Blobs that garbage collections removed", gc.blobs)?;
    sheet.counter("store_gc_freed_bytes", "Bytes on disk that garbage collections freed", gc.bytes)
}

/// Of stratad itself.
fn own(sheet: &mut Sheet<'_>) -> fmt::Result {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next());
    let bytes = resident.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib.saturating_mul(1024));
    sheet.gauge("process_resident_memory_bytes", "Memory of stratad", bytes)?;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    sheet.gauge("process_open_fds", "Open descriptors of stratad", count(open))
}
