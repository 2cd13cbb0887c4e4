//! Plugins that hang in the kernel, where no signal ends them.

use super::rig::{Net, with_cni};
use crate::hung::Hung;
use strata_e2e::eventually;
use strata_e2e::node::{pod, process};

/// The plugins that no signal ends: state D of proc_pid_stat(5).
fn hanging(net: &Net<'_>) -> Vec<i32> {
    let all = process::naming(&net.bin).into_iter().map(|(pid, _)| pid);
    all.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") D "))
    })
    .collect()
}

#[test]
fn a_plugin_that_hangs_in_the_kernel_holds_up_nobody() {
    with_cni(|net| {
        let node = net.node;
        let Some(hung) = Hung::mount(&net.bin.join("hung")) else { return };
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let going = node.run_pod(&pod(node, "going"));
        net.switch("hang.bridge.DEL", true);
        let refused = node.stop_pod(&going).unwrap_err();
        for part in ["DEL", "bridge", "was killed", "hangs in the kernel"] {
            assert!(refused.message().contains(part), "{refused}");
        }
        assert_eq!(hanging(net).len(), 1);
        net.switch("hang.bridge.DEL", false);
        // While it hangs, the pod's address may still be used by it; asking is answered, and other pods come and go.
        let told = node.crictl(&["stopp", &going]).fails();
        println!("{told}");
        assert!(told.contains("hangs in the kernel"), "{told}");
        assert_eq!(net.addresses().len(), 1);
        let other = node.run_pod(&pod(node, "other"));
        assert_eq!(net.addresses().len(), 2);
        node.remove_pod(&other).unwrap();

        net.switch("hang.bridge.ADD", true);
        let refused = node.try_run_pod(&pod(node, "coming")).unwrap_err();
        assert!(refused.message().contains("hangs in the kernel"), "{refused}");
        net.switch("hang.bridge.ADD", false);
        assert_eq!(hanging(net).len(), 2);

        // Once they end, what is owed is done without being asked for.
        hung.answer();
        eventually(20, "the plugins have ended", || match process::naming(&net.bin) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
        net.given_back("hangs");
        node.stop_pod(&going).unwrap();
    });
}
