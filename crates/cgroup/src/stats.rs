//! Usage and OOM counters.

use crate::group::Group;
use crate::hierarchy::Mode;
use crate::{Result, file};
use std::path::Path;

/// What a group uses. `None`: this node does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Memory, page cache included, in bytes.
    pub memory_usage: Option<u64>,
    /// Memory without inactive page cache, in bytes: what the kubelet evicts by.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory, in bytes.
    pub memory_rss: Option<u64>,
    /// The memory limit, in bytes; `None`: no limit.
    pub memory_limit: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Page faults that read from disk.
    pub major_page_faults: Option<u64>,
    /// Swap, in bytes.
    pub swap_usage: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from and written to block devices.
    pub io: Option<(u64, u64)>,
}

/// v1 writes "no limit" as the largest multiple of the page size.
const NO_LIMIT_V1: u64 = 0x7fff_ffff_ffff_f000;

impl Group {
    /// Reads what it uses. A group that has gone uses nothing that is known.
    pub fn stats(&self) -> Result<Stats> {
        match (self.hierarchy().mode(), self.v2_dir()) {
            (Mode::V2, Some(dir)) => stats_v2(&dir),
            _ => self.stats_v1(),
        }
    }

    fn stats_v1(&self) -> Result<Stats> {
        let number = |controller: &str, name: &str| match self.v1_dir(controller) {
            Some(dir) => file::read_u64(&dir.join(name)),
            None => Ok(None),
        };
        let usage = number("memory", "memory.usage_in_bytes")?;
        let memory = match self.v1_dir("memory") {
            Some(dir) => file::read_if_there(&dir.join("memory.stat"))?.unwrap_or_default(),
            None => String::new(),
        };
        let with_swap = number("memory", "memory.memsw.usage_in_bytes")?;
        let io = match self.v1_dir("blkio") {
            Some(dir) => {
                file::read_if_there(&dir.join("blkio.throttle.io_service_bytes"))?.map(|t| blkio(&t))
            }
            None => None,
        };
        Ok(Stats {
            cpu_usage_ns: number("cpuacct", "cpuacct.usage")?,
            memory_usage: usage,
            memory_working_set: usage
                .map(|u| u.saturating_sub(file::field(&memory, "total_inactive_file").unwrap_or(0))),
            memory_rss: file::field(&memory, "total_rss"),
            memory_limit: number("memory", "memory.limit_in_bytes")?.filter(|l| *l < NO_LIMIT_V1),
            page_faults: file::field(&memory, "total_pgfault"),
            major_page_faults: file::field(&memory, "total_pgmajfault"),
            swap_usage: with_swap.zip(usage).map(|(both, memory)| both.saturating_sub(memory)),
            pids: number("pids", "pids.current")?,
            io,
        })
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

fn stats_v2(dir: &Path) -> Result<Stats> {
    let number = |name: &str| file::read_u64(&dir.join(name));
    let text = |name: &str| file::read_if_there(&dir.join(name)).map(Option::unwrap_or_default);
    let (cpu, memory) = (text("cpu.stat")?, text("memory.stat")?);
    let usage = number("memory.current")?;
    Ok(Stats {
        cpu_usage_ns: file::field(&cpu, "usage_usec").map(|us| us.saturating_mul(1000)),
        memory_usage: usage,
        memory_working_set: usage
            .map(|u| u.saturating_sub(file::field(&memory, "inactive_file").unwrap_or(0))),
        memory_rss: file::field(&memory, "anon"),
        memory_limit: number("memory.max")?.filter(|l| *l != u64::MAX),
        page_faults: file::field(&memory, "pgfault"),
        major_page_faults: file::field(&memory, "pgmajfault"),
        swap_usage: number("memory.swap.current")?,
        pids: number("pids.current")?,
        io: Some(io_stat(&text("io.stat")?)),
    })
}

/// Sums `major:minor Read n` and `… Write n` lines.
fn blkio(text: &str) -> (u64, u64) {
    text.lines().fold((0, 0), |(read, written), line| {
        let mut words = line.split(' ').skip(1);
        match (words.next(), words.next().and_then(|n| n.parse::<u64>().ok())) {
            (Some("Read"), Some(n)) => (read.saturating_add(n), written),
            (Some("Write"), Some(n)) => (read, written.saturating_add(n)),
            _ => (read, written),
        }
    })
}

/// Sums `major:minor rbytes=n wbytes=n …` lines.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|w| w.strip_prefix(key)?.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_all_devices_is_summed() {
        assert_eq!(blkio("8:0 Read 10\n8:0 Write 5\n8:0 Sync 9\n8:16 Read 1\nTotal 40\n"), (11, 5));
        assert_eq!(io_stat("8:0 rbytes=1 wbytes=2 rios=1\n8:16 rbytes=3 wbytes=4\n"), (4, 6));
    }
}
