//! Device nodes, and which devices a container's cgroup allows.

use crate::cdi::Injected;
use crate::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use std::path::{Path, PathBuf};
use strata_api::cri;
use strata_cgroup::DeviceRule;
use strata_wire::plan::Device;

/// Nodes that every container has (runtime-spec, "Default Devices"): name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Directories and names of the host's /dev that a privileged container has its own of.
const OWN: [&str; 9] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"];

/// How deep a device directory is walked; /dev itself is three deep.
const DEPTH: usize = 8;

/// A container's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    /// To be made in /dev.
    pub(crate) nodes: Vec<Device>,
    /// To be allowed.
    pub(crate) rules: Vec<DeviceRule>,
}

impl Devices {
    /// Adds what CDI devices bring.
    #[must_use]
    pub(crate) fn with(mut self, injected: &Injected) -> Self {
        for node in &injected.nodes {
            add(&mut self.nodes, node.clone());
        }
        self.rules.extend(injected.rules.iter().cloned());
        self
    }
}

/// The default devices and those asked for; a privileged container has all of the host's, and may use any.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a device that the host does not have, permissions other than some
/// of `rwm`, or two devices under one path.
pub(crate) fn devices(asked: &[cri::Device], privileged: bool) -> Result<Devices> {
    let nodes = DEFAULT.iter().map(|(name, major, minor)| Device {
        path: format!("/dev/{name}"),
        kind: 'c',
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut all = Devices { nodes: nodes.collect(), rules: default_rules() };
    if privileged {
        let mut host = Vec::new();
        collect(Path::new("/dev"), Path::new("/dev"), DEPTH, &mut host);
        for node in host {
            add(&mut all.nodes, node);
        }
        all.rules = vec![rule('a', None, None, "rwm")];
    }
    let mut given: Vec<Device> = Vec::new();
    for device in asked {
        let host = PathBuf::from(&device.host_path);
        let inside =
            if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let permissions = if device.permissions.is_empty() { "rwm" } else { device.permissions.as_str() };
        if permissions.chars().any(|c| !"rwm".contains(c)) || !inside.starts_with('/') {
            return Err(Error::invalid(format!(
                "device {}: permissions {permissions:?} must be some of \"rwm\", and {inside:?} an absolute path",
                device.host_path
            )));
        }
        let found = lookup(&host, Path::new(inside))?;
        for node in found {
            let differs = |other: &&Device| {
                other.path == node.path
                    && (other.kind, other.major, other.minor) != (node.kind, node.major, node.minor)
            };
            if let Some(other) = given.iter().find(differs) {
                return Err(Error::invalid(format!(
                    "device {}: asked for twice, as {}:{} and as {}:{}; choose another path for one of them",
                    node.path, other.major, other.minor, node.major, node.minor
                )));
            }
            given.push(node.clone());
            if !privileged {
                all.rules.push(rule(node.kind, Some(node.major), Some(node.minor), permissions));
            }
            add(&mut all.nodes, node);
        }
    }
    Ok(all)
}

/// A later node takes an earlier one's place.
fn add(nodes: &mut Vec<Device>, node: Device) {
    nodes.retain(|n| n.path != node.path);
    nodes.push(node);
}

/// A rule that allows this.
pub(crate) fn rule(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { kind, major, minor, access: access.into() }
}

/// Nodes of every sort may be made but only these used: the default ones, terminals, and this container's own.
fn default_rules() -> Vec<DeviceRule> {
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    rules.extend(DEFAULT.iter().map(|(_, major, minor)| rule('c', Some(*major), Some(*minor), "rwm")));
    rules.extend([
        rule('c', Some(5), Some(1), "rwm"),
        rule('c', Some(5), Some(2), "rwm"),
        rule('c', Some(136), None, "rwm"),
    ]);
    rules
}

/// The device at a path of the host, or those in a directory.
fn lookup(host: &Path, inside: &Path) -> Result<Vec<Device>> {
    let missing = |e: &dyn std::fmt::Display| {
        Error::invalid(format!("device {}: {e}; it must be a device of this node", host.display()))
    };
    if !host.is_absolute() {
        return Err(missing(&"not an absolute path"));
    }
    let stat = rustix::fs::stat(host).map_err(|e| missing(&e))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let mut found = Vec::new();
        collect(host, inside, DEPTH, &mut found);
        return if found.is_empty() { Err(missing(&"no devices in this directory")) } else { Ok(found) };
    }
    match node_of(&stat, inside) {
        Some(device) => Ok(vec![device]),
        None => Err(missing(&"not a device")),
    }
}

/// The devices below a directory of the host, under the names that they get inside. What cannot be read is left out:
/// /dev changes while it is read.
fn collect(host: &Path, inside: &Path, depth: usize, found: &mut Vec<Device>) {
    let Ok(entries) = std::fs::read_dir(host) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(CWD, entry.path(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let inside = inside.join(&name);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if depth > 0 {
                collect(&entry.path(), &inside, depth - 1, found);
            }
        } else if let Some(device) = node_of(&stat, &inside) {
            found.push(device);
        }
    }
}

/// The node that a file of the host is, under another name.
pub(crate) fn node_of(stat: &Stat, inside: &Path) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => return None,
    };
    Some(Device {
        path: inside.to_str()?.to_owned(),
        kind,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, inside: &str, permissions: &str) -> cri::Device {
        cri::Device { host_path: host.into(), container_path: inside.into(), permissions: permissions.into() }
    }

    #[test]
    fn the_defaults_are_usable_and_nothing_else() {
        let d = devices(&[], false).unwrap();
        assert_eq!(d.nodes.len(), 6);
        let text: Vec<_> = d.rules.iter().map(ToString::to_string).collect();
        assert!(text.contains(&"c 1:3 rwm".to_owned()) && text.contains(&"b *:* m".to_owned()), "{text:?}");
        assert!(!text.iter().any(|r| r.starts_with('a')), "{text:?}");
    }

    #[test]
    fn a_device_is_found_by_its_host_path() {
        let d = devices(&[asked("/dev/null", "/dev/mine", "r")], false).unwrap();
        let node = d.nodes.last().unwrap();
        assert_eq!((node.path.as_str(), node.kind, node.major, node.minor), ("/dev/mine", 'c', 1, 3));
        assert_eq!(d.rules.last().unwrap().to_string(), "c 1:3 r");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for bad in [
            asked("/dev/does-not-exist", "/dev/x", "rwm"),
            asked("/etc/passwd", "/dev/x", "rwm"),
            asked("/dev/null", "/dev/x", "rx"),
            asked("/dev/null", "x", "r"),
            asked("dev/null", "/x", "r"),
        ] {
            let error = devices(std::slice::from_ref(&bad), false).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn a_privileged_container_has_them_all() {
        let d = devices(&[], true).unwrap();
        assert_eq!(d.rules.len(), 1);
        assert_eq!(d.rules[0].to_string(), "a *:* rwm");
        assert!(!d.nodes.iter().any(|n| n.path.starts_with("/dev/pts/")));
        let nulls = d.nodes.iter().filter(|n| n.path == "/dev/null").count();
        assert_eq!(nulls, 1);
    }
}
