use k8s_cri::v1::{self as cri, ContainerEventType as Type, ContainerState};
use std::sync::mpsc;
use std::time::Duration;
use strata_e2e::node::{Node, container, pod, test};
use tonic::{Code, Response, Status};

/// Follows until an event about this pod says that it is gone; says when it is there.
fn follow(
    node: &Node,
    there: &mpsc::Sender<()>,
    last: &str,
) -> Result<Vec<cri::ContainerEventResponse>, Status> {
    node.cri(async |mut c| {
        let mut events = c.get_container_events(cri::GetEventsRequest {}).await?.into_inner();
        there.send(()).unwrap();
        let mut all: Vec<cri::ContainerEventResponse> = Vec::new();
        let gone = |all: &[cri::ContainerEventResponse]| {
            all.last().is_some_and(|e| {
                let name =
                    e.pod_sandbox_status.as_ref().and_then(|s| s.metadata.as_ref()).map(|m| m.name.as_str());
                let about_the_pod = e.pod_sandbox_status.as_ref().is_some_and(|s| s.id == e.container_id);
                e.container_event_type() == Type::ContainerDeletedEvent && about_the_pod && name == Some(last)
            })
        };
        while !gone(&all) {
            let next = tokio::time::timeout(strata_e2e::patience(60), events.message()).await;
            match next.map_err(|_| Status::deadline_exceeded(format!("no event comes after {all:?}")))?? {
                Some(event) => all.push(event),
                None => return Err(Status::aborted("the events have ended")),
            }
        }
        Ok(Response::new(all))
    })
}

#[test]
fn everything_that_happens_is_told_to_everybody_in_order() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "told");
        let (there, ready) = mpsc::channel();
        let (all, ids) = std::thread::scope(|scope| {
            let followers: Vec<_> = (0..3)
                .map(|_| {
                    let there = there.clone();
                    scope.spawn(move || follow(node, &there, "told").unwrap())
                })
                .collect();
            for _ in &followers {
                ready.recv_timeout(Duration::from_secs(60)).unwrap();
            }
            let pod_id = node.run_pod(&config);
            let long = node.run_container(&pod_id, &config, &container(node, "long", "exec sleep 1000"));
            let short = node.run_container(&pod_id, &config, &container(node, "short", "exit 3"));
            node.wait_exit(&short);
            node.stop_container(&long, 0).unwrap();
            node.remove_container(&long).unwrap();
            node.stop_pod(&pod_id).unwrap();
            node.remove_pod(&pod_id).unwrap();
            let all: Vec<_> = followers.into_iter().map(|f| f.join().unwrap()).collect();
            (all, (pod_id, long, short))
        });
        let (pod_id, long, short) = ids;
        for events in &all {
            let of = |id: &str| -> Vec<Type> {
                events
                    .iter()
                    .filter(|e| e.container_id == id)
                    .map(cri::ContainerEventResponse::container_event_type)
                    .collect()
            };
            let life = [
                Type::ContainerCreatedEvent,
                Type::ContainerStartedEvent,
                Type::ContainerStoppedEvent,
                Type::ContainerDeletedEvent,
            ];
            for (id, what) in [(&pod_id, "pod"), (&long, "long"), (&short, "short")] {
                assert_eq!(of(id), life, "{what}");
            }
            assert!(events.is_sorted_by_key(|e| e.created_at) && events[0].created_at > 0);
            check_statuses(events, &pod_id, &long, &short);
        }
        let ids = |events: &[cri::ContainerEventResponse]| -> Vec<(String, i32)> {
            events.iter().map(|e| (e.container_id.clone(), e.container_event_type)).collect()
        };
        assert!(all.iter().all(|events| ids(events) == ids(&all[0])), "all hear the same");
    });
}

/// What the kubelet makes its cache of.
fn check_statuses(events: &[cri::ContainerEventResponse], pod_id: &str, long: &str, short: &str) {
    for event in events {
        let status = event.pod_sandbox_status.as_ref().unwrap();
        assert_eq!(status.id, pod_id);
        assert_eq!(status.metadata.as_ref().unwrap().uid, "told-uid");
        let own = event.containers_statuses.iter().find(|s| s.id == event.container_id);
        let state = own.map(cri::ContainerStatus::state);
        match event.container_event_type() {
            _ if event.container_id == pod_id => assert_eq!(own, None),
            Type::ContainerCreatedEvent => assert_eq!(state, Some(ContainerState::ContainerCreated)),
            Type::ContainerStartedEvent if event.container_id == long => {
                assert_eq!(state, Some(ContainerState::ContainerRunning));
            }
            Type::ContainerStartedEvent => assert!(state.is_some()),
            Type::ContainerStoppedEvent => {
                assert_eq!(state, Some(ContainerState::ContainerExited));
                let code = if event.container_id == short { 3 } else { 137 };
                assert_eq!(own.unwrap().exit_code, code);
            }
            Type::ContainerDeletedEvent => assert_eq!(own, None),
        }
    }
    let first = events[0].pod_sandbox_status.as_ref().unwrap();
    assert_eq!(first.state(), cri::PodSandboxState::SandboxReady);
    assert!(!first.network.as_ref().unwrap().ip.is_empty());
    let last = events.last().unwrap().pod_sandbox_status.as_ref().unwrap();
    assert_eq!(last.state(), cri::PodSandboxState::SandboxNotready);
}

#[test]
fn following_ends_with_the_daemon() {
    test(|node| {
        let (there, ready) = mpsc::channel();
        let ended = std::thread::scope(|scope| {
            let follower = scope.spawn(move || follow(node, &there, "never").unwrap_err());
            ready.recv_timeout(Duration::from_secs(60)).unwrap();
            node.stop();
            follower.join().unwrap()
        });
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
        assert!(ended.message().contains("stratad stops"), "{ended:?}");
        node.launch();
    });
}

#[test]
fn crictl_shows_events() {
    test(|node| {
        let out = node.dir("events");
        let file = std::fs::File::create(&out).unwrap();
        let mut command = node.crictl_command();
        let mut crictl = command.arg("events").stdout(file).spawn().unwrap();
        let text = || std::fs::read_to_string(&out).unwrap();
        strata_e2e::eventually(30, "crictl follows", || match node.followers() {
            1 => Ok(()),
            n => Err(format!("{n} followers")),
        });
        let id = node.run_pod(&pod(node, "shown"));
        node.remove_pod(&id).unwrap();
        strata_e2e::eventually(30, "its events are shown", || {
            let all = ["CREATED", "STARTED", "STOPPED", "DELETED"];
            let shown = all.iter().all(|kind| text().contains(&format!("CONTAINER_{kind}_EVENT")));
            if shown { Ok(()) } else { Err(text()) }
        });
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(crictl.id()).unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        crictl.wait().unwrap();
    });
}
