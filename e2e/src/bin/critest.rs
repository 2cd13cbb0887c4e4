//! `strata-e2e-critest`: cri-tools' validation suite against stratad, on a node of its own.

use clap::Parser;
use std::path::PathBuf;
use strata_e2e::critest::{self, Run};
use strata_e2e::{Result, node};
use strata_sys::ns::{self, NsKind};

/// Runs cri-tools' validation suite against stratad; fails for a spec that failed, and for one that was skipped without being
/// listed in e2e/cri-tools/skips.txt.
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
    let isolated = isolate();
    if let Some(why) = node::place::lacking() {
        println!("skipped: {why}");
        return;
    }
    isolated.unwrap_or_else(|e| panic!("namespaces for the suite: {e}"));
    node::test(|node| {
        if let Err(e) = run(node, &args) {
            panic!("{e}");
        }
    });
}

/// Gives this process, which must not have started threads, IPC and mount namespaces of its own.
fn isolate() -> Result<()> {
    ns::unshare(&[NsKind::Ipc, NsKind::Mount])?;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    Ok(nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?)
}

fn run(node: &node::Node, args: &Args) -> Result<()> {
    critest::serve_images(node)?;
    let how = Run {
        tools: std::path::absolute(&args.tools)?,
        processes: args.processes,
        focus: args.focus.clone(),
        more: args.suite.clone(),
    };
    let mut good = one(node, args, &how)?;
    if args.focus.is_empty() && args.suite.is_empty() {
        println!("The specs of streaming again, over WebSocket instead of SPDY:");
        let more = ["exec", "attach", "portforward"].map(|what| format!("--websocket-{what}"));
        let websocket = Run { focus: "Streaming runtime should support".into(), more: more.into(), ..how };
        good &= one(node, args, &websocket)?;
    }
    if good { Ok(()) } else { Err("the suite did not pass; see above".into()) }
}

/// Runs the suite once; whether all is well.
fn one(node: &node::Node, args: &Args, how: &Run) -> Result<bool> {
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
    if !how.focus.is_empty() {
        println!("{passed} passed, {failed} failed, in {:.0} s", outcome.time.as_secs_f64());
        return Ok(outcome.complaints.is_empty());
    }
    for reason in critest::reasons(&outcome)? {
        println!("skipped: {reason}");
    }
    println!(
        "in short: {} specs, {passed} passed, {failed} failed, {skipped} skipped, in {:.0} s",
        outcome.specs.len(),
        outcome.time.as_secs_f64()
    );
    Ok(outcome.complaints.is_empty())
}
