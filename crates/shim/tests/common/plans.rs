//! Plans as the daemon would prepare them.

use super::Pod;
use std::path::{Path, PathBuf};
use strata_wire::plan::{
    Capabilities, Device, Mount, MountAttrs, MountKind, Process, Propagation, Rootfs, Stdio,
};
use strata_wire::{ContainerPlan, ExecPlan};

/// Docker's default capabilities.
pub const DEFAULT_CAPS: u64 = 0xa804_25fb;

pub fn full_caps() -> Capabilities {
    let all = strata_sys::caps::bounding().unwrap();
    Capabilities { bounding: all, effective: all, permitted: all, inheritable: 0, ambient: 0 }
}

pub fn caps(set: u64) -> Capabilities {
    let set = set & strata_sys::caps::bounding().unwrap();
    Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
}

pub fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/bin".into(), "HOME=/".into()],
        cwd: "/".into(),
        caps: caps(DEFAULT_CAPS),
        ..Process::default()
    }
}

pub fn bind(source: &Path, target: &str) -> Mount {
    let kind = MountKind::Bind {
        source: source.to_str().unwrap().to_owned(),
        recursive: true,
        propagation: Propagation::Private,
    };
    Mount { target: target.into(), kind, attrs: MountAttrs::default() }
}

fn fs(target: &str, fstype: &str, options: &[(&str, &str)], attrs: MountAttrs) -> Mount {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect();
    Mount { target: target.into(), kind: MountKind::Fs { fstype: fstype.into(), options }, attrs }
}

fn usual_mounts() -> Vec<Mount> {
    let inert = MountAttrs { nosuid: true, nodev: true, noexec: true, ..MountAttrs::default() };
    let nosuid = MountAttrs { nosuid: true, strictatime: true, ..MountAttrs::default() };
    let readonly = MountAttrs { readonly: true, ..inert };
    let pts = MountAttrs { nosuid: true, noexec: true, ..MountAttrs::default() };
    vec![
        fs("/proc", "proc", &[], inert),
        fs("/dev", "tmpfs", &[("mode", "755"), ("size", "65536k")], nosuid),
        fs("/dev/pts", "devpts", &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")], pts),
        fs("/dev/shm", "tmpfs", &[("mode", "1777"), ("size", "65536k")], inert),
        fs("/dev/mqueue", "mqueue", &[], inert),
        fs("/sys", "sysfs", &[], readonly),
        Mount { target: "/sys/fs/cgroup".into(), kind: MountKind::Cgroup, attrs: readonly },
    ]
}

fn usual_devices() -> Vec<Device> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .map(|(name, major, minor)| Device {
            path: format!("/dev/{name}"),
            kind: 'c',
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .to_vec()
}

impl Pod {
    /// A container that runs a command, with a log.
    pub fn plan(&self, id: &str, args: &[&str]) -> ContainerPlan {
        let dir = self.top.join("containers").join(id);
        for name in ["upper", "work"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        ContainerPlan {
            id: id.into(),
            rootfs: Rootfs {
                lowers: vec![text(self.lower())],
                upper: text(dir.join("upper")),
                work: text(dir.join("work")),
                volatile: false,
                ..Rootfs::default()
            },
            mounts: usual_mounts(),
            devices: usual_devices(),
            cgroup_namespace: true,
            cgroup: self.group(id).name(),
            process: process(args),
            stdio: Stdio { log_path: Some(text(dir.join("log"))), ..Stdio::default() },
            ..ContainerPlan::default()
        }
    }

    /// A container that runs a shell script.
    pub fn script(&self, id: &str, script: &str) -> ContainerPlan {
        self.plan(id, &["sh", "-c", script])
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.top.join("containers").join(id).join("log")
    }

    /// The log's lines without their times, which are checked to be in order.
    pub fn log(&self, id: &str) -> Vec<String> {
        lines(&std::fs::read_to_string(self.log_path(id)).unwrap())
    }
}

/// `stdout F text` of each line of a log.
pub fn lines(log: &str) -> Vec<String> {
    let mut before = String::new();
    log.lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.len() == 30 && time.ends_with('Z') && time > "2020", "{line}");
            assert!(time >= before.as_str(), "time runs backwards: {line}");
            before = time.to_owned();
            rest.to_owned()
        })
        .collect()
}

pub fn exec(container: &str, id: &str, args: &[&str]) -> ExecPlan {
    ExecPlan {
        container_id: container.into(),
        exec_id: id.into(),
        process: process(args),
        ..ExecPlan::default()
    }
}
