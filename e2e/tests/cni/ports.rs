//! Host ports by the plugin portmap, and what pods leave.

use super::rig::{busy_pod, with_cni};
use k8s_cri::v1 as cri;
use strata_e2e::eventually;
use strata_e2e::node::{cni, container};

fn port(container_port: i32, host_port: i32, host_ip: &str, protocol: cri::Protocol) -> cri::PortMapping {
    cri::PortMapping { container_port, host_port, host_ip: host_ip.into(), protocol: protocol.into() }
}

#[test]
fn host_ports_are_served_and_nothing_stays_of_a_pod() {
    with_cni(|net| {
        let node = net.node;
        let chained = ["portmap", "firewall", "bandwidth", "loopback"];
        net.put_list("10-pods.conflist", &cni::list(node, "pods", 77, "", &chained));
        node.pull("busybox");
        cni::warm_up(node);
        let before = cni::traces(node);

        let mut config = busy_pod(node, "web", 8083);
        config.port_mappings.extend([
            port(81, 8084, "", cri::Protocol::Udp),
            port(80, 8085, "10.77.0.1", cri::Protocol::Tcp),
            // Known to the kubelet, and no port of the node.
            port(82, 0, "", cri::Protocol::Tcp),
        ]);
        let id = node.run_pod(&config);
        let ip = net.ip(&id);
        let serve = "echo by port > /index.html; exec httpd -f -p 80 -h /";
        node.run_container(&id, &config, &container(node, "web", serve));
        for address in ["127.0.0.1:8083", "10.77.0.1:8083", "10.77.0.1:8085"] {
            let page = eventually(20, "the port answers", || node.fetch(address));
            assert_eq!(page, "by port\n", "{address}");
        }
        node.fetch("127.0.0.1:8085").unwrap_err();

        let pods: Vec<String> = cni::traces(node).difference(&before).cloned().collect();
        for part in
            ["interface veth", &format!("address {ip}"), "CNI-DN-", "--dport 8084", "CNI-FORWARD -d", "nft: "]
        {
            assert!(pods.iter().any(|line| line.contains(part)), "{part}: {pods:#?}");
        }
        node.remove_pod(&id).unwrap();
        assert_eq!(cni::traces(node), before);
        node.fetch("127.0.0.1:8083").unwrap_err();
    });
}
