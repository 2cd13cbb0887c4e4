//! `strata-e2e-kubelet`: a real kubelet against stratad, on a node of its own.

use clap::Parser;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;
use strata_e2e::kubelet::{Kubelet, checks};
use strata_e2e::node::{self, cgroups};

/// Runs static pods by a real kubelet, without an API server, and looks at what a node's administrator would look at. Fails for a check
/// that failed, and for a cgroup, mount, process or namespace that stays when all pods are gone.
///
/// Everything has network, IPC and mount namespaces, a registry and cgroups of its own. The programs are those of STRATA_BIN_DIR and
/// STRATA_CRICTL.
#[derive(Parser)]
#[command(name = "strata-e2e-kubelet")]
struct Args {
    /// Where kubelet and kubelet-client are, which hack/kubelet builds.
    #[arg(long, value_name = "DIR")]
    tools: PathBuf,
    /// Only checks whose names hold one of these.
    names: Vec<String>,
}

fn main() {
    let args = Args::parse();
    // Before anything else has started a thread.
    let isolated = node::place::isolate();
    if let Some(why) = node::place::lacking() {
        strata_e2e::skip(why);
        return;
    }
    isolated.unwrap_or_else(|e| panic!("namespaces for the kubelet: {e}"));
    node::remove_nodes_on_signals().unwrap_or_else(|e| panic!("signals: {e}"));
    let tools = std::path::absolute(&args.tools).unwrap_or_else(|e| panic!("{}: {e}", args.tools.display()));
    node::test(|node| {
        let mut kubelet = Kubelet::start(node, &tools).unwrap_or_else(|e| panic!("{e}"));
        let failed = run(&mut kubelet, &args.names);
        // It made these before any pod, and keeps them.
        kubelet.kill();
        cgroups::remove(&format!("{}/kube", node.cgroup()));
        assert!(failed.is_empty(), "failed: {}", failed.join(", "));
    });
}

/// Runs the checks one after the other, each to its end; which failed.
fn run(kubelet: &mut Kubelet<'_>, names: &[String]) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, check) in checks::ALL {
        if !names.is_empty() && !names.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        let (begun, log) = (Instant::now(), kubelet.log().len());
        let good = catch_unwind(AssertUnwindSafe(|| check(kubelet))).is_ok();
        println!(
            "{:6.1} s  {}  {name}",
            begun.elapsed().as_secs_f64(),
            if good { "passed" } else { "FAILED" }
        );
        if good {
            passed += 1;
        } else {
            println!("--- kubelet.log\n{}", kubelet.log().get(log..).unwrap_or_default());
            failed.push(name);
            kubelet.clear();
        }
    }
    println!("in short: {passed} passed, {} failed", failed.len());
    failed
}
