//! What a container's program may do and see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod common;

use common::plans::{self, exec};
use common::{Client, Pod};
use strata_wire::plan::{Capabilities, ContainerPlan, Process, Seccomp};

/// Runs a container to its end and gives its log's contents, standard output's only.
fn output(pod: &Pod, client: &mut Client, plan: &ContainerPlan) -> Vec<String> {
    client.run(plan);
    client.exited(&plan.id);
    let log = pod.log(&plan.id);
    client.remove(&plan.id);
    log.iter().filter_map(|l| l.strip_prefix("stdout F ")).map(str::to_owned).collect()
}

fn pod() -> Option<(Pod, Client)> {
    let pod = Pod::new()?;
    let mut client = pod.client();
    client.subscribe();
    Some((pod, client))
}

/// `CapEff: …` and the like of /proc/self/status.
fn status(lines: &[String], key: &str) -> String {
    let line = lines.iter().find_map(|l| l.strip_prefix(&format!("{key}:")));
    line.unwrap_or_else(|| panic!("no {key} in {lines:?}")).trim().to_owned()
}

const STATUS: &str = "cat /proc/self/status; id; umask; ulimit -n";

#[test]
fn root_has_the_capabilities_of_the_plan() {
    let Some((pod, mut client)) = pod() else { return };
    let mut plan = pod.plan("c1", &["cat", "/proc/self/status"]);
    let set = plan.process.caps.effective;
    let lines = output(&pod, &mut client, &plan);
    for (key, expected) in [("CapInh", 0), ("CapPrm", set), ("CapEff", set), ("CapBnd", set), ("CapAmb", 0)] {
        assert_eq!(u64::from_str_radix(&status(&lines, key), 16).unwrap(), expected, "{key}");
    }
    assert_eq!((status(&lines, "NoNewPrivs").as_str(), status(&lines, "Seccomp").as_str()), ("0", "0"));
    // No signal is blocked or ignored.
    for key in ["SigBlk", "SigIgn"] {
        assert_eq!(status(&lines, key), "0".repeat(16), "{key}");
    }
    plan = pod.plan("c2", &["cat", "/proc/self/status"]);
    plan.process.caps = Capabilities::default();
    let lines = output(&pod, &mut client, &plan);
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&lines, key), "0".repeat(16), "{key}");
    }
}

#[test]
fn users_groups_limits_and_umask_are_those_of_the_plan() {
    let Some((pod, mut client)) = pod() else { return };
    let mut plan = pod.script("c1", STATUS);
    let ambient = 1 << 10; // CAP_NET_BIND_SERVICE
    plan.process = Process {
        uid: 1000,
        gid: 2000,
        groups: vec![3000, 4000],
        umask: Some(0o027),
        no_new_privs: true,
        rlimits: vec![("RLIMIT_NOFILE".into(), 77, 88)],
        caps: Capabilities {
            bounding: plans::DEFAULT_CAPS,
            effective: ambient,
            permitted: ambient,
            inheritable: ambient,
            ambient,
        },
        oom_score_adj: Some(500),
        ..plan.process
    };
    plan.process.args[2].push_str("; cat /proc/self/oom_score_adj; echo opened > /dev/stdout; pwd");
    plan.process.cwd = "/made/for/it".into();
    let lines = output(&pod, &mut client, &plan);
    assert_eq!(status(&lines, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(status(&lines, "Gid"), "2000\t2000\t2000\t2000");
    assert_eq!(status(&lines, "Groups"), "3000 4000");
    assert_eq!(status(&lines, "NoNewPrivs"), "1");
    assert_eq!(u64::from_str_radix(&status(&lines, "CapEff"), 16).unwrap(), ambient);
    let end: Vec<&str> = lines.iter().rev().take(6).rev().map(String::as_str).collect();
    assert_eq!(end, ["uid=1000 gid=2000 groups=3000,4000", "0027", "77", "500", "opened", "/made/for/it"]);
}

#[test]
fn execs_get_rights_of_their_own() {
    let Some((_pod, mut client)) = pod().map(|(pod, mut client)| {
        client.run(&pod.plan("c1", &["sleep", "1000"]));
        (pod, client)
    }) else {
        return;
    };
    let mut plan =
        exec("c1", "e1", &["sh", "-c", "id -u; grep NoNewPrivs /proc/self/status; echo x > /dev/stdout"]);
    plan.process.uid = 1234;
    plan.process.no_new_privs = true;
    plan.process.caps = Capabilities::default();
    let (out, err, code) = client.exec_output(&plan);
    assert_eq!((out.as_str(), err.as_str(), code), ("1234\nNoNewPrivs:\t1\nx\n", "", 0));
}

/// `ld [nr]; jeq mkdir|mkdirat → EPERM; ret ALLOW`
fn no_mkdir() -> Seccomp {
    let (mkdir, mkdirat): (u32, u32) = if cfg!(target_arch = "x86_64") { (83, 258) } else { (34, 34) };
    let instructions: [(u16, u8, u8, u32); 5] = [
        (0x20, 0, 0, 0),
        (0x15, 1, 0, mkdir),
        (0x15, 0, 1, mkdirat),
        (0x06, 0, 0, 0x0005_0000 | 1),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    let mut bytes = Vec::new();
    for (code, jt, jf, k) in instructions {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[jt, jf]);
        bytes.extend_from_slice(&k.to_ne_bytes());
    }
    Seccomp::new(&bytes, 0)
}

#[test]
fn a_seccomp_filter_holds_with_and_without_no_new_privs() {
    let Some((pod, mut client)) = pod() else { return };
    for (id, no_new_privs) in [("c1", false), ("c2", true)] {
        let mut plan =
            pod.script(id, "mkdir /tmp-x 2>/dev/null && echo made || echo refused; touch /f && echo ok");
        plan.process.seccomp = Some(no_mkdir());
        plan.process.no_new_privs = no_new_privs;
        plan.process.uid = if no_new_privs { 0 } else { 1000 };
        let lines = output(&pod, &mut client, &plan);
        assert_eq!(lines[0], "refused");
        assert_eq!(lines.get(1).is_some(), no_new_privs, "only root may write /");
    }
}

#[test]
fn the_root_can_be_read_only_and_paths_hidden() {
    let Some((pod, mut client)) = pod() else { return };
    let script = "touch /x 2>/dev/null || echo root is read-only; echo > /dev/shm/y && echo shm is not; \
        wc -c < /etc/from-image; ls /proc/acpi /proc/fs 2>/dev/null | grep -v : | grep . ; \
        echo 1 > /proc/sys/kernel/ostype 2>/dev/null || echo sys is read-only; \
        mkdir /proc/bus/x 2>/dev/null || echo bus is read-only";
    let mut plan = pod.script("c1", script);
    plan.rootfs.readonly = true;
    plan.masked_paths =
        ["/etc/from-image", "/proc/acpi", "/proc/fs", "/proc/kcore", "/no/such"].map(str::to_owned).into();
    plan.readonly_paths = ["/proc/bus", "/proc/sys", "/proc/none"].map(str::to_owned).into();
    let lines = output(&pod, &mut client, &plan);
    let expected = ["root is read-only", "shm is not", "0", "sys is read-only", "bus is read-only"];
    assert_eq!(lines, expected.map(str::to_owned));
}
