//! `kill -9` of the daemon at each step of making and removing pods and containers: whoever asks again gets what was asked for,
//! once, and what is removed leaves nothing.

use crate::pods::netdevices;
use k8s_cri::v1::{ContainerState, PodSandboxConfig, PodSandboxState};
use std::collections::BTreeSet;
use strata_e2e::node::steps::Steps;
use strata_e2e::node::{Node, container, pod, test};

/// No call has as many steps.
const MANY: usize = 2000;

/// What is there but the daemon.
fn without_daemon(node: &Node, traces: BTreeSet<String>) -> BTreeSet<String> {
    let daemon = format!("process {}:", node.pid());
    traces.into_iter().filter(|line| !line.starts_with(&daemon)).collect()
}

#[track_caller]
fn nothing_is_left(node: &Node, before: &BTreeSet<String>, step: usize) {
    strata_e2e::eventually(30, "what was removed leaves nothing", || {
        let now = without_daemon(node, node.traces());
        if now == *before {
            return Ok(());
        }
        let new: Vec<_> = now.symmetric_difference(before).collect();
        Err(format!("step {step}: {new:#?}"))
    });
}

#[test]
fn of_a_pod() {
    test(|node| {
        let steps = Steps::of(node);
        let config = pod(node, "steps");
        // What the first pod makes, such as the bridge, is there from now on.
        let first = node.run_pod(&config);
        node.remove_pod(&first).unwrap();
        let before = without_daemon(node, node.settled_traces());
        let mut reached = [0; 3];
        for step in 1..MANY {
            let (id, made) = made_again(node, &steps, &config, step);
            let stopped = steps.killed_at(step, || node.stop_pod(&id));
            node.stop_pod(&id).unwrap();
            let removed = steps.killed_at(step, || node.remove_pod(&id));
            node.remove_pod(&id).unwrap();
            nothing_is_left(node, &before, step);
            let killed = [made, stopped.is_some(), removed.is_some()];
            killed.iter().zip(&mut reached).filter(|(killed, _)| **killed).for_each(|(_, n)| *n = step);
            if killed == [false; 3] {
                break;
            }
        }
        println!("steps of RunPodSandbox, StopPodSandbox, RemovePodSandbox: {reached:?}");
        assert!(reached.iter().all(|n| (1..MANY - 1).contains(n)), "{reached:?}");
    });
}

/// A pod's record, its network and its shim are made at the same time: whichever of them is late, half a pod is none.
#[test]
fn of_a_pod_when_one_thread_lags() {
    test(|node| {
        let steps = Steps::of(node).lagging();
        let config = pod(node, "lags");
        let first = node.run_pod(&config);
        node.remove_pod(&first).unwrap();
        let before = without_daemon(node, node.settled_traces());
        for step in 1..MANY {
            let (id, made) = made_again(node, &steps, &config, step);
            node.remove_pod(&id).unwrap();
            nothing_is_left(node, &before, step);
            if !made {
                println!("{} steps of RunPodSandbox", step - 1);
                return assert!(step > 1);
            }
        }
        panic!("RunPodSandbox has more than {MANY} steps");
    });
}

/// A pod that is asked for again once the daemon was killed at this step, and whether it was.
#[track_caller]
fn made_again(node: &Node, steps: &Steps, config: &PodSandboxConfig, step: usize) -> (String, bool) {
    let made = steps.killed_at(step, || node.try_run_pod(config));
    let id = node.run_pod(config);
    if let Some(Ok(early)) = &made {
        assert_eq!(*early, id, "step {step}");
    }
    assert_eq!(node.pod_status(&id).state(), PodSandboxState::SandboxReady, "step {step}");
    whole(node, &id, step);
    (id, made.is_some())
}

/// What is made last of a pod is there for its containers.
#[track_caller]
fn whole(node: &Node, pod_id: &str, step: usize) {
    let hosts = std::fs::read_to_string(node.dir(&format!("state/pods/{pod_id}/hosts"))).unwrap_or_default();
    let ip = node.pod_status(pod_id).network.unwrap().ip;
    assert!(hosts.contains("localhost") && hosts.contains(&ip), "step {step}: {hosts:?}");
}

#[test]
fn of_a_container() {
    test(|node| {
        node.pull("busybox");
        let steps = Steps::of(node);
        let config = pod(node, "steps");
        let pod_id = node.run_pod(&config);
        let wanted = container(node, "steps", "echo once; exec sleep 1000");
        let first = node.run_container(&pod_id, &config, &wanted);
        node.remove_container(&first).unwrap();
        let before = without_daemon(node, node.settled_traces());
        let mut reached = [0; 4];
        for step in 1..MANY {
            let created = steps.killed_at(step, || node.try_create(&pod_id, &config, &wanted));
            let id = node.create(&pod_id, &config, &wanted);
            if let Some(Ok(early)) = &created {
                assert_eq!(*early, id, "step {step}");
            }
            let started = steps.killed_at(step, || node.try_start(&id));
            match node.status(&id).state() {
                ContainerState::ContainerRunning => {}
                ContainerState::ContainerCreated => node.try_start(&id).unwrap(),
                other => panic!("step {step}: {other:?} after {started:?}"),
            }
            // In the same file each time, and the first of all before this.
            strata_e2e::eventually(10, "the program runs once", || match node.log(&id).len() {
                lines if lines == step + 1 => Ok(()),
                lines => Err(format!("step {step}: {lines} lines")),
            });
            let stopped = steps.killed_at(step, || node.stop_container(&id, 0));
            node.stop_container(&id, 0).unwrap();
            assert_eq!(node.status(&id).exit_code, 137, "step {step}");
            let removed = steps.killed_at(step, || node.remove_container(&id));
            node.remove_container(&id).unwrap();
            nothing_is_left(node, &before, step);
            let killed = [created.is_some(), started.is_some(), stopped.is_some(), removed.is_some()];
            killed.iter().zip(&mut reached).filter(|(killed, _)| **killed).for_each(|(_, n)| *n = step);
            if killed == [false; 4] {
                break;
            }
        }
        println!("steps of CreateContainer, StartContainer, StopContainer, RemoveContainer: {reached:?}");
        assert!(reached.iter().all(|n| (1..MANY - 1).contains(n)), "{reached:?}");
    });
}

/// An interface that is lent to a pod is the pod's or the node's, as it was, wherever the daemon ended.
#[test]
fn of_a_network_device() {
    test(|node| {
        node.pull("busybox");
        netdevices::cable(node);
        netdevices::install(node, "net1", &[]);
        let steps = Steps::of(node);
        let config = pod(node, "steps");
        let mut wanted = container(node, "steps", "true");
        netdevices::ask(&mut wanted);
        let first = node.run_pod(&config);
        node.remove_pod(&first).unwrap();
        let before = without_daemon(node, node.settled_traces());
        let mut reached = [0; 3];
        for step in 1..MANY {
            let pod_id = node.run_pod(&config);
            let created = steps.killed_at(step, || node.try_create(&pod_id, &config, &wanted));
            let id = node.create(&pod_id, &config, &wanted);
            netdevices::assert_lent(node, &pod_id, "net1");
            let dropped = steps.killed_at(step, || node.remove_container(&id));
            node.remove_container(&id).unwrap();
            netdevices::assert_lent_to_nobody(node);
            node.create(&pod_id, &config, &wanted);
            let removed = steps.killed_at(step, || node.remove_pod(&pod_id));
            node.remove_pod(&pod_id).unwrap();
            netdevices::assert_lent_to_nobody(node);
            nothing_is_left(node, &before, step);
            let killed = [created.is_some(), dropped.is_some(), removed.is_some()];
            killed.iter().zip(&mut reached).filter(|(killed, _)| **killed).for_each(|(_, n)| *n = step);
            if killed == [false; 3] {
                break;
            }
        }
        println!("steps of CreateContainer, RemoveContainer, RemovePodSandbox: {reached:?}");
        assert!(reached.iter().all(|n| (1..MANY - 1).contains(n)), "{reached:?}");
    });
}
