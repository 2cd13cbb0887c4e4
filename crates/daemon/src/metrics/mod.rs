//! What stratad measures of itself, for Prometheus.
//!
//! * [`rpc`]: every gRPC call, as a layer around the services; it logs them, too.
//! * [`http`]: `[metrics] address`, where Prometheus asks.
//! * `state`: what is looked up when it asks: pods, containers, the store.
//!
//! Names are Prometheus' way: base units, `_total` for counters. Labels have few values: never an ID, an image or a name.

pub(crate) mod http;
pub(crate) mod rpc;
mod state;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::node::Node;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::Instant;

/// Bounds of the histograms of durations, in seconds: from a call that only looks something up to a pull.
const DURATIONS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

/// What is counted while it happens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// gRPC calls.
    pub(crate) rpc: Arc<rpc::Calls>,
    /// Networks.
    pub(crate) networks: Networks,
    /// Shims that were started.
    pub(crate) shims_started: Counter,
    /// Shims that have died under their pods.
    pub(crate) shims_lost: Counter,
    /// Connections to living shims that were made anew.
    pub(crate) shims_reconnected: Counter,
}

/// How long attaching and detaching pods takes.
#[derive(Clone, Debug)]
pub(crate) struct Networks(Family<NetworkLabels, Histogram>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NetworkLabels {
    provider: String,
    operation: &'static str,
    result: &'static str,
}

impl Default for Networks {
    fn default() -> Self {
        Self(Family::new_with_constructor(durations))
    }
}

impl Networks {
    /// Waits for an operation of a network, and counts it.
    pub(crate) async fn timed<T>(
        &self,
        provider: &str,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let done = work.await;
        let labels = NetworkLabels {
            provider: provider.to_owned(),
            operation,
            result: result_of(done.as_ref().err()),
        };
        self.0.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
        done
    }
}

/// Pulls of images.
#[derive(Clone, Debug)]
pub(crate) struct Pulls {
    durations: Family<ResultLabels, Histogram>,
    bytes: Counter,
    running: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(durations),
            bytes: Counter::default(),
            running: Gauge::default(),
        }
    }
}

impl Pulls {
    /// A pull begins. It counts as cancelled unless it is told how it has ended.
    pub(crate) fn begin(&self) -> Pull {
        self.running.inc();
        Pull { pulls: self.clone(), begun: Instant::now(), result: "cancelled" }
    }

    /// Bytes have come from a registry.
    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }
}

/// One pull under way.
#[derive(Debug)]
pub(crate) struct Pull {
    pulls: Pulls,
    begun: Instant,
    result: &'static str,
}

impl Pull {
    /// It has ended.
    pub(crate) fn ended<T>(mut self, result: &Result<T>) {
        self.result = result_of(result.as_ref().err());
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.pulls.running.dec();
        let labels = ResultLabels { result: self.result };
        self.pulls.durations.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// `ok`, or the sort of error as gRPC calls it.
fn result_of(error: Option<&Error>) -> &'static str {
    error.map_or("ok", |e| rpc::code_name(tonic::Status::from(e.clone()).code()))
}

/// Everything, under its name.
pub(crate) fn registry(node: &Arc<Node>) -> Registry {
    let Metrics { rpc, networks, shims_started, shims_lost, shims_reconnected } = node.metrics.clone();
    let Pulls { durations, bytes, running } = node.images.pulls().clone();
    let mut all = Registry::with_prefix("strata");
    rpc.register(&mut all);
    let pulls = "How long pulls of images took, by how they ended";
    all.register_with_unit("image_pull_duration", pulls, Unit::Seconds, durations);
    all.register("image_pull_bytes", "Bytes of layers that came from registries", bytes);
    all.register("image_pulls_in_flight", "Pulls under way", running);
    let networks_help = "How long attaching and detaching pods took";
    all.register_with_unit("network_operation_duration", networks_help, Unit::Seconds, networks.0);
    all.register("shims_started", "Shims that were started, one per pod", shims_started);
    all.register("shims_lost", "Shims that died under their pods", shims_lost);
    all.register("shims_reconnected", "Connections to living shims that were made anew", shims_reconnected);
    all.register_collector(Box::new(state::State::of(node)));
    all
}
