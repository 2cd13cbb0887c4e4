//! On the real kernel: see [`testnet`](super::testnet).

use super::testnet::*;
use super::*;
use crate::error::Kind;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use strata_sys::ns;

/// The names of the node's interfaces, without those that it starts with.
async fn interfaces() -> Vec<String> {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
    let name = |a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    };
    let names = links.into_iter().filter_map(|l| l.attributes.into_iter().find_map(name));
    names.filter(|n| n.starts_with('v') || n.starts_with("strata")).collect()
}

fn ruleset() -> String {
    let run = || Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(inside(None, run).stdout).unwrap()
}

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        let a = net.pod(&bridge, "aaaaaaaaaaaa", &[]).await.unwrap();
        let b = net.pod(&bridge, "bbbbbbbbbbbb", &[]).await.unwrap();
        assert_eq!((ip(&a).as_str(), a.mac.as_str()), ("10.88.0.2", "0a:58:0a:58:00:02"));
        assert_eq!((a.interface.as_str(), a.prefix, a.gateway), ("eth0", 16, Some([10, 88, 0, 1].into())));
        let (in_a, in_b) = (net.dir.path().join("aaaaaaaaaaaa"), net.dir.path().join("bbbbbbbbbbbb"));
        serve(&in_b, 80, "b");
        assert_eq!(ask(Some(&in_a), &ip(&b), 80).unwrap(), format!("b {}", ip(&a)));
        assert_eq!(ask(Some(&in_b), "127.0.0.1", 80).unwrap(), "b 127.0.0.1", "lo is up");
        assert_eq!(ask(None, &ip(&b), 80).unwrap(), "b 10.88.0.1");
        let listener = TcpListener::bind("10.88.0.1:81").unwrap();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"node").unwrap());
        assert_eq!(ask(Some(&in_a), "10.88.0.1", 81).unwrap(), "node");
        if has_nft() {
            serve(&net.world(), 80, "world");
            // The world has no route to pods: it must see the node.
            assert_eq!(ask(Some(&in_a), WORLD, 80).unwrap(), format!("world {NODE}"));
        }
        if Path::new("/usr/bin/busybox").exists() {
            let target = ip(&b);
            let ping = move || Command::new("busybox").args(["ping", "-c1", "-W2", &target]).output();
            assert!(inside(Some(&in_a), ping).unwrap().status.success());
        }
        assert_eq!(bridge.status().await, NetworkStatus::ready());
    });
}

#[test]
fn ports_of_the_node() {
    if !has_nft() {
        return;
    }
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        let ports = [tcp("", 8080, 80), tcp("127.0.0.1", 8081, 80), tcp("", 0, 80)];
        let a = net.pod(&bridge, "aaaaaaaaaaaa", &ports).await.unwrap();
        let b = net.pod(&bridge, "bbbbbbbbbbbb", &[tcp("", 9090, 80)]).await.unwrap();
        let (in_a, in_b) = (net.dir.path().join("aaaaaaaaaaaa"), net.dir.path().join("bbbbbbbbbbbb"));
        serve(&in_a, 80, "a");
        serve(&in_b, 80, "b");
        let world = net.world();
        let world = Some(world.as_path());
        assert_eq!(ask(world, NODE, 8080).unwrap(), format!("a {WORLD}"), "clients' addresses are kept");
        assert_eq!(ask(world, NODE, 9090).unwrap(), format!("b {WORLD}"));
        assert!(ask(world, NODE, 8081).is_err(), "only at 127.0.0.1");
        let chosen = a.ports[2].host_port;
        assert!(chosen != 0 && ask(world, NODE, chosen).unwrap().starts_with("a "));
        assert!(ask(None, NODE, 8080).unwrap().starts_with("a "), "from the node");
        assert_eq!(ask(None, "127.0.0.1", 8080).unwrap(), "a 10.88.0.1");
        assert_eq!(ask(None, "127.0.0.1", 8081).unwrap(), "a 10.88.0.1");
        assert_eq!(ask(Some(&in_b), NODE, 8080).unwrap(), "a 10.88.0.1", "from another pod");
        assert_eq!(ask(Some(&in_a), NODE, 8080).unwrap(), "a 10.88.0.1", "from the pod itself");
        let error = net.pod(&bridge, "cccccccccccc", &[tcp("", 8080, 80)]).await.unwrap_err();
        assert!(
            error.kind() == Kind::AlreadyExists && error.to_string().contains("test/aaaaaaaaaaaa"),
            "{error}"
        );

        bridge.detach(gone("aaaaaaaaaaaa")).await.unwrap();
        assert!(ask(world, NODE, 8080).is_err());
        assert_eq!(ask(world, NODE, 9090).unwrap(), format!("b {WORLD}"));
        assert!(!ruleset().contains(&ip(&a)) && ruleset().contains(&ip(&b)), "{}", ruleset());

        // Somebody flushes everything: the next pod with ports brings it back, the others' too.
        inside(None, || Command::new("nft").args(["flush", "ruleset"]).status()).unwrap();
        assert!(ask(world, NODE, 9090).is_err());
        net.pod(&bridge, "dddddddddddd", &[tcp("", 8080, 80)]).await.unwrap();
        assert_eq!(ask(world, NODE, 9090).unwrap(), format!("b {WORLD}"));
    });
}

#[test]
fn pods_do_not_reach_the_nodes_loopback() {
    if !has_nft() || !Path::new("/usr/sbin/ip").exists() {
        println!("skipped: needs nft and ip");
        return;
    }
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        net.pod(&bridge, "aaaaaaaaaaaa", &[]).await.unwrap();
        let pod = net.dir.path().join("aaaaaaaaaaaa");
        let script = "ip addr del 127.0.0.1/8 dev lo && echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet \
            && ip route add 127.0.0.0/8 via 10.88.0.1 src 10.88.0.2";
        let sh = |script: &'static str| {
            move || Command::new("sh").args(["-c", script]).status().unwrap().success()
        };
        assert!(inside(Some(&pod), sh(script)), "a pod that may change its routes");
        let listener = TcpListener::bind("127.0.0.1:83").unwrap();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"secret").unwrap());
        assert!(ask(Some(&pod), "127.0.0.1", 83).is_err());
        // It is the guard that keeps it out.
        assert!(inside(None, sh("nft flush chain ip strata-strata0 guard")));
        assert_eq!(ask(Some(&pod), "127.0.0.1", 83).unwrap(), "secret");
    });
}

#[test]
fn detach_is_idempotent_and_frees_the_address() {
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/30");
        let first = net.pod(&bridge, "aaaaaaaaaaaa", &[]).await.unwrap();
        let error = net.pod(&bridge, "bbbbbbbbbbbb", &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        // The namespace is gone before the pod is detached.
        ns::unpin(&net.dir.path().join("aaaaaaaaaaaa")).unwrap();
        for _ in 0..2 {
            bridge.detach(gone("aaaaaaaaaaaa")).await.unwrap();
        }
        assert_eq!(interfaces().await, ["strata0"]);
        let netns = net.dir.path().join("bbbbbbbbbbbb");
        let second = bridge.attach(request("bbbbbbbbbbbb", &netns, &[])).await.unwrap();
        assert_eq!(second.ips, first.ips);
        let again = bridge.attach(request("bbbbbbbbbbbb", &netns, &[])).await.unwrap_err();
        assert_eq!(again.kind(), Kind::AlreadyExists);
        assert_eq!(interfaces().await.len(), 2, "the first attachment stays");
    });
}

#[test]
fn failures_leave_nothing() {
    alone(|net| async move {
        // nft fails; the namespace is no namespace; the pod has an eth0 already.
        let bridge = with_nft(Some("/bin/false"));
        let error = net.pod(&bridge, "aaaaaaaaaaaa", &[tcp("", 8080, 80)]).await.unwrap_err();
        assert!(error.kind() == Kind::Unavailable && error.to_string().contains("/bin/false"), "{error}");
        assert_eq!(interfaces().await, ["strata0"]);
        let missing = net.dir.path().join("missing");
        let error = bridge.attach(request("bbbbbbbbbbbb", &missing, &[])).await.unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
        let netns = net.dir.path().join("aaaaaaaaaaaa");
        bridge.attach(request("cccccccccccc", &netns, &[])).await.unwrap();
        let error = bridge.attach(request("dddddddddddd", &netns, &[])).await.unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        assert_eq!(interfaces().await.len(), 2);
        let claims = format!("{:?}", bridge.claims());
        assert!(claims.contains("cccccccccccc"));
        for freed in ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "dddddddddddd", "8080"] {
            assert!(!claims.contains(freed), "{freed} in {claims}");
        }
        assert!(bridge.status().await.ready && bridge.status().await.message.contains("/bin/false"));
    });
}

#[test]
fn without_nft_pods_have_no_ports() {
    alone(|net| async move {
        let bridge = with_nft(None);
        assert!(bridge.status().await.ready && bridge.status().await.message.contains("install nftables"));
        let error = net.pod(&bridge, "aaaaaaaaaaaa", &[tcp("", 8080, 80)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        net.pod(&bridge, "bbbbbbbbbbbb", &[]).await.unwrap();
        bridge.detach(gone("bbbbbbbbbbbb")).await.unwrap();
        bridge.recover(Vec::new()).await.unwrap();
    });
}

#[test]
fn recovery_takes_over_and_cleans_up() {
    if !has_nft() {
        return;
    }
    alone(|net| async move {
        let before = bridge("10.88.0.0/16");
        let live = net.pod(&before, "aaaaaaaaaaaa", &[tcp("", 8080, 80)]).await.unwrap();
        net.pod(&before, "bbbbbbbbbbbb", &[tcp("", 8081, 80)]).await.unwrap();
        serve(&net.dir.path().join("aaaaaaaaaaaa"), 80, "a");
        let other = config::Network {
            subnet: "10.99.0.0/16".into(),
            bridge: "strata1".into(),
            ..config::Network::default()
        };
        let other = Bridge::new(&other, None);
        net.pod(&other.unwrap(), "cccccccccccc", &[]).await.unwrap();
        drop(before);

        let after = bridge("10.88.0.0/16");
        after.recover(vec![held("aaaaaaaaaaaa", &live)]).await.unwrap();
        let names = interfaces().await;
        assert!(names.contains(&after.host_interface("aaaaaaaaaaaa")), "{names:?}");
        assert!(!names.contains(&after.host_interface("bbbbbbbbbbbb")), "{names:?}");
        assert_eq!(
            names.iter().filter(|n| n.starts_with('v')).count(),
            2,
            "another bridge's stays: {names:?}"
        );
        let world = net.world();
        assert!(ask(Some(&world), NODE, 8080).unwrap().starts_with("a "));
        assert!(!ruleset().contains("8081"));
        let error = net.pod(&after, "dddddddddddd", &[tcp("", 8080, 80)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        let new = net.pod(&after, "eeeeeeeeeeee", &[]).await.unwrap();
        assert_ne!(new.ips, live.ips);
        // Nobody lives: the table goes.
        bridge("10.88.0.0/16").recover(Vec::new()).await.unwrap();
        assert!(!ruleset().contains("strata-strata0") && ruleset().contains("strata-strata1"));
        assert_eq!(interfaces().await.iter().filter(|n| n.starts_with('v')).count(), 1);
    });
}

#[test]
fn many_at_once() {
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        let ids: Vec<_> = (0..50).map(|n| format!("{n:02x}{n:02x}{n:02x}{n:02x}{n:02x}{n:02x}")).collect();
        let pins: Vec<_> = ids.iter().map(|id| net.netns(id)).collect();
        let attach = |n: usize| bridge.attach(request(&ids[n], &pins[n], &[]));
        let results = futures_util::future::join_all((0..50).map(attach)).await;
        let addresses: HashSet<_> = results.into_iter().map(|r| r.unwrap().ips[0]).collect();
        assert_eq!(addresses.len(), 50);
        assert_eq!(interfaces().await.len(), 51);
        let start = Instant::now();
        futures_util::future::join_all(ids.iter().map(|id| bridge.detach(gone(id)))).await;
        println!("detach: 50 at once in {:?}", start.elapsed());
        assert_eq!(interfaces().await, ["strata0"]);
        let mut times = Vec::new();
        for n in 0..ids.len() {
            let start = Instant::now();
            attach_again(&bridge, &ids[n], &pins[n]).await;
            times.push(start.elapsed());
        }
        let start = Instant::now();
        bridge.detach(gone(&ids[0])).await.unwrap();
        println!("detach: one in {:?}", start.elapsed());
        times.sort();
        println!("attach: p50 {:?}, p90 {:?}", times[times.len() / 2], times[times.len() * 9 / 10]);
    });
}

async fn attach_again(bridge: &Bridge, id: &str, netns: &Path) {
    bridge.attach(request(id, netns, &[])).await.unwrap();
}

#[test]
fn an_abandoned_attach_is_undone_by_detach() {
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        let ports = if has_nft() { vec![tcp("", 8080, 80)] } else { Vec::new() };
        let mut abandoned = 0;
        for step in 0..40_u64 {
            let (id, limit) = (format!("{step:012x}"), Duration::from_micros(step * step * 20));
            let attach = tokio::time::timeout(limit, net.pod(&bridge, &id, &ports));
            abandoned += u32::from(attach.await.is_err());
            bridge.detach(gone(&id)).await.unwrap();
            let left = interfaces().await;
            assert!(left.iter().all(|n| n == "strata0"), "{step}: {left:?}");
        }
        assert!(abandoned > 3);
        let claims = format!("{:?}", bridge.claims());
        assert!(!claims.contains("test/"), "{claims}");
        // The port and the rules are free as well.
        net.pod(&bridge, "ffffffffffff", &ports).await.unwrap();
    });
}

#[test]
fn a_taken_subnet_or_name_is_refused() {
    alone(|_net| async move {
        let overlapping = bridge("203.0.112.0/22");
        let error = overlapping.attach(request("aaaaaaaaaaaa", Path::new("/x"), &[])).await.unwrap_err();
        assert!(error.kind() == Kind::FailedPrecondition && error.to_string().contains(NODE), "{error}");
        let config = config::Network { bridge: "up0".into(), ..config::Network::default() };
        let error =
            Bridge::new(&config, None).unwrap().attach(request("a", Path::new("/x"), &[])).await.unwrap_err();
        assert!(error.to_string().contains("no bridge"), "{error}");
    });
}

#[test]
fn the_clusters_addresses_are_taken_while_no_pod_has_others() {
    alone(|net| async move {
        let bridge = bridge("10.88.0.0/16");
        let cidrs = |text: &str| PodCidrs::parse(text).unwrap().unwrap();
        let a = net.pod(&bridge, "aaaaaaaaaaaa", &[]).await.unwrap();
        let error = bridge.set_pod_cidr(cidrs("10.99.7.0/24")).await.unwrap_err();
        assert!(
            error.kind() == Kind::FailedPrecondition && error.to_string().contains("10.88.0.0/16"),
            "{error}"
        );
        bridge.set_pod_cidr(cidrs("10.88.0.0/16")).await.unwrap();
        bridge.detach(gone("aaaaaaaaaaaa")).await.unwrap();
        bridge.set_pod_cidr(cidrs("fd00::/64,10.99.7.0/24")).await.unwrap();
        let b = net.pod(&bridge, "bbbbbbbbbbbb", &[]).await.unwrap();
        assert_eq!((ip(&a).as_str(), ip(&b).as_str(), b.prefix), ("10.88.0.2", "10.99.7.2", 24));
        serve(&net.dir.path().join("bbbbbbbbbbbb"), 80, "b");
        assert_eq!(ask(None, &ip(&b), 80).unwrap(), "b 10.99.7.1");
        for bad in ["fd00::/64", "10.0.0.0/31"] {
            assert!(bridge.set_pod_cidr(cidrs(bad)).await.is_err(), "{bad}");
        }
    });
}
