//! Network devices of CDI: interfaces of the node's that pods have for a while.

use super::refused;
use k8s_cri::v1 as cri;
use serde_json::json;
use strata_e2e::node::{Node, container, pod, test};
use tonic::Code;

/// The node's interface. The other end of the cable is the node's for good.
const LENT: &str = "lent0";

fn ip(node: &Node, command: &str) -> String {
    let command: Vec<&str> = command.split(' ').collect();
    node.run("ip", &command).ok().stdout
}

/// Makes the interface as it is to come back.
pub(crate) fn cable(node: &Node) {
    for command in [
        "link add lent0 address 02:00:00:00:00:63 mtu 1400 type veth peer name lent0p mtu 1400",
        "link set lent0 alias kept",
        "address add 10.99.0.2/24 dev lent0",
        "address add fd00:99::2/64 dev lent0 nodad",
        "address add 10.99.0.1/24 dev lent0p",
        "link set lent0p up",
        "link set lent0 up",
    ] {
        ip(node, command);
    }
    assert_lent_to_nobody(node);
}

/// A device that brings the interface, as `name`.
pub(crate) fn install(node: &Node, name: &str, hooks: &[serde_json::Value]) {
    let spec = json!({ "cdiVersion": "1.1.0", "kind": "vendor.example/nic", "devices": [{ "name": "x",
        "containerEdits": { "netDevices": [{ "hostInterfaceName": LENT, "name": name }], "hooks": hooks } }] });
    std::fs::write(node.dir("cdi/nic.json"), spec.to_string()).unwrap();
}

pub(crate) fn ask(config: &mut cri::ContainerConfig) {
    config.cdi_devices = vec![cri::CdiDevice { name: "vendor.example/nic=x".into() }];
}

/// That the node has the interface, as it was made.
#[track_caller]
pub(crate) fn assert_lent_to_nobody(node: &Node) {
    let told = ip(node, "-d address show dev lent0");
    let kept =
        ["<BROADCAST,MULTICAST,UP", "mtu 1400", "02:00:00:00:00:63", "alias kept", "inet 10.99.0.2/24"];
    for part in kept.into_iter().chain(["inet6 fd00:99::2/64"]) {
        assert!(told.contains(part), "{part} is lacking in {told}");
    }
}

/// That a pod has the interface, and the node has not.
#[track_caller]
pub(crate) fn assert_lent(node: &Node, pod_id: &str, name: &str) {
    assert_eq!(node.run("ip", &["link", "show", "dev", LENT]).code, 1, "the node has it still");
    let netns = format!("--net={}", node.dir("netns").join(format!("strata-{pod_id}")).display());
    let told = node.run("nsenter", &[&netns, "ip", "-d", "address", "show", "dev", name]).ok().stdout;
    for part in ["UP", "mtu 1400", "02:00:00:00:00:63", "inet 10.99.0.2/24", "inet6 fd00:99::2/64"] {
        assert!(told.contains(part), "{part} is lacking in {told}");
    }
}

#[track_caller]
fn started(node: &Node, pod_id: &str, config: &cri::PodSandboxConfig, name: &str) -> String {
    let mut wanted = container(node, name, "exec sleep 1000");
    ask(&mut wanted);
    node.run_container(pod_id, config, &wanted)
}

#[track_caller]
fn removed(node: &Node, id: &str) {
    node.stop_container(id, 0).unwrap();
    node.remove_container(id).unwrap();
}

#[test]
fn an_interface_is_a_pods_as_long_as_a_container_asks_for_it() {
    test(|node| {
        node.pull("busybox");
        cable(node);
        install(node, "net1", &[]);
        let config = pod(node, "lent");
        let pod_id = node.run_pod(&config);
        let first = started(node, &pod_id, &config, "first");
        assert_lent(node, &pod_id, "net1");
        let seen = "cat /sys/class/net/net1/mtu /sys/class/net/net1/address; ping -c 1 -W 20 10.99.0.1 > /dev/null && echo reached";
        assert_eq!(node.exec(&first, seen), "1400\n02:00:00:00:00:63\nreached\n");
        // What the next attempt of a container asks for while the last one is still there.
        let second = started(node, &pod_id, &config, "second");
        removed(node, &first);
        assert_lent(node, &pod_id, "net1");
        // Nobody else can have it, and an error takes nothing away.
        let other = node.run_pod(&pod(node, "other"));
        let (code, message) = refused(node, &other, "other", ask);
        assert!(
            code == Code::FailedPrecondition && message.contains(&format!("pod {} has it", &pod_id[..12])),
            "{message}"
        );
        install(node, "net2", &[]);
        let (code, message) = refused(node, &pod_id, "renamed", ask);
        assert!(code == Code::FailedPrecondition && message.contains("has it as net1"), "{message}");
        install(node, "net1", &[]);
        assert_lent(node, &pod_id, "net1");
        removed(node, &second);
        assert_lent_to_nobody(node);
        // As often as it is asked for; the pod's end is the end of it, whichever daemon is there then.
        let third = started(node, &pod_id, &config, "third");
        assert_lent(node, &pod_id, "net1");
        node.stop_pod(&pod_id).unwrap();
        assert_lent_to_nobody(node);
        node.remove_container(&third).unwrap();
        started(node, &other, &pod(node, "other"), "fourth");
        assert_lent(node, &other, "net1");
        node.crash();
        assert_lent(node, &other, "net1");
        node.remove_pod(&other).unwrap();
        assert_lent_to_nobody(node);
    });
}

#[test]
fn what_cannot_be_lent_is_refused_and_what_was_goes_back() {
    test(|node| {
        node.pull("busybox");
        cable(node);
        let config = pod(node, "refused");
        let pod_id = node.run_pod(&config);
        let before = node.settled_traces();
        for (name, code, text) in [
            ("eth0", Code::AlreadyExists, "has an interface eth0"),
            ("lo", Code::AlreadyExists, "interface lo"),
        ] {
            install(node, name, &[]);
            let (found, message) = refused(node, &pod_id, "taken", ask);
            assert!(found == code && message.contains(text), "{found:?} {message}");
            assert_lent_to_nobody(node);
        }
        install(node, "net1", &[]);
        let spec = std::fs::read_to_string(node.dir("cdi/nic.json")).unwrap();
        for (host, text) in
            [("lacking0", "no interface lacking0"), ("lo", "loopback"), ("e2e0", "cannot leave")]
        {
            std::fs::write(node.dir("cdi/nic.json"), spec.replace(LENT, host)).unwrap();
            let (found, message) = refused(node, &pod_id, "cannot", ask);
            assert!(
                found == Code::FailedPrecondition && message.contains(text),
                "{host}: {found:?} {message}"
            );
        }
        assert!(!ip(node, "-d link show dev e2e0").contains("alias"), "it has none of its own");
        // It has been moved by the time that the hook fails.
        let fails = json!({ "hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "exit 7"] });
        install(node, "net1", &[fails]);
        let (code, message) = refused(node, &pod_id, "hooked", ask);
        assert!(code == Code::Internal && message.contains("exit code 7"), "{message}");
        assert_lent_to_nobody(node);
        install(node, "net1", &[]);
        let mut host = pod(node, "host");
        let context = host.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options = Some(cri::NamespaceOption { network: 2, ..Default::default() });
        let host_id = node.run_pod(&host);
        let (code, message) = refused(node, &host_id, "host", ask);
        assert!(code == Code::FailedPrecondition && message.contains("the node's network"), "{message}");
        node.remove_pod(&host_id).unwrap();
        node.assert_traces(&before);
        // While it is away the node gets another one of its name: it comes back all the same.
        started(node, &pod_id, &config, "away");
        ip(node, &format!("link add {LENT} type veth peer name another0"));
        node.remove_pod(&pod_id).unwrap();
        let all = ip(node, "-d -o link show");
        let back =
            all.lines().find(|line| line.contains("02:00:00:00:00:63")).unwrap_or_else(|| panic!("{all}"));
        assert!(!back.contains(" lent0@") && back.contains("alias kept"), "{all}");
        let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        assert!(log.contains("has come back by another name"), "{log}");
    });
}
