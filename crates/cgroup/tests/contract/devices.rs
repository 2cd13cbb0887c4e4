//! Which devices the processes of a group may use.

use super::{Private, skip};
use std::process::Command;
use strata_cgroup::{DeviceRule, Group, Resources};

/// Whether a shell in the unified group can do something.
fn may(group: &Group, script: &str) -> bool {
    let procs = group.v2_dir().unwrap().join("cgroup.procs");
    let script = format!("echo 0 > {} && ({script}) >/dev/null 2>&1", procs.display());
    Command::new("sh").args(["-c", &script]).status().unwrap().success()
}

#[test]
fn a_device_filter_of_the_unified_hierarchy_holds() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    if group.v2_dir().is_none() {
        skip("no unified hierarchy");
        return;
    }
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.into() };
    let null = rule('c', Some(1), Some(3), "rwm");
    let zero = |access| rule('c', Some(1), Some(5), access);
    let (read, write) = ("head -c 1 /dev/zero", "echo x > /dev/zero");
    group.filter_devices(&[null.clone(), zero("r")]).unwrap();
    assert!(may(group, read) && !may(group, write) && !may(group, "head -c 1 /dev/urandom"));
    // A later filter takes the place of the earlier one.
    group.filter_devices(&[null.clone(), zero("rw")]).unwrap();
    assert!(may(group, read) && may(group, write));
    group.filter_devices(&[null, rule('b', None, None, "rwm"), rule('c', Some(1), None, "m")]).unwrap();
    assert!(!may(group, read));
    let node = format!("mknod {0} c 1 5 && rm {0}", "/tmp/strata-node-$$");
    assert!(may(group, &node) && !may(group, &node.replace("c 1 5", "c 5 1")));
    group.filter_devices(&[rule('a', None, None, "rwm")]).unwrap();
    assert!(may(group, read) && may(group, &node.replace("c 1 5", "c 5 1")));
}

#[test]
fn devices_are_denied_and_allowed_while_processes_run() {
    let Some(private) = Private::new() else { return };
    let device = |minor| DeviceRule { kind: 'c', major: Some(1), minor: Some(minor), access: "rw".into() };
    let allow = |minors: &[u32]| {
        let devices = Some(minors.iter().copied().map(device).collect());
        private.0.apply(&Resources { devices, ..Resources::default() }).unwrap();
    };
    let _child = private.spawn("exec sleep 100");
    let in_group = |script: &str| {
        let mut guard = private.spawn(&format!("{{ {script}; }} >/dev/null 2>&1"));
        guard.0.wait().unwrap().success()
    };
    allow(&[3]);
    assert!(!in_group("head -c 1 /dev/zero"));
    allow(&[3, 5]);
    assert!(in_group("head -c 1 /dev/zero"));
    allow(&[3]);
    assert!(!in_group("head -c 1 /dev/zero"));
}
