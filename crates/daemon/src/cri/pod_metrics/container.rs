//! Metrics of one container.

use super::Sheet;
use super::descriptors::{cpu, fs, hugetlb, memory, pressure, process, spec};
use super::devices::Devices;
use crate::container::ContainerInfo;
use crate::error::{Error, Result};
use crate::ids::now;
use crate::node::Node;
use crate::pod::PodInfo;
use crate::usage::GroupUsage;
use crate::usage::processes::{self, Processes};
use rustix::fs::StatVfs;
use strata_api::cri;
use strata_cgroup::Stats;
use strata_store::Writable;

const SECOND: u64 = 1_000_000_000;
/// What the kernel gives a group that nobody has said anything of (cgroup-v1/cpusets, sched-bwc.rst).
const DEFAULT_SHARES: u64 = 1024;
const DEFAULT_PERIOD: u64 = 100_000;

/// What is looked at beside cgroups.
pub(super) struct Seen {
    /// Of each container, in their order.
    pub(super) containers: Vec<More>,
    /// The file system of the writable layers.
    disk: StatVfs,
    /// Its device.
    device: (u32, u32),
    devices: Devices,
}

/// What is looked at of one container.
pub(super) struct More {
    processes: Processes,
    oom_kills: u64,
    writable: Option<Writable>,
}

impl Seen {
    /// Looks at the store's file system and at these containers.
    pub(super) fn of(node: &Node, containers: &[ContainerInfo]) -> Result<Self> {
        let root = node.store.root();
        let fail = |e: rustix::io::Errno| Error::internal(format!("{}: {e}", root.display()));
        let disk = rustix::fs::statvfs(root).map_err(fail)?;
        let number = rustix::fs::stat(root).map_err(fail)?.st_dev;
        let device = (rustix::fs::major(number), rustix::fs::minor(number));
        let look = |c: &ContainerInfo| {
            let group = node.group(&c.record.cgroup)?;
            let of_cgroup = |e: strata_cgroup::Error| Error::internal(e.to_string());
            let pids = group.processes().map_err(of_cgroup)?;
            Ok(More {
                processes: processes::read(&pids, c.live.pid),
                oom_kills: group.oom_kills().map_err(of_cgroup)?,
                writable: node.store.writable(c.id()),
            })
        };
        let mut seen = Self {
            containers: containers.iter().map(look).collect::<Result<_>>()?,
            disk,
            device,
            devices: Devices::default(),
        };
        seen.devices.look_up(device.0, device.1);
        Ok(seen)
    }
}

/// Everything that is told of a container.
pub(super) fn metrics(
    container: &ContainerInfo,
    pod: &PodInfo,
    used: &GroupUsage,
    more: &More,
    seen: &Seen,
) -> Vec<cri::Metric> {
    let mut sheet = Sheet::new(Some(container), pod);
    let stats = &used.stats;
    cpu_time(&mut sheet, stats);
    memory_use(&mut sheet, stats);
    sheet.add(&memory::OOM_EVENTS, more.oom_kills);
    disk_use(&mut sheet, stats, more, seen);
    process_counts(&mut sheet, stats, &more.processes);
    for pages in &stats.hugetlb {
        sheet.add_for(&hugetlb::USAGE, &[&pages.page_size], pages.usage);
        if let Some(peak) = pages.peak {
            sheet.add_for(&hugetlb::MAX_USAGE, &[&pages.page_size], peak);
        }
    }
    waiting(&mut sheet, stats);
    limits(&mut sheet, container, stats);
    sheet.metrics
}

fn cpu_time(sheet: &mut Sheet, stats: &Stats) {
    if let Some(ns) = stats.cpu_usage_ns {
        sheet.add_for(&cpu::USAGE, &["total"], ns / SECOND);
    }
    sheet.maybe(&cpu::USER, stats.cpu_user_ns.map(|ns| ns / SECOND));
    sheet.maybe(&cpu::SYSTEM, stats.cpu_system_ns.map(|ns| ns / SECOND));
    if let Some(throttling) = stats.throttling {
        sheet.add(&cpu::PERIODS, throttling.periods);
        sheet.add(&cpu::THROTTLED_PERIODS, throttling.throttled_periods);
        sheet.add(&cpu::THROTTLED, throttling.throttled_ns / SECOND);
    }
}

fn memory_use(sheet: &mut Sheet, stats: &Stats) {
    sheet.maybe(&memory::USAGE, stats.memory_usage);
    sheet.maybe(&memory::MAX_USAGE, stats.memory_peak);
    sheet.maybe(&memory::WORKING_SET, stats.memory_working_set);
    sheet.maybe(&memory::RSS, stats.memory_rss);
    sheet.maybe(&memory::CACHE, stats.memory_cache);
    sheet.maybe(&memory::MAPPED_FILE, stats.memory_mapped_file);
    sheet.maybe(&memory::KERNEL, stats.memory_kernel);
    sheet.maybe(&memory::SWAP, stats.swap_usage);
    sheet.maybe(&memory::FAILCNT, stats.memory_limit_hits);
    let all = stats.page_faults.zip(stats.major_page_faults);
    // A container's cgroup has none below it that v2 would count apart, but for those of its own making.
    for (scope, faults) in [("container", stats.own_faults.or(all)), ("hierarchy", all)] {
        if let Some((all, major)) = faults {
            sheet.add_for(&memory::FAILURES, &["pgfault", scope], all);
            sheet.add_for(&memory::FAILURES, &["pgmajfault", scope], major);
        }
    }
}

fn disk_use(sheet: &mut Sheet, stats: &Stats, more: &More, seen: &Seen) {
    let device = [seen.devices.name(seen.device.0, seen.device.1)];
    if let Some(writable) = more.writable {
        sheet.add_of(&fs::USAGE, &device, writable.layer_disk, writable.measured_at);
    }
    let disk = &seen.disk;
    sheet.add_for(&fs::LIMIT, &device, disk.f_blocks.saturating_mul(disk.f_frsize));
    sheet.add_for(&fs::INODES, &device, disk.f_files);
    sheet.add_for(&fs::INODES_FREE, &device, disk.f_ffree);
    let mut devices = Devices::default();
    for io in &stats.io {
        devices.look_up(io.major, io.minor);
        let name = devices.name(io.major, io.minor);
        sheet.add_for(&fs::READS, &[name], io.reads);
        sheet.add_for(&fs::READ_BYTES, &[name], io.read_bytes);
        sheet.add_for(&fs::WRITES, &[name], io.writes);
        sheet.add_for(&fs::WRITE_BYTES, &[name], io.write_bytes);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            sheet.add_for(&fs::DEVICE_USAGE, &[name, &major, &minor, operation], bytes);
        }
    }
}

fn process_counts(sheet: &mut Sheet, stats: &Stats, seen: &Processes) {
    sheet.add(&process::PROCESSES, seen.count);
    sheet.add(&process::DESCRIPTORS, seen.descriptors);
    sheet.add(&process::SOCKETS, seen.sockets);
    if let Some(threads) = stats.pids {
        sheet.add(&process::THREADS, threads);
        sheet.add(&process::THREADS_MAX, stats.pids_limit.unwrap_or(0));
    }
    if let Some(limit) = seen.max_open_files {
        sheet.add_for(&process::ULIMITS, &["max_open_files"], limit);
    }
}

fn waiting(sheet: &mut Sheet, stats: &Stats) {
    let all = [
        (stats.cpu_pressure, &pressure::CPU_WAITING, &pressure::CPU_STALLED),
        (stats.memory_pressure, &pressure::MEMORY_WAITING, &pressure::MEMORY_STALLED),
        (stats.io_pressure, &pressure::IO_WAITING, &pressure::IO_STALLED),
    ];
    for (pressure, some, full) in all {
        if let Some(pressure) = pressure {
            sheet.add(some, pressure.some.total_us / 1_000_000);
            sheet.add(full, pressure.full.total_us / 1_000_000);
        }
    }
}

/// Limits as the configuration has them, with later updates; what it does not say is the kernel's default.
fn limits(sheet: &mut Sheet, container: &ContainerInfo, stats: &Stats) {
    let linux = container.record.config.linux.as_ref().and_then(|l| l.resources.clone()).unwrap_or_default();
    let said = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    sheet.add(&spec::CPU_PERIOD, said(linux.cpu_period).unwrap_or(DEFAULT_PERIOD));
    sheet.maybe(&spec::CPU_QUOTA, said(linux.cpu_quota));
    sheet.add(&spec::CPU_SHARES, said(linux.cpu_shares).unwrap_or(DEFAULT_SHARES));
    sheet.add(&spec::MEMORY_LIMIT, stats.memory_limit.unwrap_or(0));
    sheet.add(&spec::MEMORY_RESERVATION, stats.memory_reservation.unwrap_or(0));
    let both = stats.memory_limit.zip(stats.swap_limit).map_or(0, |(m, s)| m.saturating_add(s));
    sheet.add(&spec::MEMORY_SWAP_LIMIT, both);
    let seconds = |ns: i64| u64::try_from(ns).unwrap_or(0) / SECOND;
    sheet.add(&spec::START_TIME, seconds(container.live.started_at));
    sheet.add(&spec::LAST_SEEN, seconds(now()));
}
