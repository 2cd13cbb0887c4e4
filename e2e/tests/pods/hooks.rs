//! Hooks of CDI devices: when they run and what they find, and what becomes of containers whose hooks fail or whose daemon dies.

use super::{refused, sleeper};
use k8s_cri::v1 as cri;
use k8s_cri::v1::ContainerState;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use strata_e2e::node::{Node, container, pod, test};
use strata_e2e::{eventually, node::process};
use tonic::Code;

/// Where hooks write what they see.
pub(super) fn report(node: &Node) -> PathBuf {
    let dir = node.dir("report");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub(super) fn said(node: &Node, name: &str) -> String {
    std::fs::read_to_string(report(node).join(name)).unwrap_or_default()
}

/// A script as a hook. `$R` is where it reports to.
pub(super) fn hook(node: &Node, point: &str, script: &str) -> Value {
    let own = format!("R={}", report(node).display());
    json!({ "hookName": point, "path": "/bin/sh", "args": ["sh", "-c", script],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", own] })
}

/// A device with these hooks, and nothing else.
pub(super) fn install(node: &Node, hooks: &[Value]) {
    let spec = json!({ "cdiVersion": "0.3.0", "kind": "vendor.example/hooked",
        "devices": [{ "name": "x", "containerEdits": { "env": ["HOOKED=1"] } }], "containerEdits": { "hooks": hooks } });
    std::fs::write(node.dir("cdi/hooked.json"), spec.to_string()).unwrap();
}

pub(super) fn ask(config: &mut cri::ContainerConfig) {
    config.cdi_devices = vec![cri::CdiDevice { name: "vendor.example/hooked=x".into() }];
}

pub(super) fn wait_for(node: &Node, name: &str) {
    let path = report(node).join(name);
    eventually(30, name, || if path.exists() { Ok(()) } else { Err("it is not there yet".to_owned()) });
}

/// What each hook leaves: the state that it was given, its namespaces, the bundle's configuration and what is in its root.
const LOOK: &str = "cat > $R/$P.state; echo $P >> $R/order; B=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/' $R/$P.state); \
    cp $B/config.json $R/$P.config; readlink /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/pid > $R/$P.ns; pwd > $R/$P.pwd; \
    ls /proc/self/fd | tr '\\n' ' ' > $R/$P.fds; \
    ROOT=$(grep -A1 '\"root\": {' $B/config.json | tail -n 1 | cut -d '\"' -f 4); ls $ROOT > $R/$P.ls 2>&1; stat -c %a $B/config.json > $R/$P.mode; ";

fn look(node: &Node, point: &str, more: &str) -> Value {
    hook(node, point, &format!("P={point}; {LOOK} {more}"))
}

fn parsed(node: &Node, name: &str) -> Value {
    serde_json::from_str(&said(node, name)).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", said(node, name)))
}

fn namespaces(pid: impl std::fmt::Display) -> String {
    let of = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    format!("{}\n{}\n{}\n", of("mnt"), of("net"), of("pid"))
}

#[test]
fn hooks_run_at_every_point_of_a_container_s_life() {
    test(|node| {
        let start = json!({ "hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c",
            "cat > /start.state; echo $0; readlink /proc/self/ns/pid > /start.ns; cat /made-by-hook > /start.made"] });
        let make = "echo made > $ROOT/made-by-hook; mkdir -p $ROOT/usr/lib $ROOT/etc; ln -s libv.so.1 $ROOT/usr/lib/libv.so; \
            echo /usr/lib > $ROOT/etc/ld.so.conf; ldconfig -r $ROOT";
        // In the file's order they would run in the wrong one.
        install(
            node,
            &[
                look(node, "poststop", ""),
                look(node, "poststart", ""),
                start,
                look(node, "createContainer", make),
                look(node, "createRuntime", ""),
                look(node, "prestart", ""),
            ],
        );
        let (pod_id, id) = sleeper(node, "hooked", |_, config| {
            ask(config);
            config.annotations.insert("example/key".into(), "value".into());
        });
        assert_eq!(said(node, "order"), "prestart\ncreateRuntime\ncreateContainer\npoststart\n");
        let bundle = node.dir("state/bundles").join(&id);
        let pid = node.exec(&id, "for n in mnt net pid; do readlink /proc/1/ns/$n; done");
        let init = parsed(node, "createRuntime.state")["pid"].as_i64().unwrap();
        assert_eq!(namespaces(init), pid, "the state tells the container's process");
        for (point, status, pid) in [
            ("prestart", "creating", init),
            ("createRuntime", "creating", init),
            ("createContainer", "creating", 1),
            ("poststart", "running", init),
        ] {
            let expected = json!({ "ociVersion": "1.3.0", "id": id, "status": status, "pid": pid, "bundle": bundle,
                "annotations": { "example/key": "value" } });
            let mut state = parsed(node, &format!("{point}.state"));
            // Annotations that name devices are told, too.
            state["annotations"].as_object_mut().unwrap().retain(|key, _| key == "example/key");
            assert_eq!(state, expected, "{point}");
            let here = format!("{}\n", bundle.display());
            assert_eq!(
                (said(node, &format!("{point}.pwd")), said(node, &format!("{point}.mode"))),
                (here, "600\n".into())
            );
            assert_eq!(said(node, &format!("{point}.fds")), "0 1 2 3 ", "{point}: it inherits descriptors");
            // The image's files, which are in a lower layer.
            let listed = said(node, &format!("{point}.ls"));
            assert!(
                ["bin", "etc", "proc"].iter().all(|name| listed.lines().any(|l| l == *name)),
                "{point}: {listed}"
            );
            let of_node = point != "createContainer";
            let own = namespaces(if of_node { i64::from(node.pid()) } else { init });
            let (found, own) =
                (said(node, &format!("{point}.ns")), own.lines().take(2).collect::<Vec<_>>().join("\n"));
            assert!(found.starts_with(&own), "{point}: {found} and not {own}");
        }
        let state: Value = serde_json::from_str(&node.exec(&id, "cat /start.state")).unwrap();
        assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("created"), Some(1)));
        let inside = node.exec(
            &id,
            "cat /start.made /start.ns; readlink /proc/1/ns/pid; readlink /usr/lib/libv.so; echo $HOOKED",
        );
        let inside: Vec<&str> = inside.lines().collect();
        assert_eq!(inside[0], "made");
        assert_eq!((inside[1], inside[3], inside[4]), (inside[2], "libv.so.1", "1"));
        the_configuration_is_true(node, &id, &bundle);
        node.strata(&["diff", &id]).ok().has(&["A /made-by-hook", "/usr/lib/libv.so", "/etc/ld.so.cache"]);
        node.stop_container(&id, 10).unwrap();
        wait_for(node, "poststop.ls");
        let state = parsed(node, "poststop.state");
        assert_eq!((state["status"].as_str(), state.get("pid")), (Some("stopped"), None));
        node.remove_container(&id).unwrap();
        assert!(!bundle.exists());
        node.remove_pod(&pod_id).unwrap();
        assert_eq!(said(node, "order").matches("poststop").count(), 1);
    });
}

#[track_caller]
fn the_configuration_is_true(node: &Node, id: &str, bundle: &Path) {
    let config = parsed(node, "createContainer.config");
    assert_eq!(config["root"], json!({ "path": bundle.join("rootfs"), "readonly": false }));
    assert_eq!((config["ociVersion"].as_str(), config["hostname"].as_str()), (Some("1.3.0"), Some("hooked")));
    assert_eq!(config["annotations"]["example/key"], "value");
    let process = &config["process"];
    assert_eq!((process["args"][0].as_str(), process["cwd"].as_str()), (Some("/bin/sh"), Some("/")));
    assert!(process["env"].as_array().unwrap().contains(&json!("HOOKED=1")), "{process}");
    let text = process["capabilities"].to_string();
    assert!(text.contains("CAP_CHOWN") && !text.contains("CAP_SYS_ADMIN"), "{text}");
    let proc = json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"] });
    assert!(config["mounts"].as_array().unwrap().contains(&proc), "{}", config["mounts"]);
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "mount" })), "{namespaces:?}");
    assert!(namespaces.iter().any(|n| n["type"] == "network" && n["path"].is_string()), "{namespaces:?}");
    assert!(config["linux"]["cgroupsPath"].as_str().unwrap().contains(id));
    let runtime = parsed(node, "createRuntime.config");
    let root = runtime["root"]["path"].as_str().unwrap();
    assert!(root.starts_with("/proc/") && root.ends_with("/rootfs"), "{root}");
}

#[test]
fn a_hook_that_fails_takes_the_creation_back() {
    test(|node| {
        node.pull("busybox");
        let pod_id = node.run_pod(&pod(node, "fails"));
        let before = node.traces();
        let slow = |point: &str| {
            let mut slow = hook(node, point, "sleep 1000 & echo $! > $R/slow; echo waits; wait");
            slow["timeout"] = 4.into();
            (point.to_owned(), slow, Code::DeadlineExceeded, "was killed; it wrote: waits")
        };
        let mut cases = vec![slow("createRuntime"), slow("createContainer")];
        for point in ["prestart", "createRuntime", "createContainer"] {
            let fails = hook(node, point, "echo the reason >&2; exit 7");
            cases.push((point.into(), fails, Code::Internal, "exit code 7; it wrote: the reason"));
            cases.push((point.into(), hook(node, point, "kill -9 $$"), Code::Internal, "killed by SIGKILL"));
        }
        let all = cases.len();
        for (point, bad, code, text) in cases {
            let never = hook(node, "createContainer", "echo > $R/never");
            install(node, &[bad, never, hook(node, "poststop", "echo >> $R/cleaned")]);
            let (found, message) = refused(node, &pod_id, "fails", ask);
            assert!(found == code && message.contains(text), "{point}: {found:?} {message}");
            assert!(message.contains(&point) && message.contains("/bin/sh"), "{message}");
            node.assert_traces(&before);
            if code == Code::DeadlineExceeded {
                let slow: i32 = said(node, "slow").trim().parse().unwrap();
                eventually(30, "what it has started ends", || match process::runs(slow) {
                    false => Ok(()),
                    true => Err(point.clone()),
                });
            }
        }
        assert!(!report(node).join("never").exists());
        assert_eq!(said(node, "cleaned").lines().count(), all);
        install(node, &[]);
        let mut config = container(node, "fails", "true");
        ask(&mut config);
        let id = node.run_container(&pod_id, &pod(node, "fails"), &config);
        assert_eq!(node.wait_exit(&id).exit_code, 0);
    });
}

#[test]
fn a_hook_that_fails_at_the_start_ends_the_container() {
    test(|node| {
        node.pull("busybox");
        let config = pod(node, "start");
        let pod_id = node.run_pod(&config);
        for (n, (point, text)) in [
            ("startContainer", "exit code 7; it wrote: reason"),
            ("poststart", "exit code 7; it wrote: reason"),
        ]
        .into_iter()
        .enumerate()
        {
            install(
                node,
                &[hook(node, point, "echo reason; exit 7"), hook(node, "poststop", "echo >> $R/stopped")],
            );
            let mut wanted = container(node, &format!("c{n}"), "sleep 1000");
            ask(&mut wanted);
            let id = node.create(&pod_id, &config, &wanted);
            let status = node.try_start(&id).unwrap_err();
            assert!(status.code() == Code::Internal && status.message().contains(text), "{status}");
            assert!(status.message().contains(point), "{status}");
            let status = node.wait_exit(&id);
            assert!(status.state() == ContainerState::ContainerExited && status.exit_code != 0, "{status:?}");
            eventually(30, "its poststop hook has run", || match said(node, "stopped").lines().count() {
                ran if ran == n + 1 => Ok(()),
                ran => Err(ran.to_string()),
            });
        }
        // One that fails after the end is warned of, and those after it run.
        install(node, &[hook(node, "poststop", "exit 1"), hook(node, "poststop", "touch $R/second")]);
        let mut wanted = container(node, "c9", "true");
        ask(&mut wanted);
        let id = node.run_container(&pod_id, &config, &wanted);
        node.wait_exit(&id);
        wait_for(node, "second");
        node.remove_container(&id).unwrap();
        let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        assert!(log.contains("the poststop hook /bin/sh has failed with exit code 1"), "{log}");
    });
}

/// What a daemon that was killed owes, the next one pays.
#[test]
fn poststop_hooks_outlive_the_daemon() {
    test(|node| {
        let waits = "echo $$ >> $R/runs; while [ ! -e $R/go ]; do sleep 0.05; done; echo >> $R/done";
        install(node, &[hook(node, "poststop", waits)]);
        let (pod_id, id) = sleeper(node, "owed", |_, config| ask(config));
        node.kill9();
        // It ends while nobody looks.
        strata_e2e::node::cgroups::kill(&format!("{}/pods", node.cgroup()));
        node.launch();
        wait_for(node, "runs");
        assert_eq!(node.wait_exit(&id).state(), ContainerState::ContainerExited);
        let first: i32 = said(node, "runs").trim().parse().unwrap();
        node.crash();
        eventually(30, "it is run once more", || match said(node, "runs").lines().count() {
            2 => Ok(()),
            n => Err(n.to_string()),
        });
        eventually(30, "it has ended with its daemon", || match process::runs(first) {
            false => Ok(()),
            true => Err("it runs on".to_owned()),
        });
        // It is waited for by whoever removes the container.
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| node.remove_container(&id));
            std::fs::write(report(node).join("go"), "").unwrap();
            removal.join().unwrap().unwrap();
        });
        assert_eq!(said(node, "done").lines().count(), 1);
        node.remove_pod(&pod_id).unwrap();
        // One that never ran, and whose daemon dies in the middle of its creation.
        std::fs::remove_file(report(node).join("done")).unwrap();
        let slow = hook(node, "createRuntime", "echo $$ > $R/creating; while :; do sleep 0.1; done");
        install(node, &[slow, hook(node, "poststop", waits)]);
        let config = pod(node, "cut");
        let pod_id = node.run_pod(&config);
        let before = node.settled_traces();
        let mut wanted = container(node, "cut", "true");
        ask(&mut wanted);
        std::thread::scope(|scope| {
            let creation = scope.spawn(|| node.try_create(&pod_id, &config, &wanted));
            wait_for(node, "creating");
            node.kill9();
            assert!(creation.join().unwrap().is_err());
        });
        node.launch();
        wait_for(node, "done");
        let daemon = |lines: std::collections::BTreeSet<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.contains("stratad")).collect()
        };
        let before = daemon(before);
        eventually(30, "nothing of it stays", || match daemon(node.traces()) {
            now if now == before => Ok(()),
            now => Err(format!("{now:#?} and not {before:#?}")),
        });
    });
}

/// There the hook is the pod's root: nothing of it may be owned by the node's, or the container could not use it.
#[test]
fn in_a_pod_with_users_of_its_own_hooks_are_its_root_s() {
    test(|node| {
        let script = "R=$R/users; id -u > $R/found; cat > $R/state; B=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/' $R/state); \
            stat -c '%u %a' $B/config.json >> $R/found; cat $B/rootfs/etc/passwd | head -n 1 | cut -c 1-5 >> $R/found; \
            touch $R/.. 2>/dev/null || echo refused >> $R/found; ln -s libv.so.1 $B/rootfs/usr-libv.so; echo > $B/rootfs/made";
        install(
            node,
            &[hook(node, "createContainer", script), hook(node, "createRuntime", "id -u > $R/of-node")],
        );
        let users = report(node).join("users");
        std::fs::create_dir(&users).unwrap();
        std::os::unix::fs::chown(&users, Some(300_000), Some(400_000)).unwrap();
        let map = |host_id| vec![cri::IdMapping { host_id, container_id: 0, length: 65_536 }];
        let options = cri::NamespaceOption {
            pid: 1,
            userns_options: Some(cri::UserNamespace { mode: 0, uids: map(300_000), gids: map(400_000) }),
            ..Default::default()
        };
        let (_, id) = sleeper(node, "users", |pod, config| {
            ask(config);
            let context = pod.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.namespace_options = Some(options.clone());
            strata_e2e::node::security(config).namespace_options = Some(options);
        });
        assert_eq!(said(node, "of-node"), "0\n");
        assert_eq!(said(node, "users/found"), "0\n0 600\nroot:\nrefused\n");
        assert_eq!(node.exec(&id, "stat -c %u:%g /made; readlink /usr-libv.so"), "0:0\nlibv.so.1\n");
        node.strata(&["diff", &id]).ok().has(&["A /made", "A /usr-libv.so"]);
    });
}
