//! Limits (the v1 controllers' documents; cgroup-v2.rst).

use crate::group::{CONTROLLERS, Group};
use crate::hierarchy::Mode;
use crate::{CpuMax, Error, Result, file};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Limits of a group. Unset fields are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative CPU weight in v1's terms (1024 is one CPU's worth to the kubelet; 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// CPU time per period, in microseconds; -1: no limit.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, such as `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes; -1: no limit.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, in bytes; -1: no limit.
    pub memory_swap_limit: Option<i64>,
    /// Processes and threads; -1: no limit.
    pub pids_limit: Option<i64>,
    /// Huge pages: size as in the file's name (`2MB`), bytes.
    pub hugepages: Vec<(String, u64)>,
    /// cgroup v2 files by name, written as they are.
    pub unified: BTreeMap<String, String>,
    /// If set: every device is denied but these.
    pub devices: Option<Vec<DeviceRule>>,
}

/// An allowed device; `None` for any number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a` (all), `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Some of `rwm`.
    pub access: String,
}

impl std::fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// cgroup v2's weight for v1 shares, as runc 1.3.2, crun 1.23 and the kubelet 1.35 convert it: a curve on which the least, the
/// default (1024 shares, a weight of 100) and the most of both meet. Older ones made 39 of the default.
pub fn weight_of(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            // Exact: it is below 2^18.
            let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 1 and 10000.
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

fn number_or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

impl Group {
    /// Sets limits on a group that exists, whether or not processes run in it.
    ///
    /// # Errors
    /// [`Error::Value`] with what the kernel refused, [`Error::NoController`] if a limit needs one that is missing.
    pub fn apply(&self, limits: &Resources) -> Result<()> {
        if self.hierarchy().mode() == Mode::V2 {
            self.apply_v2(limits)?;
        } else {
            self.apply_v1(limits)?;
        }
        self.apply_hugepages(limits)?;
        for (name, value) in &limits.unified {
            if name.contains('/') || !name.contains('.') {
                return Err(Error::NoFile(self.name(), name.clone()));
            }
            self.put_v2(name, value)?;
        }
        Ok(())
    }

    fn put(&self, path: &Path, value: &str) -> Result<()> {
        file::write(path, value).map_err(|errno| Error::Value {
            group: self.name(),
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            value: value.to_owned(),
            errno,
        })
    }

    fn put_v1(&self, controller: &'static str, name: &str, value: &str) -> Result<()> {
        match self.v1_dir(controller) {
            Some(dir) => self.put(&dir.join(name), value),
            None => Err(Error::NoController(controller, format!("{name} = {value}"))),
        }
    }

    fn apply_v1(&self, limits: &Resources) -> Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.put_v1("cpu", "cpu.shares", &shares.clamp(2, 262_144).to_string())?;
        }
        self.apply_cpu_v1(limits)?;
        if let Some(cpus) = &limits.cpuset_cpus {
            self.put_v1("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.put_v1("cpuset", "cpuset.mems", mems)?;
        }
        self.apply_memory_v1(limits)?;
        if let Some(pids) = limits.pids_limit {
            self.put_v1("pids", "pids.max", &number_or_max(pids))?;
        }
        if let Some(rules) = &limits.devices {
            self.put_v1("devices", "devices.deny", "a")?;
            for rule in rules {
                self.put_v1("devices", "devices.allow", &rule.to_string())?;
            }
        }
        Ok(())
    }

    /// The kernel refuses a quota above the parent's share of the period at every moment, so the order matters when
    /// both change.
    fn apply_cpu_v1(&self, limits: &Resources) -> Result<()> {
        let period = || match limits.cpu_period {
            Some(period) => self.put_v1("cpu", "cpu.cfs_period_us", &period.to_string()),
            None => Ok(()),
        };
        let quota = || match limits.cpu_quota {
            Some(quota) => self.put_v1("cpu", "cpu.cfs_quota_us", &quota.to_string()),
            None => Ok(()),
        };
        if period().is_err() {
            quota()?;
            return period();
        }
        quota()
    }

    /// Memory may never be above memory and swap together: raising begins with the latter, lowering with the former.
    fn apply_memory_v1(&self, limits: &Resources) -> Result<()> {
        let memory = || match limits.memory_limit {
            Some(bytes) => self.put_v1("memory", "memory.limit_in_bytes", &bytes.max(-1).to_string()),
            None => Ok(()),
        };
        let swap = || match limits.memory_swap_limit {
            Some(bytes) => {
                match self.put_v1("memory", "memory.memsw.limit_in_bytes", &bytes.max(-1).to_string()) {
                    // A kernel that does not account swap.
                    Err(Error::Value { errno: Errno::NOENT | Errno::OPNOTSUPP, .. }) => Ok(()),
                    other => other,
                }
            }
            None => Ok(()),
        };
        if memory().is_err() {
            swap()?;
            return memory();
        }
        swap()
    }

    fn apply_v2(&self, limits: &Resources) -> Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.set_weight(weight_of(shares), limits.unified.get("cpu.idle").map(String::as_str))?;
        }
        if let Some(max) = CpuMax::of_numbers(limits) {
            self.put_v2("cpu.max", &max.to_string())?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            self.put_v2("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.put_v2("cpuset.mems", mems)?;
        }
        if let Some(bytes) = limits.memory_limit {
            self.put_v2("memory.max", &number_or_max(bytes))?;
        }
        if let Some(both) = limits.memory_swap_limit {
            self.set_swap(both, limits.memory_limit)?;
        }
        if let Some(pids) = limits.pids_limit {
            self.put_v2("pids.max", &number_or_max(pids))?;
        }
        match &limits.devices {
            Some(rules) => self.filter_devices(rules),
            None => Ok(()),
        }
    }

    /// A group that gets CPU time only when nobody else wants it has no weight: the kernel refuses one.
    fn set_weight(&self, weight: u64, idle: Option<&str>) -> Result<()> {
        let is_idle = match idle {
            Some("0") => {
                self.put_v2("cpu.idle", "0")?;
                false
            }
            Some(_) => true,
            None => match self.v2_dir() {
                Some(dir) => file::read_u64(&dir.join("cpu.idle"))? == Some(1),
                None => false,
            },
        };
        if is_idle { Ok(()) } else { self.put_v2("cpu.weight", &weight.to_string()) }
    }

    /// v2 limits swap alone: of memory and swap together, what memory leaves, which is said with it or was set before.
    fn set_swap(&self, both: i64, memory: Option<i64>) -> Result<()> {
        let Some(dir) = self.v2_dir() else { return Ok(()) };
        let memory = match memory {
            Some(memory) => memory,
            None => match file::read_u64(&dir.join("memory.max"))? {
                None | Some(u64::MAX) => -1,
                Some(set) => i64::try_from(set).unwrap_or(-1),
            },
        };
        let swap = if both < 0 || memory < 0 { -1 } else { (both - memory).max(0) };
        match self.put_v2("memory.swap.max", &number_or_max(swap)) {
            // A kernel that does not account swap.
            Err(Error::NoFile(..) | Error::Value { errno: Errno::OPNOTSUPP, .. }) => Ok(()),
            other => other,
        }
    }

    /// Writes to the unified group; a file that is not there tells that its controller is missing, or the kernel too old.
    fn put_v2(&self, name: &str, value: &str) -> Result<()> {
        let missing = || Error::NoController("unified", format!("{name} = {value}"));
        let Some(dir) = self.v2_dir() else { return Err(missing()) };
        match self.put(&dir.join(name), value) {
            Err(Error::Value { errno: Errno::NOENT, .. }) if self.exists() => {
                if self.hierarchy().mode() != Mode::V2 {
                    return Err(missing());
                }
                let given = file::read(&dir.join("cgroup.controllers"))?;
                let controller = CONTROLLERS.into_iter().find(|c| name.split('.').next() == Some(*c));
                Err(match controller.filter(|c| !given.split_whitespace().any(|g| g == *c)) {
                    Some(controller) => Error::NoController(controller, format!("{name} = {value}")),
                    None => Error::NoFile(self.name(), name.to_owned()),
                })
            }
            other => other,
        }
    }

    /// Reservations too, where the kernel counts them (Linux 5.7): a mapping beyond them fails, where without that limit its
    /// first use would end in SIGBUS.
    fn apply_hugepages(&self, limits: &Resources) -> Result<()> {
        for (size, bytes) in &limits.hugepages {
            let (dir, file) = match (self.v1_dir("hugetlb"), self.v2_dir()) {
                (Some(dir), _) => (dir, "limit_in_bytes"),
                (None, Some(dir)) => {
                    enable_hugetlb(&dir);
                    (dir, "max")
                }
                (None, None) => return Err(Error::NoController("hugetlb", format!("{size} pages"))),
            };
            self.put(&dir.join(format!("hugetlb.{size}.{file}")), &bytes.to_string())?;
            let reserved = dir.join(format!("hugetlb.{size}.rsvd.{file}"));
            if reserved.exists() {
                self.put(&reserved, &bytes.to_string())?;
            }
        }
        Ok(())
    }
}

/// On a hybrid node hugetlb is the unified hierarchy's; what cannot be enabled shows when the limit is written.
fn enable_hugetlb(dir: &Path) {
    let above: Vec<_> =
        dir.ancestors().skip(1).filter(|d| d.join("cgroup.subtree_control").exists()).collect();
    for parent in above.into_iter().rev() {
        let _ = file::write(&parent.join("cgroup.subtree_control"), "+hugetlb");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_the_kubelet_has_it() {
        let pairs = [
            (0, 1),
            (2, 1),
            (3, 2),
            (10, 4),
            (100, 17),
            (102, 17),
            (512, 59),
            (1024, 100),
            // As runc 1.4 tells it of itself (its issue 4896); 1.3.1 had 77.
            (2000, 170),
            (2048, 174),
            (10_000, 627),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, weight) in pairs {
            assert_eq!(weight_of(shares), weight, "{shares}");
        }
    }

    #[test]
    fn device_rules_are_written_as_the_kernel_reads_them() {
        let rule = DeviceRule { kind: 'c', major: Some(5), minor: None, access: "rw".into() };
        assert_eq!(rule.to_string(), "c 5:* rw");
    }
}
