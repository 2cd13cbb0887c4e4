//! Many clients that give up, ask again and go away, on one daemon: on the built-in network and on CNI.
//!
//! `STRATA_HAMMER_SECONDS` says how long each network has; ten seconds if it does not. `hack/test` says a minute.

mod client;

use client::Client;
use k8s_cri::v1::{self as cri, PodSandboxConfig};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata_e2e::node::{Node, cni, pod, test};
use tonic::{Code, Request};

/// How many clients make and remove.
const CLIENTS: u64 = 16;
/// How many pods a /27 has addresses for: not many more than there are clients, so that it runs out of them if they stay.
const ADDRESSES: usize = 29;
/// The first client's port of the node.
const PORT: i32 = 20_000;

/// How long to go on.
fn seconds() -> u64 {
    std::env::var("STRATA_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
fn clients_that_give_up_and_ask_again() {
    test(|node| {
        node.reconfigure(|text| text.replace("10.88.0.0/24", "10.88.0.0/27"));
        hammer(node);
        // Who has which address is in stratad's memory, which tells nobody: each of them can be had.
        let all: Vec<_> = (0..ADDRESSES).map(|n| node.run_pod(&pod(node, &format!("after{n}")))).collect();
        let full = node.try_run_pod(&pod(node, "full")).unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        all.iter().for_each(|id| node.remove_pod(id).unwrap());
    });
}

#[test]
fn clients_that_give_up_and_ask_again_on_cni() {
    if let Some(why) = cni::lacking() {
        return strata_e2e::skip(why);
    }
    test(|node| {
        let lines = format!("cri = \"cni\"\n{}", cni::settings(node, &[]));
        node.reconfigure(|text| text.replace("cri = \"builtin\"\n", &lines));
        let list = cni::list(node, "pods", 77, "", &["portmap"]).replace("10.77.0.0/24", "10.77.0.0/27");
        cni::put_list(node, "10-pods.conflist", &list);
        hammer(node);
        assert_eq!(cni::addresses(node), Vec::<String>::new());
    });
}

fn hammer(node: &Node) {
    node.pull("busybox");
    // What the first pod makes, such as the bridge, is there from now on.
    cni::warm_up(node);
    let (before, network) = (node.settled_traces(), cni::traces(node));
    let descriptors = count_descriptors(node);
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut given_up, mut lists, mut slowest) = (0, 0, Duration::ZERO);
    std::thread::scope(|scope| {
        let until = Instant::now() + Duration::from_secs(seconds());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let rounds = &rounds;
                scope.spawn(move || {
                    let config =
                        ported(node, &format!("hammer{number}"), PORT + i32::try_from(number).unwrap());
                    Client::new(node, number).run(&config, until, rounds)
                })
            })
            .collect();
        let lister = scope.spawn(|| list_all_the_time(node, &over));
        let ended: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::SeqCst);
        (lists, slowest) = lister.join().unwrap();
        given_up = ended.into_iter().map(|client| client.unwrap()).sum::<usize>();
    });
    let rounds = rounds.into_inner();
    println!(
        "{rounds} pods, {given_up} calls given up, {lists} lists, the slowest four together {slowest:?}"
    );
    assert!(rounds > 0 && given_up > 0 && lists > 0);
    // Every pod was removed; what a removal still owes is paid in the background.
    nothing_stays(node, &before, &network);
    strata_e2e::eventually(30, "no descriptor of stratad stays", || {
        let now = count_descriptors(node);
        if now <= descriptors + 4 { Ok(()) } else { Err(format!("{descriptors} before, {now} now")) }
    });
}

/// A pod with a port of the node.
fn ported(node: &Node, name: &str, host_port: i32) -> PodSandboxConfig {
    let mut config = pod(node, name);
    config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port, ..Default::default() }];
    config
}

type Traces = std::collections::BTreeSet<String>;

/// Neither processes, mounts, cgroups, records, state and pins, nor interfaces, rules and addresses that were not there before.
#[track_caller]
fn nothing_stays(node: &Node, before: &Traces, network: &Traces) {
    node.assert_traces(before);
    strata_e2e::eventually(30, "nothing stays in the node's network", || {
        let now = cni::traces(node);
        let differ: Vec<&String> = now.symmetric_difference(network).collect();
        if differ.is_empty() { Ok(()) } else { Err(format!("{differ:#?}")) }
    });
}

/// How many descriptors stratad has.
fn count_descriptors(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).map_or(0, Iterator::count)
}

/// Lists answer whatever else goes on; how many did, and the slowest.
fn list_all_the_time(node: &Node, over: &AtomicBool) -> (usize, Duration) {
    /// A request that nobody would wait longer for.
    fn patient<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(strata_e2e::patience(20));
        request
    }
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let pods = patient(cri::ListPodSandboxRequest { filter: None });
        let pods = node.cri(async |mut c| c.list_pod_sandbox(pods).await).unwrap();
        let ids: std::collections::BTreeSet<_> = pods.items.iter().map(|pod| &pod.id).collect();
        assert_eq!(ids.len(), pods.items.len(), "{pods:?}");
        let containers = patient(cri::ListContainersRequest { filter: None });
        node.cri(async |mut c| c.list_containers(containers).await).unwrap();
        let stats = patient(cri::ListContainerStatsRequest { filter: None });
        node.cri(async |mut c| c.list_container_stats(stats).await).unwrap();
        let stats = patient(cri::ListPodSandboxStatsRequest { filter: None });
        node.cri(async |mut c| c.list_pod_sandbox_stats(stats).await).unwrap();
        count += 4;
        slowest = slowest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    (count, slowest)
}
