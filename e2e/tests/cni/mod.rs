//! CNI with the plugins of Debian's containernetworking-plugins, each behind a script that can hold it up or make it fail.

mod crashes;
mod handlers;
mod hangs;
mod leases;
mod lists;
mod ports;
mod removal;
mod rig;

use rig::{busy_pod, with_cni};
use strata_e2e::eventually;
use strata_e2e::node::{container, pod};

#[test]
fn pods_get_what_the_list_says() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        net.ready().unwrap();
        node.pull("busybox");
        let (one, two) = (busy_pod(node, "one", 8083), pod(node, "two"));
        let (one_id, two_id) = (node.run_pod(&one), node.run_pod(&two));
        let (ip, other) = (net.ip(&one_id), net.ip(&two_id));
        assert!(ip.starts_with("10.77.0.") && other.starts_with("10.77.0.") && ip != other, "{ip} {other}");
        let serve = "echo by cni > /index.html; exec httpd -f -p 80 -h /";
        node.run_container(&one_id, &one, &container(node, "web", serve));
        let client = node.run_container(&two_id, &two, &container(node, "client", "exec sleep 1000"));
        let by = |address: &str| eventually(20, "the pod answers", || node.fetch(address));
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        assert_eq!(by("10.77.0.1:8083"), "by cni\n", "by the node's port");
        let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ip} 80 | tail -n 1");
        assert_eq!(node.exec(&client, &get), "by cni\n");
        assert!(node.exec(&client, "ip -o addr show lo").contains("127.0.0.1"), "loopback is up");
        let told = std::fs::read_to_string(net.bin.join("last.bandwidth.ADD")).unwrap();
        assert!(!told.contains("ingressRate"), "the second pod asks for none: {told}");
        let shaped = node.run("tc", &["qdisc", "show"]).ok();
        assert!(shaped.stdout.contains("tbf") && shaped.stdout.contains("20Mbit"), "{shaped}");

        // Over a restart; the new daemon looks whether they are as they were made.
        node.crash();
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        eventually(20, "CHECK", || {
            if net.log().iter().filter(|l| *l == "bridge.CHECK").count() == 2 {
                Ok(())
            } else {
                Err(format!("{:?}", net.log()))
            }
        });
        // Of what Debian's portmap and bandwidth say then the daemon only warns: the pods go on.
        // Stopping gives everything back, and again is fine.
        node.crictl(&["stopp", &one_id]).ok();
        node.crictl(&["stopp", &one_id]).ok();
        assert_eq!(net.addresses(), [other]);
        node.fetch("10.77.0.1:8083").unwrap_err();
        assert!(!node.run("tc", &["qdisc", "show"]).ok().stdout.contains("20Mbit"));
        let told = std::fs::read_to_string(net.bin.join("last.portmap.DEL")).unwrap();
        assert!(told.contains("prevResult") && told.contains(&ip), "{told}");
        node.crictl(&["rmp", "-f", &two_id]).ok();
        assert!(net.addresses().is_empty());
    });
}

/// What a pod receives is limited at its interface of the node, what it sends on an interface between (ifb).
#[test]
fn bandwidth_is_limited_both_ways() {
    with_cni(|net| {
        let node = net.node;
        if node.run("ip", &["link", "add", "probe", "type", "ifb"]).code != 0 {
            return strata_e2e::skip(
                "the kernel has no interfaces of type ifb, which the plugin bandwidth needs",
            );
        }
        node.run("ip", &["link", "delete", "probe"]).ok();
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        net.ready().unwrap();
        let mut config = busy_pod(node, "both", 8083);
        config.annotations.insert("kubernetes.io/egress-bandwidth".into(), "30M".into());
        let id = node.run_pod(&config);
        let told = std::fs::read_to_string(net.bin.join("last.bandwidth.ADD")).unwrap();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let rates = &told["runtimeConfig"]["bandwidth"];
        assert_eq!(
            (&rates["ingressRate"], &rates["egressRate"]),
            (&20_000_000.into(), &30_000_000.into()),
            "{told}"
        );

        let shaped = node.run("tc", &["qdisc", "show"]).ok().stdout;
        let device = |what: &[&str]| {
            let line = shaped.lines().find(|line| what.iter().all(|word| line.contains(word)));
            let words = line.unwrap_or_else(|| panic!("{what:?}: {shaped}")).split(' ');
            words.skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
        };
        let (receiving, sending) =
            (device(&["qdisc tbf", "rate 20Mbit"]), device(&["qdisc tbf", "rate 30Mbit"]));
        assert!(receiving.starts_with("veth") && receiving != sending, "{shaped}");
        assert_eq!(device(&["qdisc ingress"]), receiving);
        let between = node.run("tc", &["filter", "show", "dev", &receiving, "ingress"]).ok().stdout;
        assert!(between.contains(&format!("Redirect to device {sending}")), "{between}");

        node.remove_pod(&id).unwrap();
        let left = node.run("tc", &["qdisc", "show"]).ok().stdout;
        assert!(!left.contains("20Mbit") && !left.contains("30Mbit"), "{left}");
        assert!(!node.run("ip", &["link", "show"]).ok().stdout.contains(&sending));
    });
}
