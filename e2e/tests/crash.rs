//! `kill -9` of the daemon at any moment: containers do not notice, and nothing is lost or left.

mod steps;

use k8s_cri::v1::{self as cri, ContainerState, PodSandboxState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use strata_e2e::images::{Compression, Flavor, ImageBuilder, LayerBuilder, catalog};
use strata_e2e::node::{Node, cgroups, container, pod, process, test};
use tonic::Code;

/// Delays between a call and the kill, in milliseconds: from "hardly begun" to "has ended".
const DELAYS: [u64; 8] = [0, 2, 5, 10, 20, 40, 80, 160];

/// Calls in another thread, and kills the daemon a little later.
fn killed_during<T: Send>(node: &Node, delay: u64, call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let call = scope.spawn(call);
        std::thread::sleep(Duration::from_millis(delay));
        node.kill9();
        let result = call.join().unwrap();
        node.launch();
        result
    })
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

#[test]
fn containers_run_on_and_logs_have_no_gap() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "steady");
        let pod_id = node.run_pod(&config);
        let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
        let counter = node.run_container(&pod_id, &config, &container(node, "counter", script));
        let mut short = container(node, "short", "until [ -e /switch/off ]; do sleep 0.05; done; exit 9");
        let switch = node.dir("switch");
        std::fs::create_dir(&switch).unwrap();
        let (host_path, container_path) = (switch.display().to_string(), "/switch".into());
        short.mounts = vec![cri::Mount { host_path, container_path, ..Default::default() }];
        let short = node.run_container(&pod_id, &config, &short);
        let status = node.status(&counter);
        let (started, log) = (status.started_at, status.log_path);
        node.kill9();
        let alone = now();
        std::fs::write(switch.join("off"), "").unwrap();
        let record = node.dir(&format!("state/pods/{pod_id}/{short}.exit"));
        let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
        strata_e2e::eventually(30, "one ends and the other goes on", || match (record.exists(), lines()) {
            (true, 51..) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let back = now();
        node.launch();
        let status = node.status(&counter);
        assert_eq!((status.state(), status.started_at), (ContainerState::ContainerRunning, started));
        assert_eq!(node.pod_status(&pod_id).state(), PodSandboxState::SandboxReady);
        let ended = node.status(&short);
        assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 9), "{ended:?}");
        assert!((alone..back).contains(&ended.finished_at), "when it ended: {ended:?}, {alone} to {back}");
        for _ in 0..5 {
            node.crash();
        }
        assert_eq!(node.exec(&counter, "echo still here"), "still here\n");
        node.stop_container(&counter, 0).unwrap();
        let numbers: Vec<usize> = node.log(&counter).iter().map(|line| line.text.parse().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
        // Stopping is not starting again.
        node.crash();
        assert_eq!(node.status(&counter).exit_code, 137);
    });
}

#[test]
fn during_a_pull() {
    test(|node| {
        let noise: Vec<u8> = (0..24_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let big = LayerBuilder::new().file("noise", 0o644, &noise[..]).build();
        let image = ImageBuilder::new(Flavor::Oci)
            .layer(&catalog::busybox_layer().unwrap(), Compression::Gzip, "COPY busybox /")
            .layer(&big, Compression::Gzip, "COPY noise /")
            .build();
        node.push(async |registry| registry.push(&image, "e2e/big", "latest").await);
        let name = node.image("big");
        for delay in [5, 20, 50, 100, 200, 400] {
            let _ = killed_during(node, delay, || node.try_pull(&name));
            // Whole or not there at all.
            let listed = node.crictl(&["images", "-q"]).ok();
            if !listed.text().is_empty() {
                node.strata(&["run", "--rm", &name, "ls", "-l", "/noise"]).ok().has(&["25165824"]);
                node.crictl(&["rmi", &name]).ok();
            }
        }
        node.pull("big");
        let sum = node.strata(&["run", "--rm", &name, "sha256sum", "/noise"]).ok();
        let expected = strata_e2e::images::digest(&noise);
        assert!(sum.stdout.starts_with(&expected[7..]), "{sum}");
    });
}

#[test]
fn during_a_pod_start() {
    test(|node| {
        for (n, delay) in DELAYS.into_iter().enumerate() {
            let config = pod(node, &format!("p{n}"));
            let early = killed_during(node, delay, || node.try_run_pod(&config));
            // The kubelet asks again, and gets one working pod for it.
            let id = node.run_pod(&config);
            if let Ok(early) = early {
                assert_eq!(early, id, "after {delay} ms");
            }
            assert_eq!(node.pod_status(&id).state(), PodSandboxState::SandboxReady);
        }
        let pods = cri::ListPodSandboxRequest { filter: None };
        let listed = node.cri(async |mut c| c.list_pod_sandbox(pods).await).unwrap().items;
        let ready = listed.iter().filter(|p| p.state() == PodSandboxState::SandboxReady).count();
        assert_eq!(ready, DELAYS.len(), "{listed:#?}");
    });
}

#[test]
fn during_a_create_and_a_start() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "create");
        let pod_id = node.run_pod(&config);
        for (n, delay) in DELAYS.into_iter().enumerate() {
            let wanted = container(node, &format!("c{n}"), "echo once; exec sleep 1000");
            let early = killed_during(node, delay, || node.try_create(&pod_id, &config, &wanted));
            let id = node.create(&pod_id, &config, &wanted);
            if let Ok(early) = early {
                assert_eq!(early, id, "after {delay} ms");
            }
            let early = killed_during(node, delay, || node.try_start(&id));
            let state = node.status(&id).state();
            match state {
                ContainerState::ContainerRunning => {}
                ContainerState::ContainerCreated if early.is_err() => node.try_start(&id).unwrap(),
                other => panic!("{other:?} after {early:?} and {delay} ms"),
            }
            let once = || match node.log(&id).as_slice() {
                [line] if line.text == "once" => Ok(()),
                lines => Err(format!("{lines:?}")),
            };
            strata_e2e::eventually(10, "the program runs once", once);
        }
    });
}

#[test]
fn during_an_exec() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "exec");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        for (n, delay) in DELAYS.into_iter().enumerate() {
            let script = format!("sleep 0.05; echo {n} >> /done");
            let _ = killed_during(node, delay, || node.try_exec(&id, &script, 10));
            assert_eq!(node.exec(&id, "echo answered"), "answered\n");
        }
        let count = || match node.exec(&id, "ps -o args").matches("/done").count() {
            0 => Ok(()),
            n => Err(format!("{n} execs still run")),
        };
        strata_e2e::eventually(10, "every exec ends", count);
    });
}

#[test]
fn during_a_removal() {
    test(|node| {
        let image = node.pull("busybox");
        for (n, delay) in DELAYS.into_iter().enumerate() {
            let config = pod(node, &format!("r{n}"));
            let pod_id = node.run_pod(&config);
            let id =
                node.run_container(&pod_id, &config, &container(node, "c", "echo x > /x; exec sleep 1000"));
            let _ = killed_during(node, delay, || node.stop_container(&id, 0));
            node.stop_container(&id, 0).unwrap();
            let _ = killed_during(node, delay, || node.remove_container(&id));
            node.remove_container(&id).unwrap();
            let _ = killed_during(node, delay, || node.stop_pod(&pod_id));
            node.stop_pod(&pod_id).unwrap();
            let _ = killed_during(node, delay, || node.remove_pod(&pod_id));
            node.remove_pod(&pod_id).unwrap();
        }
        let _ = killed_during(node, 1, || node.crictl(&["rmi", &image]));
        let _ = node.crictl(&["rmi", &image]);
        assert_eq!(node.crictl(&["images", "-q"]).ok().text(), "");
    });
}

#[test]
fn during_a_commit() {
    test(|node| {
        let image = node.pull("busybox");
        let script = "head -c 8000000 /dev/urandom > /data; sha256sum /data > /sum; exec sleep 1000";
        node.strata(&["run", "-d", "--name", "work", &image, "sh", "-c", script]).ok();
        strata_e2e::eventually(20, "the data is written", || {
            let listed = node.strata(&["exec", "work", "cat", "/sum"]);
            if listed.stdout.contains("/data") { Ok(()) } else { Err(listed.to_string()) }
        });
        for delay in [5, 20, 60, 150, 400] {
            let _ = killed_during(node, delay, || node.strata(&["commit", "work", "saved:latest"]));
            // Not left frozen, and the image is whole or not there at all.
            node.strata(&["exec", "work", "true"]).ok();
            if node.strata(&["image", "ls", "-q", "saved"]).ok().text() != "" {
                node.strata(&["run", "--rm", "saved", "sha256sum", "-c", "/sum"]).ok();
                node.strata(&["rmi", "saved"]).ok();
            }
        }
        node.strata(&["commit", "work", "saved:latest"]).ok();
        node.strata(&["run", "--rm", "saved", "sha256sum", "-c", "/sum"]).ok();
    });
}

#[test]
fn a_dead_shim_is_a_dead_pod() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "shim");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        strata_e2e::node::process::kill(node.shim(&pod_id));
        let status = node.wait_exit(&id);
        assert_eq!(status.exit_code, 137, "{status:?}");
        strata_e2e::eventually(10, "the pod is not ready", || match node.pod_status(&pod_id).state() {
            PodSandboxState::SandboxNotready => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let left = strata_e2e::node::cgroups::processes(&format!("{}/pods", node.cgroup()));
        assert!(left.is_empty(), "{left:?}");
    });
}

/// A pod with a container that counts, whose shim has been stopped before stratad was killed and started again.
fn silent(node: &Node, name: &str) -> (String, String, Pid) {
    let config = pod(node, name);
    let pod_id = node.run_pod(&config);
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";
    let id = node.run_container(&pod_id, &config, &container(node, "c", script));
    let shim = Pid::from_raw(node.shim(&pod_id));
    kill(shim, Signal::SIGSTOP).unwrap();
    (pod_id, id, shim)
}

#[test]
fn a_shim_that_lives_and_is_silent_at_the_start_keeps_its_pod() {
    test(|node| {
        node.pull("busybox");
        let (kept, id, shim) = silent(node, "kept");
        let (removed, _, stopped) = silent(node, "removed");
        let group = |pod: &str| cgroups::processes(&format!("{}/pods/{pod}", node.cgroup()));
        node.crash();
        // Answered once recovery has dealt with it, or has given up waiting.
        assert_eq!(node.status(&id).state(), ContainerState::ContainerUnknown);
        let pods = cri::ListPodSandboxRequest { filter: None };
        let listed = node.cri(async |mut c| c.list_pod_sandbox(pods).await).unwrap().items;
        assert!(listed.iter().all(|p| p.state() == PodSandboxState::SandboxReady), "{listed:#?}");
        assert_eq!(listed.len(), 2);
        // The kubelet would make another one beside it.
        for refused in [node.stop_container(&id, 0), node.remove_container(&id)] {
            assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        }
        // One that is given up goes as a whole.
        node.stop_pod(&removed).unwrap();
        node.remove_pod(&removed).unwrap();
        strata_e2e::eventually(10, "its shim goes too", || match process::runs(stopped.as_raw()) {
            true => Err("it is there".to_owned()),
            false => Ok(()),
        });
        assert!(group(&removed).is_empty() && !group(&kept).is_empty());
        kill(shim, Signal::SIGCONT).unwrap();
        strata_e2e::eventually(30, "it is found again", || match node.status(&id).state() {
            ContainerState::ContainerRunning => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(node.exec(&id, "echo still here"), "still here\n");
        node.stop_container(&id, 0).unwrap();
        let numbers: Vec<usize> = node.log(&id).iter().map(|line| line.text.parse().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
        node.remove_pod(&kept).unwrap();
    });
}

#[test]
fn a_silent_shim_goes_with_its_pod_also_where_nothing_runs() {
    test(|node| {
        node.pull("busybox");
        let idle = |name: &str| {
            let config = pod(node, name);
            let pod_id = node.run_pod(&config);
            let id = node.run_container(&pod_id, &config, &container(node, "c", "true"));
            node.wait_exit(&id);
            let shim = Pid::from_raw(node.shim(&pod_id));
            kill(shim, Signal::SIGSTOP).unwrap();
            (pod_id, shim)
        };
        let gone = |shim: Pid| {
            strata_e2e::eventually(10, "its shim goes too", || match process::runs(shim.as_raw()) {
                true => Err("it is there".to_owned()),
                false => Ok(()),
            });
        };
        let (stopped, removed) = (idle("stopped"), idle("removed"));
        node.crash();
        node.stop_pod(&stopped.0).unwrap();
        gone(stopped.1);
        node.remove_pod(&stopped.0).unwrap();
        node.remove_pod(&removed.0).unwrap();
        gone(removed.1);
        // It was connected when it fell silent.
        let (known, shim) = idle("known");
        node.remove_pod(&known).unwrap();
        gone(shim);
    });
}

#[test]
fn a_second_daemon_is_refused() {
    test(|node| {
        let stratad = format!("/proc/{}/exe", node.pid());
        let [config, root, state] =
            ["config.toml", "root", "other"].map(|n| node.dir(n).display().to_string());
        let args = ["--config", &config, "--root", &root, "--state", &state];
        let refused = node.run(&stratad, &args).fails();
        assert!(refused.contains(&root), "{refused}");
        node.version().unwrap();
    });
}
