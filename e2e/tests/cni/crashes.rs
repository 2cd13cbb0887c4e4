//! Whoever dies: no address is lost.

use super::rig::{Net, busy_pod, with_cni};
use k8s_cri::v1 as cri;
use strata_e2e::eventually;
use strata_e2e::node::{leaks, pod, process};

/// Who dies at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Plugin,
    Daemon,
}

fn strike(net: &Net<'_>, victim: Victim, plugin: i32) {
    match victim {
        Victim::Plugin => process::kill(plugin),
        Victim::Daemon => net.node.kill9(),
    }
}

#[test]
fn no_address_is_lost_whoever_dies_during_add() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        for (number, point) in [
            "bridge.ADD.before",
            "host-local.ADD.before",
            "host-local.ADD.after",
            "bridge.ADD.after",
            "portmap.ADD.after",
        ]
        .into_iter()
        .enumerate()
        {
            for victim in [Victim::Plugin, Victim::Daemon] {
                let what = format!("{point} {victim:?}");
                let config = busy_pod(node, &format!("p{number}{victim:?}").to_lowercase(), 8083);
                let ran = net.at(point, || node.try_run_pod(&config), |pid| strike(net, victim, pid));
                ran.expect_err(&what);
                if victim == Victim::Daemon {
                    node.launch();
                }
                // What was held up is killed before that: let go, it would take the address again.
                eventually(30, "no plugin of it runs", || match process::naming(&net.bin) {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("{what}: {left:?}")),
                });
                net.given_back(&what);
                net.switch(&format!("hold.{point}"), false);
                std::thread::sleep(std::time::Duration::from_millis(150));
                net.given_back(&what);
            }
        }
        // One that hangs is killed.
        let refused =
            net.at("host-local.ADD.before", || node.try_run_pod(&pod(node, "hangs")), |_| {}).unwrap_err();
        assert!(refused.message().contains("no answer for 10 s"), "{refused}");
        net.switch("hold.host-local.ADD.before", false);
        net.given_back("hangs");
        let id = node.run_pod(&busy_pod(node, "after", 8083));
        assert_eq!(net.addresses(), [net.ip(&id)]);
    });
}

#[test]
fn no_address_is_lost_whoever_dies_during_del() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        for (number, point) in
            ["portmap.DEL.before", "bridge.DEL.before", "host-local.DEL.before", "bridge.DEL.after"]
                .into_iter()
                .enumerate()
        {
            for victim in [Victim::Plugin, Victim::Daemon] {
                let what = format!("{point} {victim:?}");
                let config = busy_pod(node, &format!("p{number}{victim:?}").to_lowercase(), 8083);
                let id = node.run_pod(&config);
                net.at(point, || node.stop_pod(&id), |pid| strike(net, victim, pid)).expect_err(&what);
                net.switch(&format!("hold.{point}"), false);
                if victim == Victim::Daemon {
                    node.launch();
                }
                // Nobody asks again.
                net.given_back(&what);
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
        net.given_back("removed");
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
