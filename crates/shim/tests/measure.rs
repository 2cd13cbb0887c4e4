//! What a container costs: printed with `--nocapture`, never asserted. `STRATA_SHIM` names another build to measure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::Pod;
use common::plans::exec;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn time<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = f();
        self.0.push(began.elapsed());
        done
    }

    fn print(&mut self, what: &str) {
        self.0.sort();
        let at = |part: usize| self.0[(self.0.len() - 1) * part / 100].as_secs_f64() * 1000.0;
        println!("{what:18} p50 {:6.2} ms   p95 {:6.2} ms   max {:6.2} ms", at(50), at(95), at(100));
    }
}

#[test]
fn what_a_container_costs() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    let [mut create, mut start, mut kill, mut remove] = std::array::from_fn(|_| Times::default());
    for n in 0..50 {
        let plan = pod.plan(&format!("c{n}"), &["sleep", "1000"]);
        create.time(|| client.create(&plan));
        start.time(|| client.start(&plan.id));
        let signal = strata_wire::Request::Signal { id: plan.id.clone(), signal: 9, all: false };
        kill.time(|| {
            client.done(signal);
            client.exited(&plan.id);
        });
        remove.time(|| client.remove(&plan.id));
    }
    client.run(&pod.plan("last", &["sleep", "1000"]));
    let mut execs = Times::default();
    for n in 0..50 {
        let plan = exec("last", &format!("e{n}"), &["true"]);
        execs.time(|| client.exec_output(&plan));
    }
    for (what, times) in [
        ("create", &mut create),
        ("start", &mut start),
        ("kill to exit event", &mut kill),
        ("remove", &mut remove),
        ("exec true", &mut execs),
    ] {
        times.print(what);
    }
    print_memory(&pod, "after 51 containers and 50 execs");
}

#[test]
fn what_a_pod_costs() {
    let Some(pod) = Pod::new() else { return };
    let mut client = pod.client();
    client.subscribe();
    print_memory(&pod, "without a container");
    client.run(&pod.plan("c1", &["sleep", "1000"]));
    print_memory(&pod, "with one container");
}

fn print_memory(pod: &Pod, when: &str) {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim_pid)).unwrap();
    let of = |key: &str| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    };
    println!(
        "shim {when}: RSS {}, PSS {}, private {} dirty and {} clean",
        of("Rss"),
        of("Pss"),
        of("Private_Dirty"),
        of("Private_Clean")
    );
    if std::env::var_os("STRATA_SMAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{}/smaps", pod.shim_pid)).unwrap());
    }
}

#[test]
#[ignore = "makes a hundred pods: run it by hand"]
fn what_a_hundred_pods_cost() {
    let mut pods = Vec::new();
    for _ in 0..100 {
        let Some(pod) = Pod::new() else { return };
        let mut client = pod.client();
        client.subscribe();
        client.run(&pod.plan("c1", &["sleep", "1000"]));
        pods.push((pod, client));
    }
    let (mut pss, mut private) = (0, 0);
    for (pod, _) in &pods {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.shim_pid)).unwrap();
        for line in rollup.lines() {
            let mut words = line.split_whitespace();
            let (key, kilobytes) = (words.next().unwrap(), words.next().and_then(|n| n.parse::<u64>().ok()));
            match key {
                "Pss:" => pss += kilobytes.unwrap(),
                "Private_Dirty:" | "Private_Clean:" => private += kilobytes.unwrap(),
                _ => {}
            }
        }
    }
    println!("a shim among a hundred: PSS {} kB, private {} kB", pss / 100, private / 100);
}
