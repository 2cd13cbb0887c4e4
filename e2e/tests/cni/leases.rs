//! Records of addresses that a power cut has emptied.

use super::rig::{Net, with_cni};
use std::path::PathBuf;
use strata_e2e::eventually;
use strata_e2e::node::{cni, leaks, pod};

/// What host-local keeps of the network `pods`.
fn records(net: &Net<'_>) -> PathBuf {
    cni::data_dir(net.node).join("pods")
}

/// A list with no more than four addresses for pods.
fn small(net: &Net<'_>) -> String {
    cni::list(net.node, "pods", 77, "", &[]).replace("10.77.0.0/24", "10.77.0.0/29")
}

#[test]
fn addresses_whose_records_came_back_empty_are_free_again() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &small(net));
        let id = node.run_pod(&pod(node, "before"));
        let ip = net.ip(&id);
        let dir = records(net);
        // What is no record of an address is nobody's business.
        for name in ["notes", "10.77.0.300"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        std::fs::create_dir(dir.join("10.77.0.9")).unwrap();
        std::os::unix::fs::symlink("notes", dir.join("10.77.0.10")).unwrap();
        let others = ["10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5", "10.77.0.6"];
        for address in others.iter().filter(|a| **a != ip) {
            std::fs::write(dir.join(address), "").unwrap();
        }
        let refused = node.try_run_pod(&pod(node, "full")).unwrap_err();
        assert!(refused.message().contains("no IP addresses available"), "{refused}");
        // Not as long as somebody could be about to write one.
        node.crash();
        let refused = node.try_run_pod(&pod(node, "full")).unwrap_err();
        assert!(refused.message().contains("no IP addresses available"), "{refused}");
        assert_eq!(leaks::names(&dir).iter().filter(|name| others.contains(&name.as_str())).count(), 5);

        // The pod's own record, too: no DEL finds it, and the pod is dead.
        std::fs::write(dir.join(&ip), "").unwrap();
        node.reboot();
        eventually(20, "the records are removed", || {
            let left: Vec<String> =
                leaks::names(&dir).into_iter().filter(|name| others.contains(&name.as_str())).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        // Told of after it was removed.
        eventually(20, "each is told of", || {
            let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
            let told =
                |a: &&str| log.contains(&format!("address=\"{a}\"")) || log.contains(&format!("address={a}"));
            if others.iter().all(told) { Ok(()) } else { Err(log) }
        });
        for name in ["notes", "10.77.0.300", "10.77.0.9", "10.77.0.10"] {
            assert!(dir.join(name).symlink_metadata().is_ok(), "{name}");
        }
        let after: Vec<String> = (0..3).map(|n| node.run_pod(&pod(node, &format!("after{n}")))).collect();
        assert_eq!(after.len(), 3);
        for name in ["10.77.0.9", "10.77.0.10"] {
            let _ = std::fs::remove_dir(dir.join(name)).or_else(|_| std::fs::remove_file(dir.join(name)));
        }
    });
}

#[test]
fn a_list_that_comes_later_has_its_empty_records_removed_as_well() {
    with_cni(|net| {
        let node = net.node;
        node.reboot();
        std::fs::create_dir_all(records(net)).unwrap();
        for last in 2..=6 {
            std::fs::write(records(net).join(format!("10.77.0.{last}")), "").unwrap();
        }
        net.ready().unwrap_err();
        net.put_list("10-pods.conflist", &small(net));
        let id = node.run_pod(&pod(node, "pod"));
        assert_eq!(net.addresses(), [net.ip(&id)]);
    });
}
