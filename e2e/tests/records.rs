//! Records that a disk has damaged, which must not keep the others from being served, or that a newer release has written.

use k8s_cri::v1::{ContainerState, PodSandboxConfig, PodSandboxState};
use serde_json::json;
use std::path::Path;
use strata_e2e::eventually;
use strata_e2e::node::{Node, cgroups, container, leaks, pod, process, test};
use tonic::Code;

/// A way for a record to say nothing.
type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 4] = [
    ("cut", |path| {
        let text = std::fs::read(path).unwrap();
        std::fs::write(path, &text[..text.len() / 2]).unwrap();
    }),
    ("empty", |path| std::fs::write(path, "").unwrap()),
    ("other", |path| std::fs::write(path, r#"{"version":1,"id":7}"#).unwrap()),
    ("directory", |path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    }),
];

/// A pod with a container that runs, and that container's process.
fn sleeper(node: &Node, config: &PodSandboxConfig) -> (String, String, String) {
    let pod_id = node.run_pod(config);
    let marker = format!("sleep 7{}", &pod_id[..4].bytes().map(|b| b.to_string()).collect::<String>());
    let id = node.run_container(&pod_id, config, &container(node, "sleeper", &format!("exec {marker}")));
    (pod_id, id, marker)
}

fn runs(node: &Node, marker: &str) -> bool {
    let lines = cgroups::processes(node.cgroup()).into_iter().filter_map(process::command_line);
    lines.into_iter().any(|line| line.replace('\0', " ").contains(marker))
}

fn listed(node: &Node) -> Vec<String> {
    let pods = node.crictl(&["pods", "-q", "--no-trunc"]).ok();
    pods.text().lines().map(str::to_owned).collect()
}

/// Waits until nothing is left of pods but of these.
fn only(node: &Node, ids: &[&str]) {
    eventually(30, "what is left of lost pods is gone", || {
        for below in ["root/pods", "state/pods", "netns"] {
            let names = leaks::names(&node.dir(below));
            let strange: Vec<_> = names.iter().filter(|n| !ids.iter().any(|id| n.ends_with(id))).collect();
            if !strange.is_empty() {
                return Err(format!("{below}: {strange:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_pod_whose_record_says_nothing_is_ended_and_the_others_are_served() {
    test(|node| {
        node.pull("busybox");
        let good = pod(node, "good");
        let (good_id, good_container, good_marker) = sleeper(node, &good);
        let lost: Vec<_> = DAMAGES
            .iter()
            .map(|(name, damage)| {
                let mut config = pod(node, name);
                // The kubelet's cgroups are found too, though nothing but the record tells which.
                config.linux.get_or_insert_default().cgroup_parent =
                    format!("{}/kubepods/{name}", node.cgroup());
                let (id, container, marker) = sleeper(node, &config);
                (config, id, container, marker, damage)
            })
            .collect();
        node.kill9();
        for (_, id, _, marker, damage) in &lost {
            assert!(runs(node, marker));
            damage(&node.dir("root/pods").join(id).join("pod.json"));
        }
        node.launch();

        assert_eq!(listed(node), [good_id.as_str()]);
        only(node, &[&good_id]);
        let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        for (config, id, container, marker, _) in &lost {
            let name = &config.metadata.as_ref().unwrap().name;
            assert!(!runs(node, marker), "{name}");
            assert_eq!(node.try_status(container).unwrap_err().code(), Code::NotFound, "{name}");
            assert!(log.contains(&format!("root/pods/{id}/pod.json")), "{name}");
            assert!(
                node.dir("root/lost+found").join(format!("pods-{id}")).exists() || kept(node, id),
                "{name}"
            );
        }
        assert!(runs(node, &good_marker));
        assert_eq!(node.pod_status(&good_id).state(), PodSandboxState::SandboxReady);
        assert_eq!(node.exec(&good_container, "echo here"), "here\n");
        // The kubelet makes them again.
        let (config, ..) = &lost[0];
        let (again, ..) = sleeper(node, config);
        node.crash();
        assert_eq!(listed(node).len(), 2);
        node.remove_pod(&again).unwrap();
        node.remove_pod(&good_id).unwrap();
        cgroups::remove(&format!("{}/kubepods", node.cgroup()));
    });
}

/// Whether something of this ID lies in `lost+found`.
fn kept(node: &Node, id: &str) -> bool {
    leaks::names(&node.dir("root/lost+found")).iter().any(|name| name.contains(id))
}

#[test]
fn a_container_whose_record_says_nothing_is_ended_and_what_it_wrote_is_kept() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "mixed");
        let (pod_id, good, _) = sleeper(node, &config);
        let lost: Vec<_> = DAMAGES
            .iter()
            .enumerate()
            .map(|(n, (name, damage))| {
                let marker = format!("sleep 77700{n}");
                let script = format!("echo {name} > /wrote; exec {marker}");
                let id = node.run_container(&pod_id, &config, &container(node, name, &script));
                eventually(20, "it has written", || match node.exec(&id, "cat /wrote 2>&1 || true") {
                    wrote if wrote == format!("{name}\n") => Ok(()),
                    other => Err(other),
                });
                (id, marker, *damage, *name)
            })
            .collect();
        let ended = node.run_container(&pod_id, &config, &container(node, "ended", "exit 7"));
        assert_eq!(node.wait_exit(&ended).exit_code, 7);
        node.kill9();
        for (id, marker, damage, _) in &lost {
            assert!(runs(node, marker));
            damage(&node.dir("root/containers").join(id).join("container.json"));
        }
        std::fs::write(node.dir("root/containers").join(&ended).join("exit.json"), "{\"run\":").unwrap();
        node.launch();

        for (id, marker, _, name) in &lost {
            assert_eq!(node.try_status(id).unwrap_err().code(), Code::NotFound, "{name}");
            eventually(20, "the container is gone", || {
                let there = runs(node, marker) || node.dir("root/containers").join(id).exists();
                let cgroups = cgroups::below(node.cgroup());
                let cgroup = cgroups.iter().any(|dir| dir.ends_with(id));
                if there || cgroup { Err(format!("{name}: {there} {cgroup}")) } else { Ok(()) }
            });
            assert!(kept(node, id), "{name}");
        }
        // The shim still knows.
        let status = node.status(&ended);
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7), "{status:?}");
        assert_eq!(node.exec(&good, "echo here"), "here\n");
        let left = leaks::names(&node.dir("root/containers"));
        assert_eq!(left.len(), 2, "{left:?}");
        let wrote: Vec<_> = leaks::names(&node.dir("root/lost+found"))
            .into_iter()
            .filter_map(|n| {
                std::fs::read_to_string(node.dir("root/lost+found").join(n).join("upper/wrote")).ok()
            })
            .collect();
        assert_eq!(wrote.len(), DAMAGES.len(), "{wrote:?}");
    });
}

#[test]
fn what_a_container_of_a_lost_pod_wrote_is_kept() {
    test(|node| {
        let image = node.pull("busybox");
        let script = "echo precious > /data; exec sleep 778899";
        node.strata(&["run", "-d", "--name", "mine", &image, "sh", "-c", script]).ok();
        eventually(10, "it has written", || {
            if node.strata(&["diff", "mine"]).ok().text().contains("/data") {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
        node.kill9();
        let ids = leaks::names(&node.dir("root/pods"));
        assert_eq!(ids.len(), 1);
        std::fs::write(node.dir("root/pods").join(&ids[0]).join("pod.json"), "\0\0\0\0").unwrap();
        // The shim has gone with the machine.
        node.reboot();
        only(node, &[]);
        assert_eq!(node.strata(&["ps", "-aq"]).ok().text(), "");
        let lost = node.dir("root/lost+found");
        let kept: Vec<_> = leaks::names(&lost)
            .into_iter()
            .filter_map(|name| std::fs::read_to_string(lost.join(name).join("upper/data")).ok())
            .collect();
        assert_eq!(kept, ["precious\n"]);
        // The name is free.
        node.strata(&["run", "--rm", "--name", "mine", &image, "echo", "again"]).ok().has(&["again"]);
    });
}

#[test]
fn a_downgrade_ends_no_pod() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "newer");
        let (pod_id, id, marker) = sleeper(node, &config);
        let records = [
            node.dir("root/pods").join(&pod_id).join("pod.json"),
            node.dir("root/containers").join(&id).join("container.json"),
        ];
        for (path, of) in records.iter().zip([&pod_id, &id]) {
            node.kill9();
            let text = std::fs::read_to_string(path).unwrap();
            // A container's is inside of the store's.
            let changed = text.replacen("\"version\":1,", "\"version\":2,", 1);
            assert_ne!(text, changed);
            std::fs::write(path, changed).unwrap();
            assert!(!node.launch_refused(&json!({ "defaultAction": "SCMP_ACT_ALLOW" })));
            let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
            let said = log.lines().last().unwrap_or_default();
            assert!(said.contains(of.as_str()) && said.contains("written by a newer stratad"), "{said}");
            assert!(runs(node, &marker));
            std::fs::write(path, text).unwrap();
            node.launch();
        }
        assert_eq!(node.exec(&id, "echo here"), "here\n");
        assert_eq!(node.pod_status(&pod_id).state(), PodSandboxState::SandboxReady);
    });
}
