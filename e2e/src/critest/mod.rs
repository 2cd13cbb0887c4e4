//! cri-tools' validation suite on a node of its own.

pub mod networks;
pub mod report;
pub mod skips;

use crate::Result;
use crate::images::conformance;
use crate::node::{Node, place, registry};
use report::Spec;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How the suite is run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where ginkgo and the suite are.
    pub tools: PathBuf,
    /// How many processes run specs at once: most of a spec's time is waiting.
    pub processes: u32,
    /// Only specs whose name matches this regular expression of Go's; empty: all.
    pub focus: String,
    /// Further arguments for the suite.
    pub more: Vec<String>,
}

/// What the suite said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every spec.
    pub specs: Vec<Spec>,
    /// What is wrong: a line or more for each thing; none if all is well.
    pub complaints: Vec<String>,
    /// How long the suite ran.
    pub time: Duration,
}

impl Outcome {
    /// How many specs are in a state, in ginkgo's word.
    pub fn count(&self, state: &str) -> usize {
        self.specs.iter().filter(|spec| spec.state == state).count()
    }
}

/// Pushes the suite's images into the node's registry, and makes that a mirror of those they are named after.
pub fn serve_images(node: &Node) -> Result<()> {
    let parts = conformance::prepare(&place::target().join("e2e-cache"))?;
    let images = conformance::images(&parts)?;
    node.push(async |to| {
        for named in &images {
            for tag in &named.tags {
                to.push(&named.image, &named.repository, tag).await?;
            }
        }
        Ok(())
    });
    for name in conformance::REGISTRIES {
        let text = format!(
            "server = \"https://{name}\"\n\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            registry::HOST
        );
        node.set_hosts(name, "hosts.toml", &text);
    }
    Ok(())
}

/// Runs the suite against the node's daemon.
pub fn run(node: &Node, run: &Run) -> Result<Outcome> {
    let list = skips::parse(skips::LIST)?;
    let report = node.dir("critest.json");
    let scratch = node.dir("tmp");
    std::fs::create_dir_all(&scratch)?;
    let log = std::fs::File::create(node.dir("critest.log"))?;
    let mut command = Command::new(run.tools.join("ginkgo"));
    command
        .args(["--no-color", "--seed=1", "--timeout=15m", "--json-report=critest.json"])
        .arg(format!("--nodes={}", run.processes))
        .arg(format!("--output-dir={}", node.dir("").display()))
        .args(skips::excluded(&list).iter().map(|name| format!("--skip={name}")));
    if !run.focus.is_empty() {
        command.arg(format!("--focus={}", run.focus));
    }
    command
        .arg(run.tools.join("critest.test"))
        .args(["--", &format!("--runtime-endpoint=unix://{}", node.socket().display())])
        .args(&run.more)
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let begun = Instant::now();
    let status = node.within(|| command.status());
    let time = begun.elapsed();
    let status = status.map_err(|e| format!("ginkgo: {e}; hack/deps builds it"))?;
    let json = std::fs::read(&report).map_err(|e| {
        let said = std::fs::read_to_string(node.dir("critest.log")).unwrap_or_default();
        format!("ginkgo ended with {status} and left no report ({e}): {said}")
    })?;
    let (specs, mut complaints) = report::parse(&json)?;
    complaints.extend(judge(&list, &specs, run));
    if complaints.is_empty() && !status.success() {
        complaints.push(format!("ginkgo ended with {status}; its report tells of no failure"));
    }
    Ok(Outcome { specs, complaints, time })
}

fn judge(list: &[skips::Skip], specs: &[Spec], run: &Run) -> Vec<String> {
    let mut complaints: Vec<String> = specs
        .iter()
        .filter(|spec| !matches!(spec.state.as_str(), "passed" | "skipped"))
        .map(|spec| {
            let lines: Vec<&str> = spec.output.lines().collect();
            let end = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n  | ");
            format!("{} {}: {}\n  | {end}", spec.state.to_uppercase(), spec.name, spec.failure)
        })
        .collect();
    // With a focus, ginkgo skips everything else, and says nothing of why.
    let asked = |spec: &&Spec| run.focus.is_empty() || spec.state != "skipped" || !spec.lacking.is_empty();
    let all: Vec<(String, bool)> =
        specs.iter().filter(asked).map(|spec| (spec.name.clone(), spec.state == "skipped")).collect();
    complaints.extend(skips::unlisted(list, &all));
    if run.focus.is_empty() {
        complaints.extend(skips::stale(list, &all));
    }
    if !specs.iter().any(|spec| spec.state == "passed") {
        complaints.push("no spec has passed".into());
    }
    complaints
}

/// The reasons for what was skipped, a line for each spec.
pub fn reasons(outcome: &Outcome) -> Result<Vec<String>> {
    let skipped: BTreeSet<String> =
        outcome.specs.iter().filter(|spec| spec.state == "skipped").map(|spec| spec.name.clone()).collect();
    Ok(skips::reasons(&skips::parse(skips::LIST)?, &skipped))
}
