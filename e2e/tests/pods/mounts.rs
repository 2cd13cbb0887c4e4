//! Mounts of the host's: propagation, read-only with what lies below, tmpfs.

use super::{refused, sleeper};
use k8s_cri::v1::{self as cri, MountPropagation};
use nix::mount::{MntFlags, MsFlags};
use std::path::{Path, PathBuf};
use strata_e2e::node::{Node, security, test};
use tonic::Code;

/// A directory of the host that is a mount of its own, gone when this is.
struct HostMount(PathBuf);

impl HostMount {
    fn new(node: &Node, name: &str, propagation: MsFlags) -> Self {
        let dir = node.dir(name);
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let none: Option<&str> = None;
        nix::mount::mount(Some(&dir), &dir, none, MsFlags::MS_BIND, none).unwrap();
        let mounted = Self(dir);
        nix::mount::mount(none, &mounted.0, none, propagation, none).unwrap();
        mounted
    }

    fn tmpfs(&self, below: &str) {
        tmpfs(&self.0.join(below));
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

fn tmpfs(at: &Path) {
    nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    std::fs::write(at.join("flag"), "").unwrap();
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.join("sub"), MntFlags::MNT_DETACH);
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn mount(host: &HostMount, inside: &str, propagation: MountPropagation) -> cri::Mount {
    cri::Mount {
        host_path: host.path(),
        container_path: inside.into(),
        propagation: propagation.into(),
        ..Default::default()
    }
}

#[test]
fn mounts_of_the_host_are_seen_as_was_asked() {
    test(|node| {
        let shared = HostMount::new(node, "shared", MsFlags::MS_SHARED);
        let wanted = [
            mount(&shared, "/private", MountPropagation::PropagationPrivate),
            mount(&shared, "/slave", MountPropagation::PropagationHostToContainer),
        ];
        let (_, id) = sleeper(node, "seen", |_, config| config.mounts = wanted.to_vec());
        shared.tmpfs("sub");
        assert_eq!(node.exec(&id, "ls /private/sub; echo -; ls /slave/sub"), "-\nflag\n");
        assert_eq!(node.status(&id).mounts, wanted);
    });
}

/// Children before their parents, as nobody would write them and programs do.
#[test]
fn mounts_lie_on_top_of_each_other_in_whatever_order_they_were_listed() {
    test(|node| {
        let volume = |name: &str, inside: &str| {
            let dir = node.dir(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("flag"), format!("{name}\n")).unwrap();
            cri::Mount {
                host_path: dir.display().to_string(),
                container_path: inside.into(),
                ..Default::default()
            }
        };
        let mut wanted = vec![volume("sub", "/data/sub"), volume("data", "/data"), volume("etc", "/etc")];
        wanted.push(cri::Mount {
            host_path: "/dev".into(),
            container_path: "/dev".into(),
            ..Default::default()
        });
        let (_, id) = sleeper(node, "stacked", |_, config| config.mounts = wanted.clone());
        assert_eq!(node.exec(&id, "cat /data/flag /data/sub/flag /etc/flag"), "data\nsub\netc\n");
        // The pod's own files lie on a volume, too, and its memory on the node's devices.
        let told = node.exec(&id, "grep -c . /etc/hosts; cut -d ' ' -f 5 /proc/self/mountinfo");
        let lines: Vec<&str> = told.lines().collect();
        assert_ne!(lines[0], "0");
        for target in ["/etc/hosts", "/etc/resolv.conf", "/dev/shm"] {
            assert!(lines.contains(&target), "{target}: {told}");
        }
        assert_eq!(node.status(&id).mounts, wanted);
    });
}

#[test]
fn mounts_of_a_container_are_seen_by_the_host_if_it_asks() {
    test(|node| {
        let shared = HostMount::new(node, "shared", MsFlags::MS_SHARED);
        let private = HostMount::new(node, "private", MsFlags::MS_PRIVATE);
        let (pod_id, id) = sleeper(node, "both", |pod, config| {
            pod.linux.get_or_insert_default().security_context =
                Some(cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() });
            security(config).privileged = true;
            config.mounts = vec![mount(&shared, "/both", MountPropagation::PropagationBidirectional)];
        });
        node.exec(&id, "mount -t tmpfs none /both/sub && touch /both/sub/inside");
        assert!(shared.0.join("sub/inside").exists());
        // What a source does not propagate, nobody can be promised.
        for kind in [MountPropagation::PropagationBidirectional, MountPropagation::PropagationHostToContainer]
        {
            let (code, message) =
                refused(node, &pod_id, "none", |c| c.mounts = vec![mount(&private, "/x", kind)]);
            assert!(code == Code::FailedPrecondition && message.contains("shared"), "{code:?} {message}");
        }
        node.exec(&id, "umount /both/sub");
        assert!(!shared.0.join("sub/inside").exists());
    });
}

#[test]
fn read_only_reaches_what_lies_below_only_if_asked() {
    test(|node| {
        let host = HostMount::new(node, "deep", MsFlags::MS_PRIVATE);
        host.tmpfs("sub");
        let plain =
            cri::Mount { readonly: true, ..mount(&host, "/plain", MountPropagation::PropagationPrivate) };
        let deep = cri::Mount { recursive_read_only: true, container_path: "/deep".into(), ..plain.clone() };
        let (pod_id, id) =
            sleeper(node, "deep", |_, config| config.mounts = vec![plain.clone(), deep.clone()]);
        let script = "for f in /plain/x /plain/sub/x /deep/x /deep/sub/y; do touch $f 2>/dev/null && echo $f; done; true";
        assert_eq!(node.exec(&id, script), "/plain/sub/x\n");
        for bad in [
            cri::Mount { readonly: false, ..deep.clone() },
            cri::Mount { propagation: MountPropagation::PropagationHostToContainer.into(), ..deep.clone() },
            cri::Mount { propagation: MountPropagation::PropagationBidirectional.into(), ..deep.clone() },
        ] {
            let (code, message) = refused(node, &pod_id, "bad", |config| config.mounts = vec![bad]);
            assert!(code == Code::InvalidArgument && message.contains("recursive_read_only"), "{message}");
        }
    });
}

#[test]
fn devices_of_the_host_are_given_with_their_permissions() {
    test(|node| {
        let device = |host: &str, inside: &str, permissions: &str| cri::Device {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: permissions.into(),
        };
        let kmsg = Path::new("/dev/kmsg").exists();
        let (pod_id, id) = sleeper(node, "devices", |_, config| {
            config.devices = vec![device("/dev/zero", "/dev/mine", "r")];
            if kmsg {
                config.devices.push(device("/dev/kmsg", "/dev/log-write-only", "w"));
            }
        });
        assert_eq!(node.exec(&id, "head -c 3 /dev/mine | wc -c"), "3\n");
        if kmsg {
            let (_, err, code) = node.try_exec(&id, "head -c 1 < /dev/log-write-only", 10).unwrap();
            assert!(code != 0 && err.contains("not permitted"), "{err}");
        }
        let (code, message) =
            refused(node, &pod_id, "bad", |c| c.devices = vec![device("/dev/no-such", "/dev/x", "rwm")]);
        assert!(code == Code::InvalidArgument && message.contains("/dev/no-such"), "{message}");
    });
}
