//! `strata-e2e-critest`: cri-tools' validation suite against stratad, on a node of its own.

use clap::Parser;
use std::path::PathBuf;
use strata_e2e::Result;
use strata_e2e::critest::networks::{self, Network};
use strata_e2e::critest::{self, Run};
use strata_e2e::node::{self, cni};

/// Runs cri-tools' validation suite against stratad; fails for a spec that failed, for one that was skipped without being
/// listed in e2e/cri-tools/skips.txt, and for an address, an interface or a rule that stays when all pods are gone.
///
/// Without further arguments: all of it on CNI, the specs of streaming there once more over WebSocket, and those that concern
/// the network once more on the built-in one. Otherwise one run, on CNI unless another network is named.
///
/// The daemon and the suite have network, IPC and mount namespaces, a registry and cgroups of their own. Their programs are those
/// of STRATA_BIN_DIR and STRATA_CRICTL.
#[derive(Parser)]
#[command(name = "strata-e2e-critest")]
struct Args {
    /// Where ginkgo and critest.test are, which hack/deps builds.
    #[arg(long, value_name = "DIR")]
    tools: PathBuf,
    /// How many processes run specs.
    #[arg(long, default_value_t = 8)]
    processes: u32,
    /// Only specs whose full name matches this regular expression.
    #[arg(long, default_value = "")]
    focus: String,
    /// Only on this network.
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// With `selinux = true` in the configuration: every container is labelled.
    #[arg(long)]
    selinux: bool,
    /// Prints how long each spec took, the slowest last.
    #[arg(long)]
    times: bool,
    /// Arguments of the suite itself, such as --websocket-exec.
    #[arg(last = true)]
    suite: Vec<String>,
}

fn main() {
    let args = Args::parse();
    // The suite leaves shared memory behind, and mounts: in namespaces that end with this process. Before anything else: what
    // looks at the machine has threads, of which the kernel may see the last a moment longer.
    let isolated = node::place::isolate();
    if let Some(why) = node::place::lacking() {
        strata_e2e::skip(why);
        return;
    }
    isolated.unwrap_or_else(|e| panic!("namespaces for the suite: {e}"));
    node::remove_nodes_on_signals().unwrap_or_else(|e| panic!("signals: {e}"));
    node::test(|node| {
        if let Err(e) = run(node, &args) {
            panic!("{e}");
        }
    });
}

fn run(node: &node::Node, args: &Args) -> Result<()> {
    critest::serve_images(node)?;
    if args.selinux {
        node.reconfigure(|text| text.replace("[runtime]\n", "[runtime]\nselinux = true\n"));
    }
    let mut said = Vec::new();
    let mut good = true;
    for (network, runs) in plan(args)? {
        println!("On {network}:");
        let (results, left) = networks::on(node, network, || {
            runs.iter().map(|how| one(node, args, how)).collect::<Result<Vec<_>>>()
        });
        for (fine, text) in results? {
            good &= fine;
            said.push(format!("on {network}: {text}"));
        }
        for thing in &left {
            println!("LEFT BEHIND on {network}: {thing}");
        }
        good &= left.is_empty();
    }
    println!("in short: {}", said.join("; "));
    if good { Ok(()) } else { Err("the suite did not pass; see above".into()) }
}

/// What is run on which network: all of the suite on one, and on both what concerns them.
fn plan(args: &Args) -> Result<Vec<(Network, Vec<Run>)>> {
    let all = Run {
        tools: std::path::absolute(&args.tools)?,
        processes: args.processes,
        focus: args.focus.clone(),
        more: args.suite.clone(),
    };
    let main = match (args.network, cni::lacking()) {
        (Some(network), _) => network,
        (None, None) => Network::Cni,
        (None, Some(why)) => {
            strata_e2e::skip(format_args!("the suite on CNI {why}"));
            Network::Builtin
        }
    };
    if !args.focus.is_empty() || !args.suite.is_empty() {
        return Ok(vec![(main, vec![all])]);
    }
    let websocket = Run {
        focus: "Streaming runtime should support".into(),
        more: ["exec", "attach", "portforward"].map(|what| format!("--websocket-{what}")).into(),
        ..all.clone()
    };
    let again = Run { focus: networks::FOCUS.into(), ..all.clone() };
    let mut plan = vec![(main, vec![all, websocket])];
    if args.network.is_none() && main == Network::Cni {
        plan.push((Network::Builtin, vec![again]));
    }
    Ok(plan)
}

/// Runs the suite once; whether all is well, and a few words about it.
fn one(node: &node::Node, args: &Args, how: &Run) -> Result<(bool, String)> {
    if !how.more.is_empty() {
        println!("With {}:", how.more.join(" "));
    }
    let outcome = critest::run(node, how)?;
    if args.times {
        let mut specs: Vec<_> = outcome.specs.iter().filter(|spec| spec.state != "skipped").collect();
        specs.sort_by_key(|spec| spec.time);
        for spec in specs {
            println!("{:7.2} s  {}  {}", spec.time.as_secs_f64(), spec.state, spec.name);
        }
    }
    for complaint in &outcome.complaints {
        println!("{complaint}");
    }
    let (passed, skipped) = (outcome.count("passed"), outcome.count("skipped"));
    let failed = outcome.specs.len() - passed - skipped;
    let mut text = format!("{passed} passed, {failed} failed");
    if how.focus.is_empty() {
        for reason in critest::reasons(&outcome)? {
            println!("skipped: {reason}");
        }
        text = format!("{} specs, {text}, {skipped} skipped", outcome.specs.len());
    }
    text = format!("{text}, in {:.0} s", outcome.time.as_secs_f64());
    println!("{text}");
    Ok((outcome.complaints.is_empty(), text))
}
