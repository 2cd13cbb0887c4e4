//! Each call with missing, malformed, unknown, duplicate and conflicting input: the code and the words that the caller gets, and
//! that a refused call leaves nothing behind.
//!
//! What Kubernetes relies on: what is not there is `NotFound` where a caller asks about it and success where it is to be gone; what
//! cannot be meant is `InvalidArgument`; a taken name `AlreadyExists`; a wrong state `FailedPrecondition`.

mod containers;
mod debug;
mod execs;
mod existing;
mod images;
mod newest;
mod pods;
mod scene;
mod streaming;
mod twice;

use k8s_cri::v1 as cri;
use scene::{Case, Scene};
use std::collections::BTreeSet;
use strata_e2e::node::{Node, container, pod, test};
use tonic::Code;

type Table = for<'a, 'b> fn(&'a Scene<'b>) -> Vec<Case<'a>>;

const OF_PODS: [Table; 7] = [
    pods::run,
    twice::pods,
    pods::others,
    newest::limits,
    newest::streams,
    newest::without_input,
    newest::pod_cidr,
];
const OF_CONTAINERS: [Table; 8] = [
    containers::create,
    containers::security,
    containers::limits,
    existing::others,
    execs::all,
    streaming::all,
    newest::enumerations,
    twice::containers,
];
const OF_IMAGES: [Table; 3] = [images::cri, images::debug, images::archives];

#[test]
fn of_pods() {
    test(|node| {
        let scene = Scene::new(node);
        OF_PODS.iter().for_each(|table| scene.check(table(&scene)));
        assert_blameless(node);
    });
}

#[test]
fn of_containers() {
    test(|node| {
        let scene = Scene::new(node);
        OF_CONTAINERS.iter().for_each(|table| scene.check(table(&scene)));
        assert_blameless(node);
    });
}

#[test]
fn of_images() {
    test(|node| {
        let scene = Scene::new(node);
        OF_IMAGES.iter().for_each(|table| scene.check(table(&scene)));
        every_call_has_a_line(&scene);
        assert_blameless(node);
    });
}

/// That no call of CRI is missing from the tables that are checked above.
fn every_call_has_a_line(scene: &Scene<'_>) {
    let schema = include_str!("../data/cri-v1-schema.txt");
    let mut service = false;
    let mut calls = BTreeSet::new();
    for line in schema.lines() {
        match line.strip_prefix("  ") {
            Some(member) if service => _ = calls.insert(member.split('(').next().unwrap()),
            Some(_) => {}
            None => service = line.starts_with("service "),
        }
    }
    assert!(calls.len() > 40 && calls.contains("StreamImages"), "the schema was read as {calls:?}");
    let tables = OF_PODS.iter().chain(&OF_CONTAINERS).chain(&OF_IMAGES);
    let tested: BTreeSet<&str> = tables.flat_map(|table| table(scene)).map(|case| case.rpc).collect();
    let missing: Vec<_> = calls.difference(&tested).collect();
    assert!(missing.is_empty(), "no line of a table calls {missing:?}");
}

#[test]
fn of_the_strata_command() {
    test(|node| {
        let scene = Scene::new(node);
        scene.check(debug::create(&scene));
        scene.check(debug::others(&scene));
        scene.check(debug::sessions(&scene));
        assert_blameless(node);
    });
}

/// That nothing of what clients did wrong is an error in stratad's log: those are the node's.
#[track_caller]
fn assert_blameless(node: &Node) {
    let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
    let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn what_is_no_request_is_no_error_of_the_node_s() {
    test(|node| {
        // As of a client that leaves before it has sent its message, and one that sends none.
        let gone = node.send_raw("Version", b"");
        assert_eq!(gone.code(), Code::Internal, "{gone:?}");
        let odd = node.send_raw("ListContainers", b"\0\0\0\0\x03\xff\xff\xff");
        assert_eq!(odd.code(), Code::Internal, "{odd:?}");
        let cut = node.send_raw("ListContainers", b"\0\0\0\0\x7f\x0a");
        assert_ne!(cut.code(), Code::Ok, "{cut:?}");
        let strange = node.send_raw("Nothing", b"");
        assert_eq!(strange.code(), Code::Unimplemented, "{strange:?}");
        assert_blameless(node);
    });
}

/// stratad's word for it, unless the test's own client has looked at the clock first.
#[track_caller]
fn assert_late(late: &tonic::Status) {
    let told = late.code() == Code::DeadlineExceeded && late.message().contains("300ms");
    assert!(told || late.message() == "Timeout expired", "{late:?}");
}

/// A caller that stops waiting is told so in gRPC's word for it, and what it asked for goes on.
#[test]
fn a_deadline_is_told_as_one() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "deadline");
        let pod_id = node.run_pod(&config);
        let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
        let id = node.run_container(&pod_id, &config, &container(node, "deaf", deaf));
        strata_e2e::eventually(10, "the trap is set", || match node.log(&id).first() {
            Some(line) if line.text == "ready" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let stop = || {
            let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 1 };
            let mut stop = tonic::Request::new(stop);
            stop.set_timeout(std::time::Duration::from_millis(300));
            node.cri(async |mut c| c.stop_container(stop).await).inspect_err(assert_late)
        };
        stop().unwrap_err();
        // Asked again, since on a busy machine the time may be over before stratad has heard of the first.
        strata_e2e::eventually(60, "what was asked for goes on", || stop().map_err(|late| late.to_string()));
        assert_eq!(node.status(&id).exit_code, 137);

        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let mut exec = tonic::Request::new(cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["sleep".into(), "7654".into()],
            timeout: 0,
        });
        exec.set_timeout(std::time::Duration::from_millis(300));
        let late = node.cri(async |mut c| c.exec_sync(exec).await).unwrap_err();
        assert_late(&late);
        // Nobody can come for its output any more.
        let left = || match node.exec(&id, "ps -o args | grep 'sleep 7654' | grep -v grep || true") {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        };
        strata_e2e::eventually(10, "the exec has ended with its caller", left);
    });
}

/// IDs may be shortened by people; a beginning of several is refused, never guessed.
#[test]
fn an_id_that_means_several_is_refused() {
    test(|node| {
        let ids: Vec<String> = (0..17).map(|n| node.run_pod(&pod(node, &format!("many{n}")))).collect();
        // Of 17 IDs two begin with the same digit.
        let digit = "0123456789abcdef"
            .chars()
            .find(|digit| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1)
            .unwrap()
            .to_string();
        for result in [node.stop_pod(&digit), node.remove_pod(&digit)] {
            let refused = result.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            assert!(refused.message().contains("ambiguous"), "{refused:?}");
        }
        assert!(ids.iter().all(|id| node.pod_status(id).state() == cri::PodSandboxState::SandboxReady));
    });
}
