//! Whoever dies: no address is lost.

use super::rig::{Net, busy_pod, with_cni};
use k8s_cri::v1::{self as cri, PodSandboxConfig};
use std::collections::BTreeSet;
use strata_e2e::eventually;
use strata_e2e::node::{cni, leaks, pod, process};

/// Each step of attaching a pod, in order.
const ADD: [&str; 8] = [
    "bridge.ADD.before",
    "host-local.ADD.before",
    "host-local.ADD.after",
    "bridge.ADD.after",
    "portmap.ADD.before",
    "portmap.ADD.after",
    "bandwidth.ADD.before",
    "bandwidth.ADD.after",
];
/// Each step of detaching it.
const DEL: [&str; 8] = [
    "bandwidth.DEL.before",
    "bandwidth.DEL.after",
    "portmap.DEL.before",
    "portmap.DEL.after",
    "bridge.DEL.before",
    "host-local.DEL.before",
    "host-local.DEL.after",
    "bridge.DEL.after",
];

/// Who dies at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Plugin,
    Daemon,
    /// All of it: daemon, plugins, shims, and what is in memory.
    Node,
}

const VICTIMS: [Victim; 3] = [Victim::Plugin, Victim::Daemon, Victim::Node];

impl Victim {
    /// What happens while the plugin waits.
    fn strike(self, net: &Net<'_>, plugin: i32) {
        if self == Self::Plugin {
            return process::kill(plugin);
        }
        net.node.kill9();
        if self == Self::Node {
            // Those that wait for it as well, which would take back what they have done.
            process::kill_group(plugin);
        }
    }

    /// What comes afterwards.
    fn recover(self, net: &Net<'_>) {
        match self {
            Self::Plugin => {}
            Self::Daemon => net.node.launch(),
            Self::Node => {
                net.node.run("ip", &["link", "delete", "cni77"]).ok();
                net.node.reboot();
            }
        }
    }
}

/// With everything that the plugins make for a pod.
fn shaped_pod(net: &Net<'_>, name: &str) -> PodSandboxConfig {
    let mut config = busy_pod(net.node, name, 8083);
    // The plugin bandwidth makes an ifb for it, which not every kernel has.
    if net.node.run("ip", &["link", "add", "probe", "type", "ifb"]).code == 0 {
        net.node.run("ip", &["link", "delete", "probe"]).ok();
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "30M".into());
    }
    config
}

/// Nothing of a pod is left: no address, and neither interface nor rule that was not there before.
#[track_caller]
fn nothing_stays(net: &Net<'_>, before: &BTreeSet<String>, what: &str) {
    net.given_back(what);
    eventually(30, "nothing of the pod stays in the node's network", || {
        let now = cni::traces(net.node);
        let left: Vec<_> = now.difference(before).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{what}: {left:#?}")) }
    });
}

#[test]
fn no_address_is_lost_whoever_dies_during_add() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        cni::warm_up(node);
        let before = cni::traces(node);
        for (number, point) in ADD.into_iter().enumerate() {
            for victim in VICTIMS {
                let what = format!("{point} {victim:?}");
                let config = shaped_pod(net, &format!("p{number}{victim:?}").to_lowercase());
                let ran = net.at(point, || node.try_run_pod(&config), |pid| victim.strike(net, pid));
                ran.expect_err(&what);
                victim.recover(net);
                // What was held up is killed before that: let go, it would take the address again.
                eventually(30, "no plugin of it runs", || match process::naming(&net.bin) {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("{what}: {left:?}")),
                });
                nothing_stays(net, &before, &what);
                net.switch(&format!("hold.{point}"), false);
                std::thread::sleep(std::time::Duration::from_millis(150));
                nothing_stays(net, &before, &what);
            }
        }
        // The last boot has no bridge yet. One that the first plugin is killed in making loses its hardware address with its
        // only port, and the plugin refuses it from then on.
        cni::warm_up(node);
        // One that hangs is killed.
        let refused =
            net.at("host-local.ADD.before", || node.try_run_pod(&pod(node, "hangs")), |_| {}).unwrap_err();
        assert!(refused.message().contains("no answer for 10 s"), "{refused}");
        net.switch("hold.host-local.ADD.before", false);
        nothing_stays(net, &before, "hangs");
        let id = node.run_pod(&busy_pod(node, "after", 8083));
        assert_eq!(net.addresses(), [net.ip(&id)]);
    });
}

#[test]
fn no_address_is_lost_whoever_dies_during_del() {
    with_cni(|net| {
        let node = net.node;
        // The plugin bridge itself forgets its rule where its DEL is repeated after it has removed the interface.
        let list = net.bridge_list("pods", 77).replace("\"ipMasq\":true", "\"ipMasq\":false");
        assert!(list.contains("\"ipMasq\":false"), "{list}");
        net.put_list("10-pods.conflist", &list);
        cni::warm_up(node);
        let before = cni::traces(node);
        for (number, point) in DEL.into_iter().enumerate() {
            for victim in VICTIMS {
                let what = format!("{point} {victim:?}");
                let config = shaped_pod(net, &format!("p{number}{victim:?}").to_lowercase());
                let id = node.run_pod(&config);
                net.at(point, || node.stop_pod(&id), |pid| victim.strike(net, pid)).expect_err(&what);
                net.switch(&format!("hold.{point}"), false);
                victim.recover(net);
                // Nobody asks again.
                nothing_stays(net, &before, &what);
                node.stop_pod(&id).unwrap();
                node.remove_pod(&id).unwrap();
            }
        }
        // A pod that is removed while its network cannot be is gone, and its address is given back once it can.
        let id = node.run_pod(&pod(node, "removed"));
        net.switch("fail.bridge.DEL", true);
        let refused = node.stop_pod(&id).unwrap_err();
        assert!(refused.message().contains("the test says no"), "{refused}");
        node.remove_pod(&id).unwrap();
        node.crash();
        assert_eq!(net.addresses().len(), 1);
        net.switch("fail.bridge.DEL", false);
        nothing_stays(net, &before, "removed");
    });
}

#[test]
fn addresses_are_given_back_after_a_reboot() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let ready = node.run_pod(&busy_pod(node, "ready", 8083));
        let half = |pid: i32| {
            node.kill9();
            process::kill(pid);
            for (pid, _) in process::naming(&net.bin) {
                process::kill(pid);
            }
        };
        net.at("host-local.ADD.after", || node.try_run_pod(&pod(node, "half")), half).unwrap_err();
        net.switch("hold.host-local.ADD.after", false);
        assert_eq!(net.addresses().len(), 2);
        // The first attempts fail, and the list has gone: the recorded one counts.
        net.switch("fail.portmap.DEL", true);
        std::fs::remove_file(net.conf.join("10-pods.conflist")).unwrap();
        node.reboot();
        assert_eq!(node.pod_status(&ready).state(), cri::PodSandboxState::SandboxNotready);
        assert_eq!(net.addresses().len(), 2);
        net.switch("fail.portmap.DEL", false);
        net.given_back("reboot");
        node.stop_pod(&ready).unwrap();
    });
}

#[test]
fn the_address_of_a_pod_whose_record_is_damaged_is_given_back() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let cut = node.run_pod(&busy_pod(node, "cut", 8083));
        let other = node.run_pod(&pod(node, "other"));
        node.kill9();
        let record = |id: &str| node.dir("root/pods").join(id).join("pod.json");
        std::fs::write(record(&cut), "{").unwrap();
        // What is in this one is taken at its word where it can be read.
        let text = std::fs::read_to_string(record(&other)).unwrap();
        std::fs::write(record(&other), text.replacen("\"version\":1,", "\"version\":\"?\",", 1)).unwrap();
        // Not yet: it is tried again.
        net.switch("fail.portmap.DEL", true);
        node.launch();
        assert_eq!(net.addresses().len(), 2);
        net.switch("fail.portmap.DEL", false);
        net.given_back("damaged");
        eventually(20, "the records are put away", || match leaks::names(&node.dir("root/pods")).len() {
            0 => Ok(()),
            n => Err(n.to_string()),
        });
    });
}
