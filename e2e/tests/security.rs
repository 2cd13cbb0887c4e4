//! What keeps a container's program in its place.

use k8s_cri::v1::{self as cri, security_profile::ProfileType};
use strata_e2e::node::{pod, security, test};

/// The capabilities that a container has unless it asks for others: bits of capability.h.
const DEFAULT_CAPS: [u32; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];

fn mask(bits: &[u32]) -> u64 {
    bits.iter().map(|bit| 1_u64 << bit).sum()
}

/// A value of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

fn capabilities(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

fn default_seccomp() -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    })
}

#[test]
fn the_default_of_an_ordinary_pod() {
    test(|node| {
        let (status, code) = node.script("plain", "cat /proc/self/status", |config| {
            security(config).seccomp = default_seccomp();
            security(config).no_new_privs = true;
        });
        assert_eq!(code, 0, "{status}");
        assert_eq!(field(&status, "Seccomp"), "2");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        // A node may lack some of them itself.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let expected = mask(&DEFAULT_CAPS) & capabilities(&own, "CapBnd");
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(capabilities(&status, set), expected, "{set}: {status}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(capabilities(&status, set), 0, "{set}: {status}");
        }
    });
}

#[test]
fn seccomp_refuses_and_unconfined_does_not() {
    test(|node| {
        // unshare(2) of a user namespace is what the default profile is best known for refusing.
        let script = "unshare -U true 2>&1; echo $?";
        let (out, _) = node.script("confined", script, |config| {
            security(config).seccomp = default_seccomp();
        });
        assert!(out.contains("not permitted") && !out.ends_with("\n0\n"), "{out}");
        let (status, _) = node.script("unconfined", "cat /proc/self/status", |config| {
            security(config).seccomp = Some(cri::SecurityProfile {
                profile_type: ProfileType::Unconfined.into(),
                localhost_ref: String::new(),
            });
        });
        assert_eq!(field(&status, "Seccomp"), "0");
        assert_eq!(field(&status, "NoNewPrivs"), "0");
    });
}

#[test]
fn a_profile_of_ones_own() {
    test(|node| {
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
        });
        std::fs::write(node.dir("seccomp/no-mkdir.json"), profile.to_string()).unwrap();
        let local = |name: &str| cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: name.into(),
        };
        let (out, _) = node.script("own", "mkdir /x 2>&1; touch /y && echo touched", |config| {
            security(config).seccomp = Some(local("no-mkdir.json"));
        });
        assert!(out.contains("No space left") && out.ends_with("touched\n"), "{out}");
        let config = pod(node, "absent");
        let pod_id = node.run_pod(&config);
        let mut wanted = strata_e2e::node::container(node, "absent", "true");
        security(&mut wanted).seccomp = Some(local("absent.json"));
        let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
        assert!(refused.message().contains("absent.json"), "{refused:?}");
    });
}

#[test]
fn capabilities_are_added_and_dropped() {
    test(|node| {
        let (status, _) = node.script("caps", "cat /proc/self/status", |config| {
            security(config).capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                ..Default::default()
            });
        });
        assert_eq!(capabilities(&status, "CapEff"), 1 << 12, "{status}");
        assert_eq!(capabilities(&status, "CapBnd"), 1 << 12, "{status}");
        let (status, _) = node.script("fewer", "cat /proc/self/status", |config| {
            let drop = vec!["CAP_CHOWN".into(), "net_raw".into()];
            security(config).capabilities =
                Some(cri::Capability { drop_capabilities: drop, ..Default::default() });
        });
        let lost = mask(&[0, 13]);
        assert_eq!(capabilities(&status, "CapBnd") & lost, 0, "{status}");
        assert_ne!(capabilities(&status, "CapBnd"), 0);
        // Another user than root has none of them in effect.
        let (status, _) = node.script("user", "cat /proc/self/status", |config| {
            security(config).run_as_user = Some(cri::Int64Value { value: 1234 });
        });
        assert_eq!(capabilities(&status, "CapEff"), 0, "{status}");
        assert_eq!(field(&status, "Uid"), "1234\t1234\t1234\t1234");
        assert_eq!(field(&status, "Gid"), "0\t0\t0\t0");
    });
}

#[test]
fn all_capabilities_are_those_of_the_node() {
    test(|node| {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = capabilities(&own, "CapBnd");
        let admin = mask(&[12]);
        assert_ne!(own & admin, 0, "the node itself lacks what is dropped below");
        for (name, drop, expected) in [("all", None, own), ("but-one", Some("NET_ADMIN"), own & !admin)] {
            let (status, _) = node.script(name, "cat /proc/self/status", |config| {
                security(config).capabilities = Some(cri::Capability {
                    add_capabilities: vec!["ALL".into()],
                    drop_capabilities: drop.map(String::from).into_iter().collect(),
                    ..Default::default()
                });
            });
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(capabilities(&status, set), expected, "{name}, {set}: {status}");
            }
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(capabilities(&status, set), 0, "{name}, {set}: {status}");
            }
        }
    });
}

#[test]
fn ambient_capabilities_are_for_users_that_are_not_root() {
    test(|node| {
        let script = "chown 1234 /etc/passwd; stat -c %u /etc/passwd; cat /proc/self/status";
        let run = |name: &str, wanted: cri::Capability| {
            node.script(name, script, |config| {
                security(config).run_as_user = Some(cri::Int64Value { value: 1234 });
                security(config).capabilities = Some(wanted);
            })
        };
        let ambient = cri::Capability {
            add_ambient_capabilities: vec!["CHOWN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        };
        let (out, _) = run("ambient", ambient);
        for set in ["CapAmb", "CapInh", "CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(capabilities(&out, set), mask(&[0]), "{set}: {out}");
        }
        assert!(out.starts_with("1234\n"), "{out}");
        // One that is only added is in reach of such a user, and not in effect.
        let added = cri::Capability { add_capabilities: vec!["CHOWN".into()], ..Default::default() };
        let (out, _) = run("added", added);
        for set in ["CapAmb", "CapInh", "CapPrm", "CapEff"] {
            assert_eq!(capabilities(&out, set), 0, "{set}: {out}");
        }
        assert_ne!(capabilities(&out, "CapBnd") & mask(&[0]), 0, "{out}");
        assert!(out.contains("not permitted") && out.lines().any(|line| line == "0"), "{out}");
    });
}

#[test]
fn users_by_name_and_their_groups() {
    test(|node| {
        let groups = |out: &str| -> Vec<u32> {
            let mut all: Vec<u32> = out.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            all.sort_unstable();
            all
        };
        let (out, code) = node.script("named", "id -u; id -g; echo $HOME", |config| {
            security(config).run_as_username = "app".into();
        });
        assert_eq!((out.as_str(), code), ("1000\n1000\n/home/app\n", 0));
        // The image's /etc/group puts app into extra (2000).
        let (out, _) = node.script("merged", "id -G", |config| {
            security(config).run_as_username = "app".into();
            security(config).supplemental_groups = vec![3000];
        });
        assert_eq!(groups(&out), [1000, 2000, 3000], "{out}");
        let (out, _) = node.script("strict", "id -G", |config| {
            security(config).run_as_username = "app".into();
            security(config).supplemental_groups = vec![3000];
            security(config).supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        });
        assert_eq!(groups(&out), [1000, 3000], "{out}");
        let config = pod(node, "nobody");
        let pod_id = node.run_pod(&config);
        let mut wanted = strata_e2e::node::container(node, "nobody", "true");
        security(&mut wanted).run_as_username = "not-there".into();
        let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
        assert!(refused.message().contains("not-there"), "{refused:?}");
    });
}

#[test]
fn masked_and_readonly_paths_and_roots() {
    test(|node| {
        let script = "cat /proc/keys | wc -c; ls /proc/scsi 2>/dev/null | wc -l; \
                      (echo 1 > /proc/sys/kernel/domainname) 2>/dev/null && echo WRITTEN; \
                      touch /rootfile 2>/dev/null && echo TOUCHED; echo fine > /dev/null && echo end";
        let (out, _) = node.script("masked", script, |config| {
            let context = security(config);
            context.masked_paths = vec!["/proc/keys".into(), "/proc/scsi".into(), "/proc/not/there".into()];
            context.readonly_paths = vec!["/proc/sys".into()];
            context.readonly_rootfs = true;
        });
        assert_eq!(out, "0\n0\nend\n");
        // Devices: the usual ones and no others.
        let (out, _) =
            node.script("devices", "ls /dev; (echo x > /dev/full) 2>/dev/null || echo 'is full'", |_| ());
        for device in
            ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin"]
        {
            assert!(out.split_whitespace().any(|name| name == device), "{device}: {out}");
        }
        assert!(!out.contains("vda") && !out.contains("kmsg") && out.ends_with("is full\n"), "{out}");
        let (out, _) =
            node.script("mknod", "mknod /disk b 1 0 && cat /disk > /dev/null || echo refused", |_| ());
        assert!(out.ends_with("refused\n"), "{out}");
    });
}

#[test]
fn processes_and_mounts_of_others_are_not_seen() {
    test(|node| {
        let (out, _) =
            node.script("alone", "ps -o pid,args; cat /proc/self/mountinfo; ls /proc/self/fd", |_| ());
        assert!(!out.contains("stratad") && !out.contains("strata-shim"), "{out}");
        let root = node.dir("root").display().to_string();
        for line in out.lines().filter(|line| line.contains(" - ") && !line.contains(" / / ")) {
            assert!(!line.contains(&root), "{line}");
        }
        let descriptors: Vec<&str> =
            out.lines().rev().take_while(|line| line.parse::<u32>().is_ok()).collect();
        assert_eq!(descriptors.len(), 4, "only 0 to 2 and the directory itself are open: {descriptors:?}");
    });
}

#[test]
fn a_privileged_container_may_do_more() {
    test(|node| {
        let mut config = pod(node, "privileged");
        config.linux.get_or_insert_default().security_context =
            Some(cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() });
        node.pull("busybox");
        let pod_id = node.run_pod(&config);
        let script = "cat /proc/self/status; mount -t tmpfs none /mnt || mkdir /mnt && mount -t tmpfs none /mnt && echo MOUNTED";
        let mut wanted = strata_e2e::node::container(node, "privileged", script);
        security(&mut wanted).privileged = true;
        let id = node.run_container(&pod_id, &config, &wanted);
        node.wait_exit(&id);
        let out: String = node.log(&id).into_iter().map(|line| line.text + "\n").collect();
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(capabilities(&out, "CapEff"), capabilities(&own, "CapBnd"), "{out}");
        assert_eq!(field(&out, "Seccomp"), field(&own, "Seccomp"));
        assert!(out.contains("MOUNTED"), "{out}");
    });
}
