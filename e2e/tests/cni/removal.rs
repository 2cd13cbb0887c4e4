//! A removal that a plugin holds up: who asks for it again waits for it, and who gives it up gets it all the same.

use super::rig::{Net, busy_pod, with_cni};
use k8s_cri::v1 as cri;
use std::time::Duration;
use strata_e2e::node::pod;
use tonic::{Code, Request, Status};

const HELD: &str = "bridge.DEL.before";

/// How long a client waits.
const PATIENCE: Duration = Duration::from_millis(700);

/// Asks for something that does not come in time, and gives up soon.
#[track_caller]
fn give_up<T, A>(message: T, ask: impl FnOnce(Request<T>) -> Result<A, Status>) {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    let late = ask(request).map(drop).expect_err("its plugin still works");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
}

#[track_caller]
fn give_up_removing(net: &Net<'_>, id: &str) {
    let removal = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
    give_up(removal, |request| net.node.cri(async |mut c| c.remove_pod_sandbox(request).await));
}

/// Asked again, a removal is not over before it is: the pod's address and ports would still be taken.
#[test]
fn a_pod_that_is_being_removed_is_not_said_to_be_gone() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let id = node.run_pod(&busy_pod(node, "going", 8083));
        let ask = |_| {
            give_up_removing(net, &id);
            let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            give_up(stop, |request| node.cri(async |mut c| c.stop_pod_sandbox(request).await));
            net.switch(&format!("hold.{HELD}"), false);
            node.remove_pod(&id).unwrap();
            assert!(net.addresses().is_empty(), "{:?}", net.addresses());
        };
        net.at(HELD, || node.remove_pod(&id), ask).unwrap();
        node.stop_pod(&id).unwrap();
        node.remove_pod(&id).unwrap();
    });
}

#[test]
fn what_a_client_has_given_up_is_done_before_stratad_ends() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let id = node.run_pod(&pod(node, "removed"));
        let stop = |_| {
            std::thread::scope(|scope| {
                let stopped = scope.spawn(|| node.stop());
                // The client has given up by then, and stratad would wait longer.
                std::thread::sleep(PATIENCE + Duration::from_millis(500));
                net.switch(&format!("hold.{HELD}"), false);
                stopped.join().unwrap();
            });
            for left in ["root/pods", "state/pods"] {
                assert!(!node.dir(left).join(&id).exists(), "{left}");
            }
            assert!(net.addresses().is_empty());
        };
        net.at(HELD, || give_up_removing(net, &id), stop);
        node.launch();
    });
}
