//! The built-in network.

use k8s_cri::v1::{self as cri, NamespaceMode};
use strata_e2e::node::{Node, container, pod, test};

/// A script that fetches a page: wget of a static busybox crashes where there is no libc to look names up with.
fn get(address: &str) -> String {
    format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080 | tail -n 1")
}

fn address(node: &Node, pod_id: &str) -> String {
    node.pod_status(pod_id).network.unwrap().ip
}

#[test]
fn pods_reach_each_other_and_the_node() {
    test(|node| {
        node.pull("busybox");
        let (one, two) = (pod(node, "one"), pod(node, "two"));
        let (one_id, two_id) = (node.run_pod(&one), node.run_pod(&two));
        let (one_ip, two_ip) = (address(node, &one_id), address(node, &two_id));
        assert_ne!(one_ip, two_ip);
        let serve = "echo served > /index.html; exec httpd -f -p 8080 -h /";
        let server = node.run_container(&one_id, &one, &container(node, "server", serve));
        let client = node.run_container(&two_id, &two, &container(node, "client", "exec sleep 1000"));
        let fetched = || match node.try_exec(&client, &get(&one_ip), 10) {
            Ok((out, _, 0)) if !out.is_empty() => Ok(out),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(strata_e2e::eventually(10, "the other pod answers", fetched), "served\n");
        // Within the pod by loopback; from the node by address.
        let beside = node.run_container(&one_id, &one, &container(node, "beside", "exec sleep 1000"));
        assert_eq!(node.exec(&beside, &get("127.0.0.1")), "served\n");
        assert_eq!(node.fetch(&format!("{one_ip}:8080")).unwrap(), "served\n");
        assert!(node.exec(&client, "ip -o addr show eth0").contains(&two_ip));
        // And on after the daemon was killed.
        node.crash();
        assert_eq!(node.exec(&client, &get(&one_ip)), "served\n");
        assert_eq!(address(node, &one_id), one_ip);
        node.stop_container(&server, 0).unwrap();
    });
}

#[test]
fn host_ports() {
    test(|node| {
        let image = node.pull("busybox");
        let serve = "echo by port > /index.html; exec httpd -f -p 80 -h /";
        node.strata(&["run", "-d", "--name", "web", "-p", "8081:80", &image, "sh", "-c", serve]).ok();
        let by = |address: &str| strata_e2e::eventually(10, "the port answers", || node.fetch(address));
        node.strata(&["ps"]).ok().has(&["8081->80/tcp"]);
        let bridge = node.run("ip", &["-o", "-4", "addr", "show", "e2e0"]).ok();
        assert!(bridge.stdout.contains("10.88.0."), "{bridge}");
        assert_eq!(by("10.88.0.1:8081"), "by port\n");
        assert_eq!(by("127.0.0.1:8081"), "by port\n");
        // Taken is taken.
        node.strata(&["run", "-d", "-p", "8081:80", &image, "sleep", "1"]).fails();
        node.strata(&["rm", "-f", "web"]).ok();
        node.fetch("127.0.0.1:8081").unwrap_err();
        // The kubelet's pods have host ports as well.
        let mut config = pod(node, "ported");
        config.port_mappings =
            vec![cri::PortMapping { container_port: 80, host_port: 8082, ..Default::default() }];
        let pod_id = node.run_pod(&config);
        node.run_container(&pod_id, &config, &container(node, "web", serve));
        assert_eq!(by("127.0.0.1:8082"), "by port\n");
    });
}

#[test]
fn the_hosts_network_and_names() {
    test(|node| {
        node.pull("busybox");
        let mut config = pod(node, "host");
        config.linux.get_or_insert_default().security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                network: NamespaceMode::Node.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "c", "readlink /proc/self/ns/net; exec sleep 1000");
        strata_e2e::node::security(&mut wanted).namespace_options =
            Some(cri::NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() });
        let id = node.run_container(&pod_id, &config, &wanted);
        let own = node.within(|| std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
        let own = format!("{}\n", own.display());
        assert_eq!(node.exec(&id, "readlink /proc/self/ns/net"), own);

        let mut named = pod(node, "named");
        named.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.9.8.7".into()],
            searches: vec!["cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        let named_id = node.run_pod(&named);
        let id = node.run_container(&named_id, &named, &container(node, "c", "exec sleep 1000"));
        let resolv = node.exec(&id, "cat /etc/resolv.conf");
        for line in ["nameserver 10.9.8.7", "search cluster.local", "options ndots:5"] {
            assert!(resolv.contains(line), "{resolv}");
        }
        assert_eq!(node.exec(&id, "hostname; cat /proc/sys/kernel/hostname"), "named\nnamed\n");
        assert_ne!(node.exec(&id, "readlink /proc/self/ns/net"), own);
    });
}
