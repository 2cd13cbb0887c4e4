//! What clients have asked for and given up is done all the same, before stratad ends.

use super::rig::{Net, with_cni};
use k8s_cri::v1 as cri;
use std::time::Duration;
use strata_e2e::node::pod;
use tonic::Code;

const HELD: &str = "bridge.DEL.before";

/// Asks for a pod's removal and gives up soon.
#[track_caller]
fn give_up_removing(net: &Net<'_>, id: &str) {
    let mut request = tonic::Request::new(cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() });
    request.set_timeout(Duration::from_millis(300));
    let answer = net.node.cri(async |mut c| c.remove_pod_sandbox(request).await);
    assert_eq!(answer.map(drop).map_err(|e| e.code()), Err(Code::DeadlineExceeded));
}

fn assert_gone(net: &Net<'_>, id: &str) {
    for left in ["root/pods", "state/pods"] {
        assert!(!net.node.dir(left).join(id).exists(), "{left}");
    }
    assert!(net.addresses().is_empty());
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
                std::thread::sleep(Duration::from_millis(500));
                net.switch(&format!("hold.{HELD}"), false);
                stopped.join().unwrap();
            });
            assert_gone(net, &id);
        };
        net.at(HELD, || give_up_removing(net, &id), stop);
        node.launch();
    });
}
