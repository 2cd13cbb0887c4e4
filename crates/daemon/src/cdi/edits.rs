//! From a device's edits to nodes, rules, mounts and hooks as they are carried out.

use super::Changes;
use super::spec::{Edits, Hook, Mount, NetDevice, Node};
use crate::container::plan::devices::{node_of, rule};
use crate::container::plan::mounts::check_propagation;
use crate::container::plan::user::User;
use crate::error::{Error, Result};
use crate::net::devices as net;
use std::path::Path;
use strata_wire::hooks;
use strata_wire::plan::{self, MountAttrs, MountKind, Propagation};

/// A node's permission bits if neither the file nor the host says any.
const MODE: u32 = 0o666;

/// Adds edits to what was changed before. Of two nodes or mounts at one place the later one counts.
pub(super) fn apply(edits: &Edits, user: &User, changes: &mut Changes) -> Result<()> {
    refuse_unbuilt(edits)?;
    changes.env.extend(edits.env.iter().cloned());
    // 0 is ignored (SPEC.md, "additionalGids").
    changes.groups.extend(edits.additional_gids.iter().copied().filter(|gid| *gid != 0));
    for wanted in &edits.device_nodes {
        let node = node(wanted, user)?;
        let permissions = match wanted.permissions.as_str() {
            "" => "rwm",
            "none" => "",
            some => some,
        };
        if node.kind != 'p' && !permissions.is_empty() {
            let kind = if node.kind == 'b' { 'b' } else { 'c' };
            changes.injected.rules.push(rule(kind, Some(node.major), Some(node.minor), permissions));
        }
        changes.injected.nodes.retain(|n| n.path != node.path);
        changes.injected.nodes.push(node);
    }
    for wanted in &edits.mounts {
        let mount = mount(wanted)?;
        changes.injected.mounts.retain(|m| m.target != mount.target);
        changes.injected.mounts.push(mount);
    }
    changes.injected.hooks.extend(edits.hooks.iter().filter_map(hook));
    edits.net_devices.iter().try_for_each(|wanted| net_device(wanted, &mut changes.injected.net_devices))
}

/// Adds an interface. Said twice it is one; of two with one name only one could have it.
fn net_device(wanted: &NetDevice, all: &mut Vec<net::NetDevice>) -> Result<()> {
    let wanted =
        net::NetDevice { host: wanted.host_interface_name.clone(), name: wanted.inside().to_owned() };
    match all.iter().find(|other| other.host == wanted.host || other.name == wanted.name) {
        None => all.push(wanted),
        Some(same) if *same == wanted => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "network device {} as {}: {} is {} already",
                wanted.host, wanted.name, other.host, other.name
            )));
        }
    }
    Ok(())
}

/// A hook of a file that has been checked.
fn hook(wanted: &Hook) -> Option<hooks::Hook> {
    Some(hooks::Hook {
        point: wanted.point()?,
        path: wanted.path.clone(),
        args: wanted.args.clone(),
        env: wanted.env.clone(),
        timeout: wanted.timeout.unwrap_or(0),
    })
}

/// Leaving something out that a device needs would let its program fail later, in ways that are hard to explain.
fn refuse_unbuilt(edits: &Edits) -> Result<()> {
    if edits.intel_rdt.is_some() {
        return Err(Error::unimplemented(
            "it needs intelRdt, a class of caches and memory bandwidth below /sys/fs/resctrl: Strata sets none; take intelRdt out of \
             its CDI specification if it works without",
        ));
    }
    Ok(())
}

/// A node: what the file does not say is as on the host.
fn node(wanted: &Node, user: &User) -> Result<plan::Device> {
    let host = if wanted.host_path.is_empty() { &wanted.path } else { &wanted.host_path };
    let missing = |e: &dyn std::fmt::Display| {
        Error::invalid(format!("device node {host}: {e}; is the device there, and its driver loaded?"))
    };
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    let kind = match wanted.r#type.as_str() {
        "" => None,
        "u" => Some('c'),
        other => other.chars().next(),
    };
    let complete = kind == Some('p') || (kind.is_some() && wanted.major != 0);
    let found = match rustix::fs::stat(Path::new(host)) {
        Ok(stat) => node_of(&stat, Path::new(&wanted.path)),
        Err(_) if complete => None,
        Err(e) => return Err(missing(&e)),
    };
    let (uid, gid) = (wanted.uid.unwrap_or(user.uid), wanted.gid.unwrap_or(user.gid));
    let mode = wanted.file_mode.map(|m| m & 0o7777);
    match (kind, found) {
        (Some(kind), found) if complete => Ok(plan::Device {
            path: wanted.path.clone(),
            kind,
            major: number(wanted.major),
            minor: number(wanted.minor),
            mode: mode.or_else(|| found.map(|f| f.mode)).unwrap_or(MODE),
            uid,
            gid,
        }),
        (Some(kind), Some(found)) if kind != found.kind => {
            Err(missing(&format!("it is of type {}, not {kind}", found.kind)))
        }
        (_, Some(found)) => {
            let (major, minor) = match wanted.major {
                0 => (found.major, found.minor),
                major => (number(major), number(wanted.minor)),
            };
            let mode = mode.unwrap_or(found.mode);
            Ok(plan::Device { path: wanted.path.clone(), kind: found.kind, major, minor, mode, uid, gid })
        }
        (_, None) => Err(missing(&"it is not a device")),
    }
}

/// A bind mount of the host's, or a tmpfs.
fn mount(wanted: &Mount) -> Result<plan::Mount> {
    let bad = |why: String| {
        Error::invalid(format!("mount of {} on {}: {why}", wanted.host_path, wanted.container_path))
    };
    let tmpfs = match wanted.r#type.as_str() {
        "" | "bind" | "none" => false,
        "tmpfs" => true,
        other => return Err(bad(format!("type {other:?} is not known: bind and tmpfs are"))),
    };
    let mut attrs = MountAttrs::default();
    let (mut recursive, mut propagation, mut options) = (false, Propagation::Private, Vec::new());
    for option in &wanted.options {
        match option.as_str() {
            "ro" => attrs.readonly = true,
            "rro" => (attrs.readonly, attrs.recursive_readonly) = (true, true),
            "rw" => attrs.readonly = false,
            "nosuid" => attrs.nosuid = true,
            "nodev" => attrs.nodev = true,
            "noexec" => attrs.noexec = true,
            "strictatime" => attrs.strictatime = true,
            "rbind" => recursive = true,
            "private" | "rprivate" => propagation = Propagation::Private,
            "slave" | "rslave" => propagation = Propagation::Slave,
            "shared" | "rshared" => propagation = Propagation::Shared,
            "bind" | "suid" | "dev" | "exec" | "relatime" | "defaults" => {}
            other => match other.split_once('=') {
                Some((key @ ("size" | "mode" | "uid" | "gid" | "nr_inodes"), value)) if tmpfs => {
                    options.push((key.to_owned(), Some(value.to_owned())));
                }
                _ => return Err(bad(format!("option {other:?} is not known"))),
            },
        }
    }
    let kind = if tmpfs {
        MountKind::Fs { fstype: "tmpfs".into(), options }
    } else {
        let source = Path::new(&wanted.host_path);
        if !source.is_absolute() {
            return Err(bad("the host path must be absolute".into()));
        }
        std::fs::metadata(source).map_err(|e| bad(format!("{e}; is the device's driver installed?")))?;
        check_propagation(source, propagation)?;
        MountKind::Bind { source: wanted.host_path.clone(), recursive, propagation }
    };
    Ok(plan::Mount { target: wanted.container_path.clone(), kind, attrs })
}

#[cfg(test)]
mod tests {
    use super::super::spec::Spec;
    use super::*;
    use crate::error::Kind;

    fn applied(edits: &str) -> Result<Changes> {
        let text = format!(
            r#"{{"cdiVersion":"1.1.0","kind":"v.example/x","devices":[{{"name":"1","containerEdits":{edits}}}]}}"#
        );
        let spec = Spec::parse(&text, true).unwrap();
        let user = User { uid: 7, gid: 8, ..User::default() };
        let mut changes = Changes::default();
        apply(&spec.devices[0].container_edits, &user, &mut changes).map(|()| changes)
    }

    #[test]
    fn nodes_are_as_on_the_host_or_as_the_file_says() {
        let changes = applied(
            r#"{"deviceNodes": [
                {"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw"},
                {"path": "/dev/made", "type": "b", "major": 7, "minor": 300, "fileMode": 384, "uid": 1, "gid": 2},
                {"path": "/dev/pipe", "type": "p"},
                {"path": "/dev/zero", "permissions": "none"},
                {"path": "/dev/numbered", "hostPath": "/dev/null", "major": 1, "minor": 5}
            ], "additionalGids": [44, 0]}"#,
        )
        .unwrap();
        let injected = &changes.injected;
        let null = &injected.nodes[0];
        assert_eq!((null.path.as_str(), null.kind, null.major, null.minor), ("/dev/vendor0", 'c', 1, 3));
        assert_eq!((null.uid, null.gid), (7, 8));
        let made = &injected.nodes[1];
        assert_eq!(
            (made.kind, made.major, made.minor, made.mode, made.uid, made.gid),
            ('b', 7, 300, 0o600, 1, 2)
        );
        assert_eq!(injected.nodes[2].kind, 'p');
        let rules: Vec<String> = injected.rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["c 1:3 rw", "b 7:300 rwm", "c 1:5 rwm"]);
        assert_eq!(changes.groups, [44]);
    }

    #[test]
    fn mounts_have_the_options_that_are_known() {
        let changes = applied(
            r#"{"mounts": [
                {"hostPath": "/etc", "containerPath": "/vendor", "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]},
                {"hostPath": "none", "containerPath": "/scratch", "type": "tmpfs", "options": ["size=1m", "noexec"]}
            ]}"#,
        )
        .unwrap();
        let [bind, tmpfs] = changes.injected.mounts.as_slice() else { panic!("{changes:?}") };
        assert!(matches!(&bind.kind, MountKind::Bind { source, recursive: true, .. } if source == "/etc"));
        assert!(bind.attrs.readonly && bind.attrs.nosuid && bind.attrs.nodev && !bind.attrs.noexec);
        assert!(
            matches!(&tmpfs.kind, MountKind::Fs { fstype, options } if fstype == "tmpfs" && options.len() == 1)
        );
    }

    #[test]
    fn hooks_are_kept_in_their_order() {
        let changes = applied(
            r#"{"hooks": [
                {"hookName": "poststop", "path": "/bin/clean", "timeout": 3},
                {"hookName": "createContainer", "path": "/bin/link", "args": ["link", "a::b"], "env": ["X=1"]}
            ]}"#,
        )
        .unwrap();
        let said: Vec<String> = changes.injected.hooks.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["poststop hook /bin/clean", "createContainer hook /bin/link"]);
        let [clean, link] = changes.injected.hooks.as_slice() else { panic!("{changes:?}") };
        assert_eq!((clean.timeout, clean.argv()), (3, ["/bin/clean".to_owned()].as_slice()));
        assert_eq!((link.timeout, link.env.as_slice()), (0, ["X=1".to_owned()].as_slice()));
    }

    #[test]
    fn interfaces_keep_their_names_unless_others_are_said() {
        let twice = r#"{"hostInterfaceName":"eth7","name":"net1"}"#;
        let edits = format!(r#"{{"netDevices":[{twice},{{"hostInterfaceName":"eth8"}},{twice}]}}"#);
        let changes = applied(&edits).unwrap();
        let said: Vec<_> =
            changes.injected.net_devices.iter().map(|d| (d.host.as_str(), d.name.as_str())).collect();
        assert_eq!(said, [("eth7", "net1"), ("eth8", "eth8")]);
    }

    #[test]
    fn what_is_missing_or_not_built_is_an_error_that_names_it() {
        for (edits, kind, names) in [
            (r#"{"deviceNodes":[{"path":"/dev/no-such"}]}"#, Kind::InvalidArgument, "/dev/no-such"),
            (r#"{"deviceNodes":[{"path":"/dev/null","type":"b"}]}"#, Kind::InvalidArgument, "type c"),
            (r#"{"deviceNodes":[{"path":"/etc/passwd"}]}"#, Kind::InvalidArgument, "not a device"),
            (
                r#"{"mounts":[{"hostPath":"/no/such","containerPath":"/x"}]}"#,
                Kind::InvalidArgument,
                "/no/such",
            ),
            (
                r#"{"mounts":[{"hostPath":"/etc","containerPath":"/x","options":["odd"]}]}"#,
                Kind::InvalidArgument,
                "odd",
            ),
            (
                r#"{"mounts":[{"hostPath":"x","containerPath":"/x","type":"nfs"}]}"#,
                Kind::InvalidArgument,
                "nfs",
            ),
            (r#"{"intelRdt":{"closID":"x"}}"#, Kind::Unimplemented, "/sys/fs/resctrl"),
            (
                r#"{"netDevices":[{"hostInterfaceName":"x","name":"y"},{"hostInterfaceName":"x","name":"z"}]}"#,
                Kind::InvalidArgument,
                "x is y already",
            ),
            (
                r#"{"netDevices":[{"hostInterfaceName":"x"},{"hostInterfaceName":"w","name":"x"}]}"#,
                Kind::InvalidArgument,
                "x is x already",
            ),
        ] {
            let error = applied(edits).unwrap_err();
            assert_eq!(error.kind(), kind, "{edits}: {error}");
            assert!(error.to_string().contains(names), "{edits}: {error}");
        }
    }
}
