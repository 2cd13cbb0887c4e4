//! Where cgroup v1 counts what (Documentation/admin-guide/cgroup-v1).

use super::{DeviceIo, Hugetlb, Stats, Throttling, device, page_sizes};
use crate::group::Group;
use crate::{Result, file};
use std::collections::BTreeMap;

/// "No limit" is the largest multiple of the page size.
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

pub(super) fn read(group: &Group) -> Result<Stats> {
    let number = |controller: &str, name: &str| number(group, controller, name);
    let memory = text(group, "memory", "memory.stat")?.unwrap_or_default();
    let usage = number("memory", "memory.usage_in_bytes")?;
    let limit = |n: Option<u64>| n.filter(|l| *l < NO_LIMIT);
    let memory_limit = limit(number("memory", "memory.limit_in_bytes")?);
    let with_swap = number("memory", "memory.memsw.usage_in_bytes")?;
    let swap_limit = limit(number("memory", "memory.memsw.limit_in_bytes")?);
    let field = |key| file::field(&memory, key);
    Ok(Stats {
        cpu_usage_ns: number("cpuacct", "cpuacct.usage")?,
        cpu_user_ns: number("cpuacct", "cpuacct.usage_user")?,
        cpu_system_ns: number("cpuacct", "cpuacct.usage_sys")?,
        throttling: text(group, "cpu", "cpu.stat")?.as_deref().and_then(throttling),
        memory_usage: usage,
        memory_peak: number("memory", "memory.max_usage_in_bytes")?,
        memory_working_set: usage.map(|u| u.saturating_sub(field("total_inactive_file").unwrap_or(0))),
        memory_rss: field("total_rss"),
        memory_cache: field("total_cache"),
        memory_mapped_file: field("total_mapped_file"),
        memory_kernel: number("memory", "memory.kmem.usage_in_bytes")?,
        memory_limit_hits: number("memory", "memory.failcnt")?,
        memory_limit,
        memory_reservation: limit(number("memory", "memory.soft_limit_in_bytes")?),
        page_faults: field("total_pgfault"),
        major_page_faults: field("total_pgmajfault"),
        own_faults: field("pgfault").zip(field("pgmajfault")),
        swap_usage: with_swap.zip(usage).map(|(both, memory)| both.saturating_sub(memory)),
        swap_limit: swap_limit.zip(memory_limit).map(|(both, memory)| both.saturating_sub(memory)),
        pids: number("pids", "pids.current")?,
        pids_limit: number("pids", "pids.max")?.filter(|l| *l != u64::MAX),
        io: io(group)?,
        hugetlb: hugetlb(group)?,
        ..Stats::default()
    })
}

/// A controller's file with one number; `None` where this node does not have it.
pub(super) fn number(group: &Group, controller: &str, name: &str) -> Result<Option<u64>> {
    group.v1_dir(controller).map_or(Ok(None), |dir| file::read_u64(&dir.join(name)))
}

fn text(group: &Group, controller: &str, name: &str) -> Result<Option<String>> {
    group.v1_dir(controller).map_or(Ok(None), |dir| file::read_if_there(&dir.join(name)))
}

fn throttling(stat: &str) -> Option<Throttling> {
    Some(Throttling {
        periods: file::field(stat, "nr_periods")?,
        throttled_periods: file::field(stat, "nr_throttled")?,
        throttled_ns: file::field(stat, "throttled_time")?,
    })
}

fn io(group: &Group) -> Result<Vec<DeviceIo>> {
    // Groups below are in the recursive files only, which are younger (4.20).
    let either = |name: &str| match text(group, "blkio", &format!("{name}_recursive"))? {
        None => text(group, "blkio", name),
        found => Ok(found),
    };
    let bytes = either("blkio.throttle.io_service_bytes")?.unwrap_or_default();
    let operations = either("blkio.throttle.io_serviced")?.unwrap_or_default();
    Ok(devices(&bytes, &operations))
}

/// From lines of `major:minor Read n`, `major:minor Write n` and others.
fn devices(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut found: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (text, counts) in [(bytes, false), (operations, true)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let numbers = words.next().and_then(device);
            let (Some((major, minor)), Some(operation)) = (numbers, words.next()) else { continue };
            let Some(n) = words.next().and_then(|n| n.parse::<u64>().ok()) else { continue };
            let entry = found.entry((major, minor)).or_insert_with(|| DeviceIo {
                major,
                minor,
                ..DeviceIo::default()
            });
            match (operation, counts) {
                ("Read", false) => entry.read_bytes = n,
                ("Write", false) => entry.write_bytes = n,
                ("Read", true) => entry.reads = n,
                ("Write", true) => entry.writes = n,
                _ => {}
            }
        }
    }
    found.into_values().collect()
}

fn hugetlb(group: &Group) -> Result<Vec<Hugetlb>> {
    let Some(dir) = group.v1_dir("hugetlb") else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for page_size in page_sizes(&dir, "hugetlb.", ".usage_in_bytes") {
        let number = |what: &str| file::read_u64(&dir.join(format!("hugetlb.{page_size}.{what}")));
        let Some(usage) = number("usage_in_bytes")? else { continue };
        all.push(Hugetlb { usage, peak: number("max_usage_in_bytes")?, page_size });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_told_by_device() {
        let bytes = "8:0 Read 10\n8:0 Write 5\n8:0 Sync 9\n8:16 Read 1\n8:16 Total 1\nTotal 16\n";
        let sda = DeviceIo { major: 8, minor: 0, read_bytes: 10, write_bytes: 5, reads: 2, writes: 1 };
        let sdb = DeviceIo { major: 8, minor: 16, read_bytes: 1, ..DeviceIo::default() };
        assert_eq!(devices(bytes, "8:0 Read 2\n8:0 Write 1\nTotal 3\n"), [sda, sdb]);
        assert!(devices("Total 0\n", "").is_empty());
    }

    #[test]
    fn throttling_is_whole_or_not_there() {
        let all = "nr_periods 4\nnr_throttled 3\nthrottled_time 2000\nnr_bursts 0\nburst_time 0\n";
        let wanted = Throttling { periods: 4, throttled_periods: 3, throttled_ns: 2000 };
        assert_eq!(throttling(all), Some(wanted));
        assert_eq!(throttling("nr_periods 4\n"), None);
    }
}
