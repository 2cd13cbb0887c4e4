//! What goes wrong around a daemon that is well itself: its root, its connections, its own end between two steps.

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use strata_e2e::node::{Node, container, pod, test};
use tonic::Code;

#[test]
fn a_chroot_is_refused() {
    test(|node| {
        let [root, config, other, state] =
            ["chroot", "config.toml", "other", "other-state"].map(|n| node.dir(n).display().to_string());
        std::fs::create_dir(&root).unwrap();
        let stratad = node.stratad().display().to_string();
        let socket = node.dir("other.sock").display().to_string();
        let script = format!(
            "mount --rbind / {root} && exec chroot {root} {stratad} --config {config} --root {other} \
             --state {state} --socket {socket}"
        );
        let refused = node.run("unshare", &["-m", "--propagation", "private", "sh", "-c", &script]).fails();
        assert!(refused.contains("chroot"), "{refused}");
        assert!(!Path::new(&other).exists(), "nothing is made before");
    });
}

/// Ends every connection of the daemon's to a shim, as a lack of memory or a bug would; how many there were.
fn cut_connections(node: &Node) -> usize {
    let pid = Pid::from_raw(node.pid()).unwrap();
    let daemon = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap();
    let numbers: Vec<i32> =
        numbers.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let mut cut = 0;
    for number in numbers {
        let Ok(fd) = rustix::process::pidfd_getfd(&daemon, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        // The address that the shim was reached at ends in its socket's name.
        let name = rustix::net::getpeername(&fd).ok().flatten();
        let name = name.and_then(|name| rustix::net::SocketAddrUnix::try_from(name).ok());
        let path = name.as_ref().and_then(|name| name.path_bytes()).unwrap_or_default();
        if path.ends_with(b"shim.sock") {
            rustix::net::shutdown(&fd, rustix::net::Shutdown::Both).unwrap();
            cut += 1;
        }
    }
    cut
}

#[test]
fn a_broken_connection_to_a_shim_costs_no_container() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "cut");
        let pod_id = node.run_pod(&config);
        let steady = node.run_container(&pod_id, &config, &container(node, "steady", "exec sleep 1000"));
        let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let made: Vec<String> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..3)
                .map(|maker| {
                    let (over, count, config, pod_id) = (&over, &count, &config, &pod_id);
                    scope.spawn(move || {
                        let mut made = Vec::new();
                        while !over.load(Ordering::SeqCst) {
                            let wanted =
                                container(node, &format!("c{maker}-{}", made.len()), "exec sleep 1000");
                            match node.try_create(pod_id, config, &wanted) {
                                Ok(id) => {
                                    made.push(id);
                                    count.fetch_add(1, Ordering::SeqCst);
                                }
                                // Told as what it is, and nothing of it stays: the same name is free.
                                Err(e) => assert_eq!(e.code(), Code::Unavailable, "{e:?}"),
                            }
                        }
                        made
                    })
                })
                .collect();
            let mut cut = 0;
            for _ in 0..12 {
                std::thread::sleep(Duration::from_millis(120));
                cut += cut_connections(node);
            }
            // On a slow machine few of them are there again by then, and every creation may have been cut off.
            strata_e2e::eventually(30, "connections are made again", || {
                if cut < 4 {
                    cut += cut_connections(node);
                }
                if cut > 3 { Ok(()) } else { Err(format!("only {cut} were found")) }
            });
            strata_e2e::eventually(30, "a container is made", || match count.load(Ordering::SeqCst) {
                0 => Err("none yet".into()),
                n => Ok(n),
            });
            over.store(true, Ordering::SeqCst);
            makers.into_iter().flat_map(|maker| maker.join().unwrap()).collect()
        });
        assert!(!made.is_empty());
        for id in &made {
            // What has been promised is there, and works.
            strata_e2e::eventually(20, "a container can be started", || match node.try_start(id) {
                Ok(()) => Ok(()),
                Err(e) if e.code() == Code::Unavailable => Err(e.to_string()),
                Err(e) => panic!("{id} of {}: {e:?}", made.len()),
            });
        }
        assert_eq!(node.exec(&steady, "echo still here"), "still here\n");
    });
}

#[test]
fn the_end_of_a_container_is_seen_to_after_the_daemons() {
    test(|node| {
        let image = node.pull("busybox");
        node.strata(&["run", "--name", "ended", &image, "true"]).ok();
        node.crash();
        node.strata(&["run", "-d", "--name", "later", &image, "sleep", "1000"]).ok();
        // Its address is free, and its shim gone, whether the daemon died before or after.
        let shims = || {
            let state = node.dir("state");
            let all = strata_e2e::node::process::naming(&state);
            all.into_iter().filter(|(_, line)| line.starts_with("strata-shim")).count()
        };
        strata_e2e::eventually(20, "one shim is left", || match shims() {
            1 => Ok(()),
            n => Err(format!("{n} shims")),
        });
        node.strata(&["start", "ended"]).ok();
        node.strata(&["rm", "-f", "ended", "later"]).ok();
    });
}

#[test]
fn a_seccomp_profile_goes_with_its_container() {
    test(|node| {
        let image = node.pull("busybox");
        let profile = node.dir("profile.json");
        std::fs::write(&profile, "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}").unwrap();
        let option = format!("seccomp={}", profile.display());
        let kept = || strata_e2e::node::leaks::names(&node.dir("root/seccomp"));
        let run = |name: &str| {
            node.strata(&["run", "--name", name, "--security-opt", &option, &image, "true"]).ok()
        };
        run("one");
        run("two");
        assert_eq!(kept().len(), 2, "{:?}", kept());
        let checked = node.strata(&["fsck", "--quick"]).ok().to_string();
        assert!(!checked.contains("is not the store's"), "{checked}");
        node.strata(&["rm", "one"]).ok();
        // The other one can still be started.
        node.crash();
        node.strata(&["start", "-a", "two"]).ok();
        assert_eq!(kept().len(), 1, "{:?}", kept());
        node.strata(&["rm", "-f", "two"]).ok();
        assert_eq!(kept(), Vec::<String>::new());
        node.strata(&["create", "--security-opt", &option, "--user", "nobody-here", &image]).fails();
        assert_eq!(kept(), Vec::<String>::new());
    });
}
