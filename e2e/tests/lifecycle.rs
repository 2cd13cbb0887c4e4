//! What a container's program sees of its start and its end.

use k8s_cri::v1::{self as cri, ContainerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use strata_e2e::node::{Node, cgroups, container, leaks, pod, test};
use tonic::Code;

#[test]
fn ends_are_told_as_they_were() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "ends");
        let pod_id = node.run_pod(&config);
        for (name, script, code, reason) in [
            ("zero", "true", 0, "Completed"),
            ("three", "exit 3", 3, "Error"),
            ("killed", "kill -9 $$", 137, "Error"),
            ("term", "kill -TERM $$; sleep 1", 143, "Error"),
        ] {
            // Signals that a PID namespace's init sends itself are ignored: the script must not be process 1.
            let script = format!("sh -c '{script}'; exit $?");
            let id = node.run_container(&pod_id, &config, &container(node, name, &script));
            let status = node.wait_exit(&id);
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}: {status:?}");
            assert!(status.started_at >= status.created_at && status.finished_at >= status.started_at);
        }
        // Process 1 itself, killed from outside, is not told as an ordinary end.
        let id = node.run_container(&pod_id, &config, &container(node, "init", "exec sleep 1000"));
        node.stop_container(&id, 1).unwrap();
        let status = node.status(&id);
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137), "{status:?}");
    });
}

/// The kubelet asks for an image by its ID, and says beside it what the pod's author wrote.
#[test]
fn a_container_is_shown_with_the_image_as_it_was_written() {
    test(|node| {
        let image = node.pull("busybox");
        let config = pod(node, "written");
        let pod_id = node.run_pod(&config);
        let request = cri::ImageStatusRequest {
            image: Some(cri::ImageSpec { image: image.clone(), ..Default::default() }),
            verbose: false,
        };
        let status = node.images(async |mut c| c.image_status(request).await).unwrap();
        let image_id = status.image.map(|i| i.id).unwrap();
        let create = |name: &str, written: &str| {
            let mut asked = container(node, name, "exec sleep 1000");
            asked.image = Some(cri::ImageSpec {
                image: image_id.clone(),
                user_specified_image: written.into(),
                ..Default::default()
            });
            node.run_container(&pod_id, &config, &asked)
        };
        let (written, bare) = (create("written", &image), create("bare", ""));
        let shown = |id: &str| {
            let format = ["ps", "--no-trunc", "--format", "{{.Image}}", "--filter", &format!("id={id}")];
            node.strata(&format).ok().text().to_owned()
        };
        assert_eq!(shown(&written), image);
        assert_eq!(shown(&bare), image_id);
        let inspected = node.strata(&["inspect", &written]).ok().json();
        assert_eq!(
            (&inspected[0]["Config"]["Image"], &inspected[0]["Image"]),
            (&image.into(), &image_id.into())
        );
    });
}

/// What PodSandboxStatus and ListContainers tell of a pod's containers.
fn told(node: &Node, pod_id: &str) -> [Vec<(String, i32)>; 2] {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod_id.into(), verbose: false };
    let status = node.cri(async |mut c| c.pod_sandbox_status(request).await).unwrap();
    let request = cri::ListContainersRequest { filter: None };
    let list = node.cri(async |mut c| c.list_containers(request).await).unwrap();
    [
        status.containers_statuses.into_iter().map(|c| (c.id, c.state)).collect(),
        list.containers.into_iter().map(|c| (c.id, c.state)).collect(),
    ]
}

#[test]
fn a_container_is_told_of_from_the_answer_to_its_creation_until_it_has_gone() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "told");
        let pod_id = node.run_pod(&config);
        let shim = node.crictl(&["inspectp", &pod_id]).ok().json()["info"]["pid"].as_i64().unwrap();
        let shim = Pid::from_raw(i32::try_from(shim).unwrap());
        // It takes no orders for a while.
        kill(shim, Signal::SIGSTOP).unwrap();
        let id = std::thread::scope(|scope| {
            let creating = scope.spawn(|| node.create(&pod_id, &config, &container(node, "one", "true")));
            strata_e2e::eventually(10, "its directory is there", || {
                match leaks::names(&node.dir("root/containers")).len() {
                    1 => Ok(()),
                    n => Err(n.to_string()),
                }
            });
            let half_made = leaks::names(&node.dir("root/containers")).remove(0);
            // Also when its record is written.
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert_eq!(told(node, &pod_id), [vec![], vec![]]);
            assert_eq!(node.try_status(&half_made).unwrap_err().code(), Code::NotFound);
            kill(shim, Signal::SIGCONT).unwrap();
            creating.join().unwrap()
        });
        let one = vec![(id.clone(), ContainerState::ContainerCreated.into())];
        assert_eq!(told(node, &pod_id), [one.clone(), one]);
        // While it is being removed it is one that has ended, as with other runtimes.
        kill(shim, Signal::SIGSTOP).unwrap();
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| node.remove_container(&id).unwrap());
            let one = vec![(id.clone(), ContainerState::ContainerExited.into())];
            strata_e2e::eventually(10, "it is being removed", || match told(node, &pod_id) {
                told if told == [one.clone(), one.clone()] => Ok(()),
                told => Err(format!("{told:?}")),
            });
            kill(shim, Signal::SIGCONT).unwrap();
            removing.join().unwrap();
        });
        assert_eq!(told(node, &pod_id), [vec![], vec![]]);
    });
}

#[test]
fn the_stop_signal_and_its_time_limit() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "stop");
        let pod_id = node.run_pod(&config);
        let polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let id = node.run_container(&pod_id, &config, &container(node, "polite", polite));
        let ready = || match node.log(&id).first() {
            Some(line) if line.text == "ready" => Ok(()),
            other => Err(format!("{other:?}")),
        };
        strata_e2e::eventually(10, "the trap is set", ready);
        node.stop_container(&id, 20).unwrap();
        assert_eq!(node.status(&id).exit_code, 5);
        assert_eq!(node.log(&id).last().unwrap().text, "bye");
        let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
        let id = node.run_container(&pod_id, &config, &container(node, "deaf", deaf));
        node.stop_container(&id, 1).unwrap();
        assert_eq!(node.status(&id).exit_code, 137);
    });
}

#[test]
fn stopping_a_pod_ends_every_process_of_it() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "tree");
        let pod_id = node.run_pod(&config);
        let script = "setsid sleep 12345 & (setsid sleep 12346 &) ; exec sleep 12347";
        let id = node.run_container(&pod_id, &config, &container(node, "tree", script));
        node.exec(&id, "setsid sleep 12348 >/dev/null 2>&1 &");
        let processes = || cgroups::processes(&format!("{}/pods", node.cgroup()));
        strata_e2e::eventually(20, "all of them run", || match processes().len() {
            4.. => Ok(()),
            n => Err(n.to_string()),
        });
        node.stop_pod(&pod_id).unwrap();
        let left = processes();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(node.status(&id).state(), ContainerState::ContainerExited);
    });
}

#[test]
fn exec_sync() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "exec");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let (out, err, code) = node.try_exec(&id, "echo out; echo err >&2; exit 42", 10).unwrap();
        assert_eq!((out.as_str(), err.as_str(), code), ("out\n", "err\n", 42));
        assert_eq!(node.exec(&id, "head -c 200000 /dev/zero | tr '\\0' x").len(), 200_000);
        // A program that is not there is an error or a shell's 126 or 127, but nothing hangs.
        let absent =
            cri::ExecSyncRequest { container_id: id.clone(), cmd: vec!["/absent".into()], timeout: 10 };
        match node.cri(async |mut c| c.exec_sync(absent).await) {
            Err(e) => assert!(e.message().contains("/absent"), "{e:?}"),
            Ok(answer) => assert!(matches!(answer.exit_code, 126 | 127), "{answer:?}"),
        }
        // What stays in the background does not hold the answer up.
        assert_eq!(node.exec(&id, "sleep 30 & echo started"), "started\n");
        // The time limit ends the whole tree.
        let slow = node.try_exec(&id, "setsid sleep 7777 & sleep 7778; echo never", 1).unwrap_err();
        assert_eq!(slow.code(), Code::DeadlineExceeded, "{slow:?}");
        let left = || match node.exec(&id, "ps -o args | grep 'sleep 777' | grep -v grep || true") {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        };
        strata_e2e::eventually(20, "the timed-out tree is gone", left);
        let empty = cri::ExecSyncRequest { container_id: id.clone(), cmd: vec![], timeout: 1 };
        let refused = node.cri(async |mut c| c.exec_sync(empty).await).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        node.stop_container(&id, 0).unwrap();
        let refused = node.try_exec(&id, "true", 5).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
}

#[test]
fn logs_keep_streams_and_long_lines() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "logs");
        let pod_id = node.run_pod(&config);
        let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo err >&2; printf 'no newline'";
        let id = node.run_container(&pod_id, &config, &container(node, "c", script));
        node.wait_exit(&id);
        let lines = node.log(&id);
        let of = |stream: &str| -> Vec<String> {
            lines.iter().filter(|l| l.stream == stream).map(|l| l.text.clone()).collect()
        };
        assert_eq!(of("stderr"), ["err"]);
        let out = of("stdout");
        assert_eq!((out.len(), out[0].len(), out[1].as_str()), (2, 40_000, "no newline"));
    });
}

#[test]
fn a_rotated_log_is_opened_anew() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "rotate");
        let pod_id = node.run_pod(&config);
        let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
        let id = node.run_container(&pod_id, &config, &container(node, "c", script));
        let path = std::path::PathBuf::from(node.status(&id).log_path);
        let text = |path| -> String { std::fs::read_to_string(path).unwrap() };
        let some = || {
            strata_e2e::eventually(20, "it writes", || match text(&path).lines().count() {
                6.. => Ok(()),
                n => Err(format!("{n} lines")),
            });
        };
        some();
        let old = path.with_extension("old");
        std::fs::rename(&path, &old).unwrap();
        let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
        node.cri(async |mut c| c.reopen_container_log(request).await).unwrap();
        some();
        node.stop_container(&id, 0).unwrap();
        let all = text(&old) + &text(&path);
        let numbers: Vec<usize> =
            all.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.len() > 10, "{all}");
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
    });
}

#[test]
fn what_the_image_and_the_pod_say_is_seen_inside() {
    test(|node| {
        let stacked = node.pull("stacked");
        let (out, code) = node.script(
            "inside",
            "pwd; echo $GREETING; echo $MINE; hostname; cat /opt/strata/readme; cat /data/x; touch /data/y || echo ro",
            |config| {
                config.image = Some(cri::ImageSpec { image: stacked, ..Default::default() });
                config.envs = vec![cri::KeyValue { key: "MINE".into(), value: "two words".into() }];
                let volume = node.dir("volume");
                std::fs::create_dir(&volume).unwrap();
                std::fs::write(volume.join("x"), "from the volume\n").unwrap();
                config.mounts = vec![cri::Mount {
                    host_path: volume.display().to_string(),
                    container_path: "/data".into(),
                    readonly: true,
                    ..Default::default()
                }];
            },
        );
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("touch:")).collect();
        let expected = [
            "/opt/strata",
            "hello from the image",
            "two words",
            "inside",
            "This layer lies below busybox.",
            "from the volume",
            "ro",
        ];
        assert_eq!((lines, code), (expected.to_vec(), 0));
    });
}
