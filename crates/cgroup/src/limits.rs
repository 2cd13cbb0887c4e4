//! Limits (the v1 controllers' documents; cgroup-v2.rst).

use crate::group::Group;
use crate::hierarchy::Mode;
use crate::{Error, Result, file};
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

/// cgroup v2's weight for v1 shares, as the kubelet converts it (KEP-2254).
fn weight_of(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
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
            let Some(dir) = self.v2_dir().filter(|_| !name.contains('/') && name.contains('.')) else {
                return Err(Error::NoController("unified", format!("the setting {name}")));
            };
            self.put(&dir.join(name), value)?;
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
        let Some(dir) = self.v2_dir() else {
            return Err(Error::NoController("unified", "cgroup v2".into()));
        };
        let put = |name: &str, value: String| self.put(&dir.join(name), &value);
        if let Some(shares) = limits.cpu_shares {
            put("cpu.weight", weight_of(shares).to_string())?;
        }
        if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            let quota = number_or_max(limits.cpu_quota.filter(|q| *q != 0).unwrap_or(-1));
            put("cpu.max", format!("{quota} {}", limits.cpu_period.filter(|p| *p != 0).unwrap_or(100_000)))?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            put("cpuset.cpus", cpus.clone())?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            put("cpuset.mems", mems.clone())?;
        }
        if let Some(bytes) = limits.memory_limit {
            put("memory.max", number_or_max(bytes))?;
        }
        if let (Some(both), Some(memory)) = (limits.memory_swap_limit, limits.memory_limit) {
            // v2 limits swap alone.
            let swap = if both < 0 || memory < 0 { -1 } else { (both - memory).max(0) };
            match put("memory.swap.max", number_or_max(swap)) {
                // A kernel that does not account swap.
                Err(Error::Value { errno: Errno::NOENT | Errno::OPNOTSUPP, .. }) => {}
                other => other?,
            }
        }
        if let Some(pids) = limits.pids_limit {
            put("pids.max", number_or_max(pids))?;
        }
        match &limits.devices {
            Some(rules) => self.filter_devices(rules),
            None => Ok(()),
        }
    }

    fn apply_hugepages(&self, limits: &Resources) -> Result<()> {
        for (size, bytes) in &limits.hugepages {
            let path = match (self.v1_dir("hugetlb"), self.v2_dir()) {
                (Some(dir), _) => dir.join(format!("hugetlb.{size}.limit_in_bytes")),
                (None, Some(dir)) => {
                    enable_hugetlb(&dir);
                    dir.join(format!("hugetlb.{size}.max"))
                }
                (None, None) => return Err(Error::NoController("hugetlb", format!("{size} pages"))),
            };
            self.put(&path, &bytes.to_string())?;
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
        assert_eq!(weight_of(2), 1);
        assert_eq!(weight_of(0), 1);
        assert_eq!(weight_of(1024), 39);
        assert_eq!(weight_of(262_144), 10_000);
    }

    #[test]
    fn device_rules_are_written_as_the_kernel_reads_them() {
        let rule = DeviceRule { kind: 'c', major: Some(5), minor: None, access: "rw".into() };
        assert_eq!(rule.to_string(), "c 5:* rw");
    }
}
