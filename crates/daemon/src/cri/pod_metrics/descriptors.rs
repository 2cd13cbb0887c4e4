//! Every metric: its name, what it says, its type, and the labels that it has beside those of all.

use strata_api::cri::{self, MetricType};

/// The labels that every metric begins with.
pub(super) const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What is said of a metric once, before its values.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// cAdvisor's name for it.
    pub(super) name: &'static str,
    /// What it says.
    help: &'static str,
    /// Its type.
    pub(super) kind: MetricType,
    /// The labels beside [`LABELS`].
    pub(super) labels: &'static [&'static str],
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, kind: MetricType::Counter, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, kind: MetricType::Gauge, labels }
}

/// CPU time and what the quota has held back.
pub(super) mod cpu {
    use super::{Descriptor, counter};

    pub(in super::super) const USAGE: Descriptor =
        counter("container_cpu_usage_seconds_total", "Cumulative CPU time consumed in seconds", &["cpu"]);
    pub(in super::super) const USER: Descriptor =
        counter("container_cpu_user_seconds_total", "Cumulative CPU time in user mode in seconds", &[]);
    pub(in super::super) const SYSTEM: Descriptor =
        counter("container_cpu_system_seconds_total", "Cumulative CPU time in the kernel in seconds", &[]);
    pub(in super::super) const PERIODS: Descriptor =
        counter("container_cpu_cfs_periods_total", "Periods of the CPU quota that have passed", &[]);
    pub(in super::super) const THROTTLED_PERIODS: Descriptor = counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota held the container back",
        &[],
    );
    pub(in super::super) const THROTTLED: Descriptor = counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the CPU quota held the container back in seconds",
        &[],
    );

    pub(super) const ALL: [&Descriptor; 6] =
        [&USAGE, &USER, &SYSTEM, &PERIODS, &THROTTLED_PERIODS, &THROTTLED];
}

/// Memory.
pub(super) mod memory {
    use super::{Descriptor, counter, gauge};

    pub(in super::super) const USAGE: Descriptor =
        gauge("container_memory_usage_bytes", "Memory in bytes, page cache included", &[]);
    pub(in super::super) const MAX_USAGE: Descriptor =
        gauge("container_memory_max_usage_bytes", "The most memory ever used in bytes", &[]);
    pub(in super::super) const WORKING_SET: Descriptor =
        gauge("container_memory_working_set_bytes", "Memory without inactive page cache in bytes", &[]);
    pub(in super::super) const RSS: Descriptor =
        gauge("container_memory_rss", "Anonymous memory in bytes", &[]);
    pub(in super::super) const CACHE: Descriptor =
        gauge("container_memory_cache", "Page cache in bytes", &[]);
    pub(in super::super) const MAPPED_FILE: Descriptor =
        gauge("container_memory_mapped_file", "Memory of mapped files in bytes", &[]);
    pub(in super::super) const KERNEL: Descriptor =
        gauge("container_memory_kernel_usage", "Memory of the kernel for the container in bytes", &[]);
    pub(in super::super) const SWAP: Descriptor = gauge("container_memory_swap", "Swap in bytes", &[]);
    pub(in super::super) const FAILCNT: Descriptor =
        counter("container_memory_failcnt", "How often the memory limit was met", &[]);
    pub(in super::super) const FAILURES: Descriptor = counter(
        "container_memory_failures_total",
        "Page faults, by whether they read from disk, of the container's own cgroup and with those below",
        &["failure_type", "scope"],
    );
    pub(in super::super) const OOM_EVENTS: Descriptor = counter(
        "container_oom_events_total",
        "How often the kernel killed a process of the container for memory",
        &[],
    );

    pub(super) const ALL: [&Descriptor; 11] = [
        &USAGE,
        &MAX_USAGE,
        &WORKING_SET,
        &RSS,
        &CACHE,
        &MAPPED_FILE,
        &KERNEL,
        &SWAP,
        &FAILCNT,
        &FAILURES,
        &OOM_EVENTS,
    ];
}

/// The writable layer and the file system it lies on; transfers from and to devices.
pub(super) mod fs {
    use super::{Descriptor, counter, gauge};

    pub(in super::super) const USAGE: Descriptor =
        gauge("container_fs_usage_bytes", "Bytes of the writable layer", &["device"]);
    pub(in super::super) const LIMIT: Descriptor = gauge(
        "container_fs_limit_bytes",
        "Size of the file system of the writable layer in bytes",
        &["device"],
    );
    pub(in super::super) const INODES: Descriptor =
        gauge("container_fs_inodes_total", "Inodes of the file system of the writable layer", &["device"]);
    pub(in super::super) const INODES_FREE: Descriptor = gauge(
        "container_fs_inodes_free",
        "Free inodes of the file system of the writable layer",
        &["device"],
    );
    pub(in super::super) const READS: Descriptor =
        counter("container_fs_reads_total", "Reads from a device", &["device"]);
    pub(in super::super) const READ_BYTES: Descriptor =
        counter("container_fs_reads_bytes_total", "Bytes read from a device", &["device"]);
    pub(in super::super) const WRITES: Descriptor =
        counter("container_fs_writes_total", "Writes to a device", &["device"]);
    pub(in super::super) const WRITE_BYTES: Descriptor =
        counter("container_fs_writes_bytes_total", "Bytes written to a device", &["device"]);
    pub(in super::super) const DEVICE_USAGE: Descriptor = counter(
        "container_blkio_device_usage_total",
        "Bytes transferred from and to a device, by operation",
        &["device", "major", "minor", "operation"],
    );

    pub(super) const ALL: [&Descriptor; 9] =
        [&USAGE, &LIMIT, &INODES, &INODES_FREE, &READS, &READ_BYTES, &WRITES, &WRITE_BYTES, &DEVICE_USAGE];
}

/// Traffic.
pub(super) mod network {
    use super::{Descriptor, counter};

    pub(in super::super) const RECEIVED_BYTES: Descriptor =
        counter("container_network_receive_bytes_total", "Bytes received", &["interface"]);
    pub(in super::super) const RECEIVED_PACKETS: Descriptor =
        counter("container_network_receive_packets_total", "Packets received", &["interface"]);
    pub(in super::super) const RECEIVED_DROPPED: Descriptor = counter(
        "container_network_receive_packets_dropped_total",
        "Packets dropped while others were received",
        &["interface"],
    );
    pub(in super::super) const RECEIVED_ERRORS: Descriptor = counter(
        "container_network_receive_errors_total",
        "Errors while packets were received",
        &["interface"],
    );
    pub(in super::super) const SENT_BYTES: Descriptor =
        counter("container_network_transmit_bytes_total", "Bytes sent", &["interface"]);
    pub(in super::super) const SENT_PACKETS: Descriptor =
        counter("container_network_transmit_packets_total", "Packets sent", &["interface"]);
    pub(in super::super) const SENT_DROPPED: Descriptor = counter(
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while others were sent",
        &["interface"],
    );
    pub(in super::super) const SENT_ERRORS: Descriptor =
        counter("container_network_transmit_errors_total", "Errors while packets were sent", &["interface"]);

    pub(super) const ALL: [&Descriptor; 8] = [
        &RECEIVED_BYTES,
        &RECEIVED_PACKETS,
        &RECEIVED_DROPPED,
        &RECEIVED_ERRORS,
        &SENT_BYTES,
        &SENT_PACKETS,
        &SENT_DROPPED,
        &SENT_ERRORS,
    ];
}

/// Processes.
pub(super) mod process {
    use super::{Descriptor, gauge};

    pub(in super::super) const PROCESSES: Descriptor =
        gauge("container_processes", "Processes of the container", &[]);
    pub(in super::super) const THREADS: Descriptor =
        gauge("container_threads", "Threads of the container", &[]);
    pub(in super::super) const THREADS_MAX: Descriptor =
        gauge("container_threads_max", "The most threads allowed; 0: no limit", &[]);
    pub(in super::super) const DESCRIPTORS: Descriptor =
        gauge("container_file_descriptors", "Open file descriptors of the container", &[]);
    pub(in super::super) const SOCKETS: Descriptor =
        gauge("container_sockets", "Open sockets of the container", &[]);
    pub(in super::super) const ULIMITS: Descriptor = gauge(
        "container_ulimits_soft",
        "Soft limits of the container's first process; none: no limit",
        &["ulimit"],
    );

    pub(super) const ALL: [&Descriptor; 6] =
        [&PROCESSES, &THREADS, &THREADS_MAX, &DESCRIPTORS, &SOCKETS, &ULIMITS];
}

/// Huge pages.
pub(super) mod hugetlb {
    use super::{Descriptor, gauge};

    pub(in super::super) const USAGE: Descriptor =
        gauge("container_hugetlb_usage_bytes", "Huge pages in bytes", &["pagesize"]);
    pub(in super::super) const MAX_USAGE: Descriptor =
        gauge("container_hugetlb_max_usage_bytes", "The most huge pages ever used in bytes", &["pagesize"]);

    pub(super) const ALL: [&Descriptor; 2] = [&USAGE, &MAX_USAGE];
}

/// Waiting; cgroup v2 only.
pub(super) mod pressure {
    use super::{Descriptor, counter};

    pub(in super::super) const CPU_WAITING: Descriptor = counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time for which at least one task waited for CPU in seconds",
        &[],
    );
    pub(in super::super) const CPU_STALLED: Descriptor = counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time for which all tasks waited for CPU in seconds",
        &[],
    );
    pub(in super::super) const MEMORY_WAITING: Descriptor = counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time for which at least one task waited for memory in seconds",
        &[],
    );
    pub(in super::super) const MEMORY_STALLED: Descriptor = counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time for which all tasks waited for memory in seconds",
        &[],
    );
    pub(in super::super) const IO_WAITING: Descriptor = counter(
        "container_pressure_io_waiting_seconds_total",
        "Time for which at least one task waited for block devices in seconds",
        &[],
    );
    pub(in super::super) const IO_STALLED: Descriptor = counter(
        "container_pressure_io_stalled_seconds_total",
        "Time for which all tasks waited for block devices in seconds",
        &[],
    );

    pub(super) const ALL: [&Descriptor; 6] =
        [&CPU_WAITING, &CPU_STALLED, &MEMORY_WAITING, &MEMORY_STALLED, &IO_WAITING, &IO_STALLED];
}

/// Limits that were asked for, and times.
pub(super) mod spec {
    use super::{Descriptor, gauge};

    pub(in super::super) const CPU_PERIOD: Descriptor =
        gauge("container_spec_cpu_period", "Period of the CPU quota in microseconds", &[]);
    pub(in super::super) const CPU_QUOTA: Descriptor =
        gauge("container_spec_cpu_quota", "CPU quota in microseconds per period; none: no limit", &[]);
    pub(in super::super) const CPU_SHARES: Descriptor = gauge("container_spec_cpu_shares", "CPU shares", &[]);
    pub(in super::super) const MEMORY_LIMIT: Descriptor =
        gauge("container_spec_memory_limit_bytes", "Memory limit in bytes; 0: no limit", &[]);
    pub(in super::super) const MEMORY_RESERVATION: Descriptor = gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left to the container while it is short in bytes; 0: nothing is said",
        &[],
    );
    pub(in super::super) const MEMORY_SWAP_LIMIT: Descriptor = gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together in bytes; 0: no limit",
        &[],
    );
    pub(in super::super) const START_TIME: Descriptor =
        gauge("container_start_time_seconds", "When the container was started, in seconds since 1970", &[]);
    pub(in super::super) const LAST_SEEN: Descriptor =
        gauge("container_last_seen", "When the container was last looked at, in seconds since 1970", &[]);

    pub(super) const ALL: [&Descriptor; 8] = [
        &CPU_PERIOD,
        &CPU_QUOTA,
        &CPU_SHARES,
        &MEMORY_LIMIT,
        &MEMORY_RESERVATION,
        &MEMORY_SWAP_LIMIT,
        &START_TIME,
        &LAST_SEEN,
    ];
}

/// Every descriptor.
fn every() -> impl Iterator<Item = &'static Descriptor> {
    let all: [&'static [&'static Descriptor]; 8] = [
        &cpu::ALL,
        &memory::ALL,
        &fs::ALL,
        &network::ALL,
        &process::ALL,
        &hugetlb::ALL,
        &pressure::ALL,
        &spec::ALL,
    ];
    all.into_iter().flatten().copied()
}

/// ListMetricDescriptors. The list is the same as long as stratad runs: the kubelet reads it once.
pub(in super::super) fn all() -> Vec<cri::MetricDescriptor> {
    let labels = |d: &Descriptor| LABELS.iter().chain(d.labels).map(|l| (*l).to_owned()).collect();
    every()
        .map(|d| cri::MetricDescriptor { name: d.name.into(), help: d.help.into(), label_keys: labels(d) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_told_once_and_counters_are_called_so() {
        let all = all();
        let names: HashSet<&str> = all.iter().map(|d| d.name.as_str()).collect();
        assert_eq!((names.len(), all.len()), (56, 56));
        for d in &all {
            assert!(!d.help.is_empty() && d.label_keys.starts_with(&LABELS.map(str::to_owned)), "{d:?}");
        }
        for d in every().filter(|d| d.name != "container_memory_failcnt") {
            assert_eq!(
                d.kind == MetricType::Counter,
                d.name.ends_with("_total") && !d.name.contains("inodes")
            );
        }
    }
}
