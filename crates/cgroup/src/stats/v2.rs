//! Where cgroup v2 counts what (Documentation/admin-guide/cgroup-v2.rst).

use super::{DeviceIo, Hugetlb, Pressure, Stats, Throttling, device, page_sizes};
use crate::{Result, file};
use std::path::Path;

pub(super) fn read(dir: &Path) -> Result<Stats> {
    let number = |name: &str| file::read_u64(&dir.join(name));
    let text = |name: &str| file::read_if_there(&dir.join(name)).map(Option::unwrap_or_default);
    let limit = |name: &str| number(name).map(|n| n.filter(|l| *l != u64::MAX));
    let pressure = |name: &str| text(name).map(|t| Pressure::parse(&t));
    let (cpu, memory) = (text("cpu.stat")?, text("memory.stat")?);
    let field = |key| file::field(&memory, key);
    let usage = number("memory.current")?;
    Ok(Stats {
        cpu_usage_ns: nanoseconds(&cpu, "usage_usec"),
        cpu_user_ns: nanoseconds(&cpu, "user_usec"),
        cpu_system_ns: nanoseconds(&cpu, "system_usec"),
        throttling: throttling(&cpu),
        memory_usage: usage,
        memory_peak: number("memory.peak")?,
        memory_working_set: usage.map(|u| u.saturating_sub(field("inactive_file").unwrap_or(0))),
        memory_rss: field("anon"),
        memory_cache: field("file"),
        memory_mapped_file: field("file_mapped"),
        memory_kernel: field("kernel"),
        memory_limit_hits: file::field(&text("memory.events")?, "max"),
        memory_limit: limit("memory.max")?,
        memory_reservation: limit("memory.low")?.filter(|low| *low > 0),
        page_faults: field("pgfault"),
        major_page_faults: field("pgmajfault"),
        own_faults: None,
        swap_usage: number("memory.swap.current")?,
        swap_limit: limit("memory.swap.max")?,
        pids: number("pids.current")?,
        pids_limit: limit("pids.max")?,
        io: devices(&text("io.stat")?),
        hugetlb: hugetlb(dir)?,
        cpu_pressure: pressure("cpu.pressure")?,
        memory_pressure: pressure("memory.pressure")?,
        io_pressure: pressure("io.pressure")?,
    })
}

pub(super) fn cpu_usage_ns(dir: &Path) -> Result<Option<u64>> {
    let stat = file::read_if_there(&dir.join("cpu.stat"))?.unwrap_or_default();
    Ok(nanoseconds(&stat, "usage_usec"))
}

fn nanoseconds(stat: &str, key: &str) -> Option<u64> {
    file::field(stat, key).map(|us| us.saturating_mul(1000))
}

fn throttling(stat: &str) -> Option<Throttling> {
    Some(Throttling {
        periods: file::field(stat, "nr_periods")?,
        throttled_periods: file::field(stat, "nr_throttled")?,
        throttled_ns: nanoseconds(stat, "throttled_usec")?,
    })
}

/// From lines of `major:minor rbytes=n wbytes=n rios=n wios=n …`.
fn devices(stat: &str) -> Vec<DeviceIo> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
        for (key, n) in words.filter_map(|w| w.split_once('=')) {
            let Ok(n) = n.parse::<u64>() else { continue };
            match key {
                "rbytes" => io.read_bytes = n,
                "wbytes" => io.write_bytes = n,
                "rios" => io.reads = n,
                "wios" => io.writes = n,
                _ => {}
            }
        }
        Some(io)
    };
    stat.lines().filter_map(parse).collect()
}

fn hugetlb(dir: &Path) -> Result<Vec<Hugetlb>> {
    let mut all = Vec::new();
    for page_size in page_sizes(dir, "hugetlb.", ".current") {
        if let Some(usage) = file::read_u64(&dir.join(format!("hugetlb.{page_size}.current")))? {
            all.push(Hugetlb { page_size, usage, peak: None });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_told_by_device() {
        let stat = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=5\n7:0 \nbad rbytes=1\n";
        let found = devices(stat);
        let sda = DeviceIo { major: 8, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 };
        assert_eq!((found.len(), found[0], found[1].read_bytes), (3, sda, 5));
    }

    #[test]
    fn a_directory_without_files_counts_nothing() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read(empty.path()).unwrap(), Stats::default());
        std::fs::write(empty.path().join("hugetlb.2MB.current"), "4194304\n").unwrap();
        std::fs::write(empty.path().join("hugetlb.2MB.rsvd.current"), "0\n").unwrap();
        let found = read(empty.path()).unwrap().hugetlb;
        assert_eq!(found, [Hugetlb { page_size: "2MB".into(), usage: 4 << 20, peak: None }]);
    }
}
