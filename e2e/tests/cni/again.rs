//! What is asked for again while it is worked on.

use super::rig::{busy_pod, with_cni};
use k8s_cri::v1 as cri;
use std::time::Duration;
use tonic::{Code, Request, Status};

/// Asked again, a removal is not over before it is: the pod's address and ports would still be taken.
#[test]
fn a_pod_that_is_being_removed_is_not_said_to_be_gone() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let id = node.run_pod(&busy_pod(node, "going", 8083));
        let soon = |result: Result<(), Status>| {
            let late = result.expect_err("its plugin still works");
            assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
        };
        let ask = |_| {
            let mut remove = Request::new(cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() });
            remove.set_timeout(Duration::from_millis(700));
            soon(node.cri(async |mut c| c.remove_pod_sandbox(remove).await).map(drop));
            let mut stop = Request::new(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() });
            stop.set_timeout(Duration::from_millis(700));
            soon(node.cri(async |mut c| c.stop_pod_sandbox(stop).await).map(drop));
            net.switch("hold.bridge.DEL.before", false);
            node.remove_pod(&id).unwrap();
            assert!(net.addresses().is_empty(), "{:?}", net.addresses());
        };
        net.at("bridge.DEL.before", || node.remove_pod(&id), ask).unwrap();
        node.stop_pod(&id).unwrap();
        node.remove_pod(&id).unwrap();
    });
}
