//! Usage, limits and OOM counters.
//!
//! * `v1`, `v2`: where each number is, by hierarchy.
//! * `pressure`: pressure stall information.

mod pressure;
mod v1;
mod v2;

pub use pressure::{Pressure, Stalled};

use crate::group::{Group, child_dirs};
use crate::hierarchy::Mode;
use crate::{Result, file};
use std::path::{Path, PathBuf};

/// What a group uses, with all groups below it unless another scope is said. `None`: this node does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Of it in user mode.
    pub cpu_user_ns: Option<u64>,
    /// Of it in the kernel.
    pub cpu_system_ns: Option<u64>,
    /// What the CPU quota has held back.
    pub throttling: Option<Throttling>,
    /// Memory, page cache included, in bytes.
    pub memory_usage: Option<u64>,
    /// The most that `memory_usage` has ever been.
    pub memory_peak: Option<u64>,
    /// Memory without inactive page cache, in bytes: what the kubelet evicts by.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory, in bytes.
    pub memory_rss: Option<u64>,
    /// Page cache, in bytes.
    pub memory_cache: Option<u64>,
    /// Of files that are mapped, in bytes.
    pub memory_mapped_file: Option<u64>,
    /// Of the kernel for this group, in bytes.
    pub memory_kernel: Option<u64>,
    /// How often the limit was met.
    pub memory_limit_hits: Option<u64>,
    /// The memory limit, in bytes; `None`: no limit.
    pub memory_limit: Option<u64>,
    /// What is left to the group while memory is short, in bytes; `None`: nothing is said.
    pub memory_reservation: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Page faults that read from disk.
    pub major_page_faults: Option<u64>,
    /// Page faults of this group alone, and those of them that read from disk. v2 has no such numbers.
    pub own_faults: Option<(u64, u64)>,
    /// Swap, in bytes.
    pub swap_usage: Option<u64>,
    /// The limit for swap alone, in bytes; `None`: no limit.
    pub swap_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit for `pids`; `None`: no limit.
    pub pids_limit: Option<u64>,
    /// Transfers from and to block devices.
    pub io: Vec<DeviceIo>,
    /// Huge pages, by size.
    pub hugetlb: Vec<Hugetlb>,
    /// Waiting for CPU, in v2 only.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory, in v2 only.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for block devices, in v2 only.
    pub io_pressure: Option<Pressure>,
}

/// What a CPU quota has done (sched-bwc.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Periods in which the group was held back.
    pub throttled_periods: u64,
    /// For how long all together, in nanoseconds.
    pub throttled_ns: u64,
}

/// Transfers from and to one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub page_size: String,
    /// In bytes.
    pub usage: u64,
    /// The most that there ever were, in bytes; `None`: not counted.
    pub peak: Option<u64>,
}

impl Group {
    /// Reads what it uses. A group that has gone uses nothing that is known.
    pub fn stats(&self) -> Result<Stats> {
        match (self.hierarchy().mode(), self.v2_dir()) {
            (Mode::V2, Some(dir)) => v2::read(&dir),
            _ => v1::read(self),
        }
    }

    /// How much CPU time it has used, in nanoseconds: one file of those that [`Self::stats`] reads.
    pub fn cpu_usage_ns(&self) -> Result<Option<u64>> {
        match (self.hierarchy().mode(), self.v2_dir()) {
            (Mode::V2, Some(dir)) => v2::cpu_usage_ns(&dir),
            _ => v1::number(self, "cpuacct", "cpuacct.usage"),
        }
    }

    /// The processes in it and below it. In v1 they are looked up in one hierarchy, since each has them all.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.counting_dir() {
            collect(&dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    fn counting_dir(&self) -> Option<PathBuf> {
        ["pids", "memory"].iter().find_map(|c| self.v1_dir(c)).or_else(|| self.dirs().into_iter().next())
    }

    /// How often the kernel has killed a process of it for memory.
    pub fn oom_kills(&self) -> Result<u64> {
        let path = match (self.v1_dir("memory"), self.v2_dir()) {
            (Some(dir), _) => dir.join("memory.oom_control"),
            (None, Some(dir)) => dir.join("memory.events"),
            (None, None) => return Ok(0),
        };
        let text = file::read_if_there(&path)?.unwrap_or_default();
        Ok(file::field(&text, "oom_kill").unwrap_or(0))
    }
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    if let Some(text) = file::read_if_there(&dir.join("cgroup.procs"))? {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    child_dirs(dir).iter().try_for_each(|child| collect(child, pids))
}

/// `major:minor`.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Sizes of huge pages that a group counts: the middle of each file's name between these two.
fn page_sizes(dir: &Path, before: &str, after: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = names
        .filter_map(|e| Some(e.file_name().to_str()?.strip_prefix(before)?.strip_suffix(after)?.to_owned()))
        .filter(|size| !size.contains('.'))
        .collect();
    sizes.sort();
    sizes
}
