//! SELinux labels, on a kernel that runs SELinux with a policy for containers: hack/vm.d/selinux has one for the guest. What
//! one pod keeps from another is looked at where it is enforced.

use k8s_cri::v1::{self as cri, ContainerConfig, PodSandboxConfig};
use std::path::{Path, PathBuf};
use strata_e2e::node::{Node, container, pod, security, test};
use tonic::Code;

/// Without the byte that ends it.
const LABEL: &str = "tr -d '\\000' < /proc/self/attr/current; echo";
/// Runs a test where SELinux is there and its policy says what containers are; says why not elsewhere.
fn labelled(all: bool, f: impl FnOnce(&Node)) {
    let loaded = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    if !Path::new("/sys/fs/selinux/enforce").exists() || !loaded.contains(':') {
        strata_e2e::skip("this kernel runs no SELinux");
        return;
    }
    if !enforcing() {
        strata_e2e::skip("SELinux is not enforced");
        return;
    }
    test(|node| {
        if all {
            node.reconfigure(|text| text.replace("[runtime]\n", "[runtime]\nselinux = true\n"));
        }
        node.pull("busybox");
        f(node);
    });
}

fn enforcing() -> bool {
    std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1")
}

fn options(user: &str, role: &str, kind: &str, level: &str) -> Option<cri::SeLinuxOption> {
    Some(cri::SeLinuxOption {
        user: user.into(),
        role: role.into(),
        r#type: kind.into(),
        level: level.into(),
    })
}

fn of_pod(config: &mut PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A pod and one container that sleeps.
fn sleeper(
    node: &Node,
    name: &str,
    change: impl FnOnce(&mut PodSandboxConfig, &mut ContainerConfig),
) -> [String; 2] {
    let mut config = pod(node, name);
    let mut wanted = container(node, name, "sleep 1000");
    change(&mut config, &mut wanted);
    let pod_id = node.run_pod(&config);
    let id = node.run_container(&pod_id, &config, &wanted);
    [pod_id, id]
}

/// A container's label, which that of every exec in it is.
fn label(node: &Node, id: &str) -> String {
    node.exec(id, LABEL).trim().to_owned()
}

fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_default()
}

/// What a container finds mounted by a label: where, and which.
fn mounts(node: &Node, id: &str) -> Vec<(String, String)> {
    let text = node.exec(id, "cat /proc/self/mountinfo");
    let of = |line: &str| {
        let (_, label) = line.split_once(",context=")?;
        let label = match label.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => label.split(',').next(),
        };
        Some((line.split(' ').nth(4)?.to_owned(), label?.to_owned()))
    };
    text.lines().filter_map(of).collect()
}

#[track_caller]
fn assert_mounts(node: &Node, id: &str, label: &str) {
    let mounts = mounts(node, id);
    for at in ["/", "/dev", "/dev/pts"] {
        assert!(mounts.contains(&(at.into(), label.into())), "{at}: {mounts:?}");
    }
}

fn on_host(path: &Path) -> String {
    let mut value = [0; 256];
    let n = rustix::fs::lgetxattr(path, "security.selinux", &mut value[..]).unwrap();
    String::from_utf8_lossy(&value[..n]).trim_end_matches('\0').to_owned()
}

fn volume(node: &Node, name: &str) -> PathBuf {
    let dir = node.dir(name);
    std::fs::create_dir_all(dir.join("below")).unwrap();
    std::fs::write(dir.join("below/file"), "secret\n").unwrap();
    std::os::unix::fs::symlink("file", dir.join("below/link")).unwrap();
    dir
}

fn mounted(config: &mut ContainerConfig, dir: &Path, relabel: bool) {
    config.mounts.push(cri::Mount {
        container_path: "/volume".into(),
        host_path: dir.display().to_string(),
        selinux_relabel: relabel,
        ..Default::default()
    });
}

#[test]
fn a_container_has_the_label_that_it_asks_for_and_others_have_none() {
    labelled(false, |node| {
        let asked = || options("system_u", "system_r", "svirt_lxc_net_t", "s0:c7,c9");
        let [_, id] = sleeper(node, "asked", |_, c| security(c).selinux_options = asked());
        let own = "system_u:system_r:svirt_lxc_net_t:s0:c7,c9";
        assert_eq!(label(node, &id), own);
        assert_eq!(node.exec(&id, "tr -d '\\000' < /proc/1/attr/current").trim(), own);
        // Its session keyring has a label by which it sees it.
        assert!(node.exec(&id, "cat /proc/keys").contains("_ses"));
        let files = "system_u:object_r:container_file_t:s0:c7,c9";
        assert_mounts(node, &id, files);
        let script = "set -e; echo a > /file; cat /file; echo b > /dev/shm/x; cat /dev/shm/x /etc/hosts /etc/resolv.conf > /dev/null; \
                      echo c > /dev/null; : > /dev/mqueue/q; ls /dev/mqueue; mkdir -p /d/e; rm -r /d";
        assert_eq!(node.exec(&id, script), "a\nq\n");
        let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let info = node.cri(async |mut c| c.container_status(request).await).unwrap().info["info"].clone();
        assert!(info.contains(&format!("\"process\":\"{own}\"")) && info.contains(files), "{info}");
        let shown = node.strata(&["inspect", &id]).ok().json();
        assert_eq!((&shown[0]["ProcessLabel"], &shown[0]["MountLabel"]), (&own.into(), &files.into()));
        node.crash();
        assert_eq!(label(node, &id), own);

        // Field by field: the pod's where the container says nothing, the policy's where neither does.
        let [_, id] = sleeper(node, "parts", |p, c| {
            of_pod(p).selinux_options = options("", "", "", "s0:c3,c4");
            security(c).selinux_options = options("", "", "svirt_lxc_net_t", "");
        });
        assert_eq!(label(node, &id), "system_u:system_r:svirt_lxc_net_t:s0:c3,c4");

        let [_, id] = sleeper(node, "nothing", |_, _| {});
        let node_own = std::fs::read_to_string("/proc/self/attr/current").unwrap();
        assert_eq!(label(node, &id), node_own.trim_end_matches('\0').trim());
        assert_eq!(mounts(node, &id), []);
    });
}

#[test]
fn pods_are_kept_from_each_others_files() {
    labelled(true, |node| {
        let dir = volume(node, "shared");
        let [pod_a, a] = sleeper(node, "a", |_, c| mounted(c, &dir, true));
        let own = label(node, &a);
        assert!(own.starts_with("system_u:system_r:container_t:s0:c") && own.contains(','), "{own}");
        let files = format!("system_u:object_r:container_file_t:{}", level(&own));
        for path in ["", "below", "below/file", "below/link"] {
            assert_eq!(on_host(&dir.join(path)), files, "{path:?}");
        }
        assert_eq!(node.exec(&a, "echo a >> /volume/below/link; cat /volume/below/file"), "secret\na\n");
        // Another container of the pod has the same rights, after a restart of stratad too.
        node.crash();
        let mut second = container(node, "second", "sleep 1000");
        mounted(&mut second, &dir, false);
        let second = node.run_container(&pod_a, &pod(node, "a"), &second);
        assert_eq!(label(node, &second), own);
        assert_eq!(
            node.exec(&second, "cat /volume/below/file; echo b > /volume/new; cat /etc/hosts > /dev/null"),
            "secret\na\n"
        );

        let [pod_b, b] = sleeper(node, "b", |_, c| mounted(c, &dir, false));
        assert!(level(&label(node, &b)) != level(&own));
        let denied = |id: &str, script: &str| {
            let (out, err, code) = node.try_exec(id, script, 30).unwrap();
            assert!(code != 0 && err.contains("Permission denied"), "{script}: {code} {out}{err}");
        };
        for script in ["cat /volume/below/file", "ls /volume", "echo x > /volume/y"] {
            denied(&b, script);
        }
        // What nobody has relabelled is the node's.
        let node_own = volume(node, "node");
        let [_, c] = sleeper(node, "c", |_, c| mounted(c, &node_own, false));
        denied(&c, "cat /volume/below/file");
        // Once the other one relabels it, it is its own.
        node.remove_pod(&pod_b).unwrap();
        let [_, b] = sleeper(node, "b", |_, c| mounted(c, &dir, true));
        assert_eq!(node.exec(&b, "cat /volume/below/file"), "secret\na\n");
        denied(&a, "cat /volume/below/file");
    });
}

#[test]
fn what_is_of_the_nodes_own_is_not_confined() {
    labelled(true, |node| {
        let pod_info = |id: &str| {
            let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
            node.cri(async |mut c| c.pod_sandbox_status(request).await).unwrap().info["info"].clone()
        };
        let [pod_id, id] = sleeper(node, "privileged", |p, c| {
            of_pod(p).privileged = true;
            security(c).privileged = true;
        });
        // By the policy's own rule for what is started from a container's files.
        assert_eq!(label(node, &id), "system_u:system_r:spc_t:s0");
        assert!(
            mounts(node, &id).iter().any(|(at, label)| at == "/" && label.contains(":container_file_t:s0:c"))
        );
        assert!(pod_info(&pod_id).contains("\"selinuxLevel\":\"s0:c"));
        let [_, id] = sleeper(node, "asked", |p, c| {
            of_pod(p).privileged = true;
            security(c).privileged = true;
            security(c).selinux_options = options("", "", "svirt_lxc_net_t", "s0");
        });
        assert_eq!(label(node, &id), "system_u:system_r:svirt_lxc_net_t:s0");
        let [_, id] = sleeper(node, "pids", |p, c| {
            let node =
                || Some(cri::NamespaceOption { pid: cri::NamespaceMode::Node.into(), ..Default::default() });
            of_pod(p).namespace_options = node();
            security(c).namespace_options = node();
        });
        assert_eq!(label(node, &id), "system_u:system_r:spc_t:s0");
        let [_, id] =
            sleeper(node, "super", |_, c| security(c).selinux_options = options("", "", "spc_t", ""));
        assert!(label(node, &id).starts_with("system_u:system_r:spc_t:s0:c"));
        let image = node.image("busybox");
        let ran = node.strata(&["run", "--rm", &image, "sh", "-c", LABEL]).ok().stdout;
        assert!(ran.starts_with("system_u:system_r:container_t:s0:c"), "{ran}");
        let free = ["run", "--rm", "--security-opt", "label=disable", &image, "sh", "-c", LABEL];
        assert_eq!(node.strata(&free).ok().stdout.trim(), "system_u:system_r:spc_t:s0");
        // `z` relabels for all containers, `Z` for one.
        let dir = volume(node, "volume");
        let read = |how: &str| {
            let mount = format!("{}:/volume{how}", dir.display());
            let args = ["run", "--rm", "-v", &mount, &image, "cat", "/volume/below/file"];
            let read = node.strata(&args);
            (read.stdout == "secret\n", on_host(&dir.join("below/file")))
        };
        assert!(!read("").0);
        let all = "system_u:object_r:container_file_t:s0";
        assert_eq!((read(":z"), read("")), ((true, all.into()), (true, all.into())));
        let (fine, own) = read(":Z");
        assert!(fine && own.starts_with(&format!("{all}:c")), "{own}");
        assert!(!read("").0);
    });
}

#[test]
fn a_pod_with_users_of_its_own_is_labelled_too() {
    labelled(true, |node| {
        let ids = cri::IdMapping { host_id: 300_000, container_id: 0, length: 65_536 };
        let users =
            cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: vec![ids], gids: vec![ids] };
        let namespaces = cri::NamespaceOption { userns_options: Some(users), ..Default::default() };
        let [_, id] = sleeper(node, "users", |p, c| {
            of_pod(p).namespace_options = Some(namespaces.clone());
            security(c).namespace_options = Some(namespaces);
        });
        let own = label(node, &id);
        assert!(own.starts_with("system_u:system_r:container_t:s0:c"), "{own}");
        let files = format!("system_u:object_r:container_file_t:{}", level(&own));
        assert_mounts(node, &id, &files);
        let script = "echo a > /file; cat /file; echo b > /dev/shm/x; cat /etc/hosts > /dev/null; echo c > /dev/null; id -u";
        assert_eq!(node.exec(&id, script), "a\n0\n");
    });
}

#[test]
fn labels_that_cannot_be_are_refused() {
    labelled(false, |node| {
        let config = pod(node, "bad");
        let pod_id = node.run_pod(&config);
        let before = node.settled_traces();
        let labels = [
            (options("system_u", "system_r", "no_such_t", "s0"), "no_such_t"),
            (options("nobody_u", "", "", ""), "nobody_u"),
            (options("", "", "", "s0,c4,c5"), "s0,c4,c5"),
            (options("", "", "", "s0:c5000"), "c5000"),
            (options("", "", "a:b", ""), "a:b"),
        ];
        for (label, named) in labels {
            let mut wanted = container(node, "bad", "true");
            security(&mut wanted).selinux_options = label.clone();
            let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            assert!(refused.message().contains(named), "{refused:?}");
            let mut config = pod(node, "bad-pod");
            of_pod(&mut config).selinux_options = label;
            assert_eq!(node.try_run_pod(&config).unwrap_err().code(), Code::InvalidArgument);
        }
        let mut wanted = container(node, "bad", "true");
        security(&mut wanted).selinux_options = options("", "", "", "s0:c1");
        mounted(&mut wanted, Path::new("/usr"), true);
        let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("/usr"), "{refused:?}");
        node.assert_traces(&before);
    });
}
