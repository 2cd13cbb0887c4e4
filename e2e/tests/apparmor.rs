//! AppArmor profiles of containers, on kernels that run AppArmor.

use k8s_cri::v1::{self as cri, ContainerConfig, security_profile::ProfileType};
use std::process::{Command, Stdio};
use strata_e2e::node::{Node, container, pod, security, test};
use tonic::Code;

/// A sysctl that its old value is written to again: nothing but a security module refuses that to a container's root.
const WRITE: &str = "v=$(cat /proc/sys/vm/swappiness); echo $v > /proc/sys/vm/swappiness && echo written";
const PROFILE: &str = "cat /proc/self/attr/current";

/// Runs a test where the kernel has AppArmor and profiles can be loaded; says why not elsewhere.
fn confined(f: impl FnOnce(&Node)) {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if !enabled.starts_with('Y') {
        strata_e2e::skip("this kernel runs no AppArmor");
        return;
    }
    if Command::new("apparmor_parser").arg("--version").output().is_err() {
        strata_e2e::skip("no apparmor_parser");
        return;
    }
    test(f);
}

/// A profile that is loaded as long as this lives: everything but writing below /denied.
struct Loaded(String);

impl Loaded {
    fn new(what: &str) -> Self {
        let own = Self(format!("strata-e2e-{}-{what}", std::process::id()));
        own.parser("--replace");
        own
    }

    fn text(&self) -> String {
        format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  network,\n  signal,\n  ptrace,\n  \
             deny /denied/** w,\n}}\n",
            self.0
        )
    }

    fn parser(&self, action: &str) {
        use std::io::Write;
        let mut child = Command::new("apparmor_parser")
            .args([action, "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.text().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "apparmor_parser {action} {}", self.0);
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

fn profile(kind: ProfileType, name: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
}

#[allow(deprecated)]
fn old(config: &mut ContainerConfig, name: &str) {
    security(config).apparmor_profile = name.into();
}

fn said(node: &Node, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> String {
    node.script(name, &format!("{PROFILE}; {{ {WRITE}; }} 2>&1"), change).0
}

#[test]
fn containers_run_under_the_default_profile() {
    confined(|node| {
        let by_default = [
            said(node, "unsaid", |_| {}),
            said(node, "default", |c| security(c).apparmor = profile(ProfileType::RuntimeDefault, "")),
            said(node, "old", |c| old(c, "runtime/default")),
            said(node, "limited", |c| {
                security(c).no_new_privs = true;
                security(c).seccomp = profile(ProfileType::RuntimeDefault, "");
                security(c).capabilities =
                    Some(cri::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
            }),
        ];
        for said in by_default {
            assert!(said.starts_with("strata-default (enforce)\n"), "{said}");
            assert!(said.contains("Permission denied") && !said.contains("written"), "{said}");
        }
        let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
        assert!(loaded.lines().any(|line| line == "strata-default (enforce)"), "{loaded}");
        let free = [
            said(node, "free", |c| security(c).apparmor = profile(ProfileType::Unconfined, "")),
            said(node, "old-free", |c| old(c, "unconfined")),
        ];
        for said in free {
            assert_eq!(said, "unconfined\nwritten\n");
        }
    });
}

#[test]
fn the_default_profile_lets_a_container_be_one() {
    confined(|node| {
        let mounts = "mkdir /m; mount -t tmpfs none /m && echo mounted";
        let rights = |config: &mut ContainerConfig| {
            security(config).capabilities =
                Some(cri::Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() });
        };
        let (out, _) = node.script("mounts", &format!("{{ {mounts}; }} 2>&1"), rights);
        assert!(!out.contains("mounted"), "{out}");
        let (out, _) = node.script("free-mounts", mounts, |config| {
            rights(config);
            security(config).apparmor = profile(ProfileType::Unconfined, "");
        });
        assert_eq!(out, "mounted\n");

        // Its processes find, signal and look at each other, also those that were brought in; it is stopped by a signal.
        let config = pod(node, "life");
        let pod_id = node.run_pod(&config);
        let script = "trap 'exit 7' TERM; sleep 1000 & echo $! > /pid; while :; do sleep 0.1; done";
        let id = node.run_container(&pod_id, &config, &container(node, "life", script));
        strata_e2e::eventually(30, "it has begun", || {
            let (out, err, code) = node.try_exec(&id, "cat /pid", 30).map_err(|e| e.to_string())?;
            if code == 0 && !out.is_empty() { Ok(()) } else { Err(err) }
        });
        assert_eq!(node.exec(&id, PROFILE), "strata-default (enforce)\n");
        node.exec(&id, "cat /proc/1/environ > /dev/null; ls /proc/1/fd > /dev/null; kill $(cat /pid); echo x > /tmp.file; rm /tmp.file");
        let (_, err, code) = node.try_exec(&id, WRITE, 30).unwrap();
        assert!(code != 0 && err.contains("Permission denied"), "{code} {err}");
        assert_eq!(node.exec(&id, "echo 5 > /proc/sys/kernel/msgmni; cat /proc/sys/kernel/msgmni"), "5\n");
        let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let info = node.cri(async |mut c| c.container_status(request).await).unwrap().info["info"].clone();
        assert!(info.contains("\"apparmorProfile\":\"strata-default\""), "{info}");
        let shown = node.strata(&["inspect", &id]).ok().json();
        assert_eq!(shown[0]["AppArmorProfile"], "strata-default");
        // A daemon that was started since then, and an exec with more rights, change nothing of it.
        node.crash();
        assert_eq!(node.exec(&id, PROFILE), "strata-default (enforce)\n");
        let privileged = node.strata(&["exec", "--privileged", &id, "sh", "-c", PROFILE]).ok();
        assert_eq!(privileged.stdout, "strata-default (enforce)\n");
        node.stop_container(&id, 30).unwrap();
        assert_eq!(node.status(&id).exit_code, 7);
    });
}

#[test]
fn a_profile_of_the_nodes_is_enforced_and_one_that_is_not_loaded_is_refused() {
    confined(|node| {
        let own = Loaded::new("own");
        let script = format!(
            "{PROFILE}; mkdir /denied /free; touch /free/x && echo free; touch /denied/x 2>&1; sleep 1000"
        );
        node.pull("busybox");
        let config = pod(node, "own");
        let pod_id = node.run_pod(&config);
        let name = own.0.clone();
        type Change<'a> = Box<dyn Fn(&mut ContainerConfig) + 'a>;
        let ways: [(&str, Change<'_>); 2] = [
            ("new", Box::new(|c| security(c).apparmor = profile(ProfileType::Localhost, &name))),
            ("old", Box::new(|c| old(c, &format!("localhost/{name}")))),
        ];
        for (way, change) in ways {
            let mut wanted = container(node, way, &script);
            change(&mut wanted);
            let id = node.run_container(&pod_id, &config, &wanted);
            let said = strata_e2e::eventually(30, "it has said everything", || {
                let lines: Vec<_> = node.log(&id).into_iter().map(|line| line.text).collect();
                if lines.len() == 3 { Ok(lines) } else { Err(format!("{lines:?}")) }
            });
            assert_eq!(said[..2], [format!("{name} (enforce)"), "free".into()]);
            assert!(said[2].contains("Permission denied"), "{said:?}");
            let (out, err, _) = node.try_exec(&id, &format!("{PROFILE}; touch /denied/y"), 30).unwrap();
            assert_eq!(out, format!("{name} (enforce)\n"));
            assert!(err.contains("Permission denied"), "{err}");
            assert_eq!(node.strata(&["inspect", &id]).ok().json()[0]["AppArmorProfile"], name.as_str());
        }

        let before = node.traces();
        for bad in ["strata-e2e-not-there", &format!("{name} (enforce)"), "unconfined"] {
            let mut wanted = container(node, "bad", "true");
            security(&mut wanted).apparmor = profile(ProfileType::Localhost, bad);
            let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            assert!(refused.message().contains(&format!("{bad:?} is not loaded")), "{refused:?}");
        }
        let mut wanted = container(node, "bad", "true");
        old(&mut wanted, "localhost/strata-e2e-not-there");
        assert_eq!(node.try_create(&pod_id, &config, &wanted).unwrap_err().code(), Code::FailedPrecondition);
        node.assert_traces(&before);
        node.remove_pod(&pod_id).unwrap();
    });
}

#[test]
fn privileged_containers_are_unconfined_and_strata_run_is_not() {
    confined(|node| {
        let image = node.pull("busybox");
        let run = |options: &[&str]| {
            let mut args = vec!["run", "--rm"];
            args.extend(options);
            args.extend([image.as_str(), "sh", "-c", PROFILE]);
            node.strata(&args).ok().stdout
        };
        assert_eq!(run(&[]), "strata-default (enforce)\n");
        assert_eq!(run(&["--security-opt", "apparmor=unconfined"]), "unconfined\n");
        assert_eq!(run(&["--privileged"]), "unconfined\n");
        let refused =
            node.strata(&["run", "--rm", "--security-opt", "apparmor=absent", &image, "true"]).fails();
        assert!(refused.contains("\"absent\" is not loaded"), "{refused}");
    });
}
