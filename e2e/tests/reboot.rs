//! What Kubernetes is told after a power cut.

use k8s_cri::v1::{self as cri, ContainerState, PodSandboxState};
use strata_e2e::node::{container, pod, test};
use tonic::Code;

#[test]
fn what_ran_has_ended_and_what_had_not_started_is_gone() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "before");
        let pod_id = node.run_pod(&config);
        let ip = node.pod_status(&pod_id).network.unwrap().ip;
        let running = node.run_container(&pod_id, &config, &container(node, "running", "exec sleep 1000"));
        let ended = node.run_container(&pod_id, &config, &container(node, "ended", "exit 4"));
        let created = node.create(&pod_id, &config, &container(node, "created", "true"));
        node.wait_exit(&ended);
        node.strata(&[
            "run",
            "-d",
            "--name",
            "mine",
            &node.image("busybox"),
            "sh",
            "-c",
            "echo x > /x; sleep 1000",
        ])
        .ok();
        strata_e2e::eventually(20, "it has written", || match node.strata(&["exec", "mine", "cat", "/x"]) {
            written if written.stdout == "x\n" => Ok(()),
            other => Err(other.to_string()),
        });
        node.reboot();

        let status = node.wait_exit(&running);
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"), "{status:?}");
        assert!(status.finished_at >= status.started_at, "{status:?}");
        let status = node.status(&ended);
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 4), "{status:?}");
        assert_eq!(node.try_status(&created).unwrap_err().code(), Code::NotFound);
        assert_eq!(node.pod_status(&pod_id).state(), PodSandboxState::SandboxNotready);
        let refused = node.try_create(&pod_id, &config, &container(node, "late", "true")).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

        // Images and what containers wrote are still there.
        node.strata(&["diff", "mine"]).ok().has(&["A /x"]);
        node.strata(&["start", "mine"]).ok();
        node.strata(&["exec", "mine", "cat", "/x"]).ok().has(&["x"]);
        node.strata(&["rm", "-f", "mine"]).ok();

        // The kubelet replaces the pod; the old one's address is not lost.
        node.stop_pod(&pod_id).unwrap();
        let mut next = config.clone();
        next.metadata.as_mut().unwrap().attempt = 1;
        let next_id = node.run_pod(&next);
        assert_ne!(next_id, pod_id);
        let id = node.run_container(&next_id, &next, &container(node, "running", "exec sleep 1000"));
        assert_eq!(node.exec(&id, "echo again"), "again\n");
        assert!(node.pod_status(&next_id).network.unwrap().ip.starts_with(&ip[..7]));
        node.remove_pod(&pod_id).unwrap();
        let left = cri::ListPodSandboxRequest { filter: None };
        assert_eq!(node.cri(async |mut c| c.list_pod_sandbox(left).await).unwrap().items.len(), 1);
    });
}

#[test]
fn addresses_are_given_back() {
    test(|node| {
        // Twice as often as the subnet has addresses would take minutes; a leak shows in the pool's order at once.
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..6 {
            let config = pod(node, &format!("a{round}"));
            let id = node.run_pod(&config);
            seen.insert(node.pod_status(&id).network.unwrap().ip);
            if round == 2 {
                node.reboot();
            }
            node.stop_pod(&id).unwrap();
            node.remove_pod(&id).unwrap();
        }
        let config = pod(node, "last");
        let id = node.run_pod(&config);
        let held = strata_e2e::node::leaks::names(&node.dir("netns"));
        assert_eq!(held.len(), 1, "{held:?}");
        assert!(held[0].contains(&id), "{held:?}");
    });
}
