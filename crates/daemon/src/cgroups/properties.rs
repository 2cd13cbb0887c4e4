//! Limits as properties of units (systemd.resource-control(5), org.freedesktop.systemd1(5)).
//!
//! What is told to systemd stays when it writes a unit's files again, as it does after `systemctl daemon-reload`. What it has no
//! property for (huge pages, devices by our own filter, the rest of `unified`) is in the files only; what of that it undoes then is
//! written once more ([`super::reloads`]).

use strata_cgroup::limits::weight_of;
use strata_cgroup::{CpuMax, Resources};

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `ay`: a bit for each CPU or memory node, the lowest first.
    Mask(Vec<u8>),
    /// `au`: processes.
    Processes(Vec<u32>),
}

/// Properties by name.
pub(crate) type Properties = Vec<(&'static str, Property)>;

/// No limit.
const INFINITY: u64 = u64::MAX;

/// What systemd is told of limits; those that are unset stay as they are.
pub(crate) fn of_limits(limits: &Resources) -> Properties {
    let mut all = Properties::new();
    let mut put = |name, value| all.push((name, Property::Number(value)));
    // Idle groups have no weight, or systemd's own word for it.
    let idle = limits.unified.get("cpu.idle").is_some_and(|idle| idle.trim() == "1");
    if idle {
        put("CPUWeight", 0);
    } else if let Some(shares) = limits.cpu_shares {
        put("CPUWeight", weight_of(shares));
    }
    // Files are written last, so they count.
    if let Some(max) = CpuMax::of_text(limits).or_else(|| CpuMax::of_numbers(limits)) {
        put("CPUQuotaPerSecUSec", max.quota.map_or(INFINITY, |quota| per_second(quota, max.period)));
        put("CPUQuotaPeriodUSec", max.period);
    }
    if let Some(bytes) = limits.memory_limit {
        put("MemoryMax", number(bytes));
    }
    if let (Some(both), Some(memory)) = (limits.memory_swap_limit, limits.memory_limit) {
        // Of swap alone, as cgroup v2 has it.
        put("MemorySwapMax", if both < 0 || memory < 0 { INFINITY } else { number((both - memory).max(0)) });
    }
    if let Some(pids) = limits.pids_limit {
        put("TasksMax", number(pids));
    }
    for (name, value) in of_files(limits, idle) {
        all.retain(|(other, _)| *other != name);
        all.push((name, Property::Number(value)));
    }
    for (list, name) in [(&limits.cpuset_cpus, "AllowedCPUs"), (&limits.cpuset_mems, "AllowedMemoryNodes")] {
        if let Some(mask) = list.as_deref().and_then(mask) {
            all.push((name, Property::Mask(mask)));
        }
    }
    all
}

/// Files of `unified` that hold one number or `max`, their properties, and the least and most that systemd takes.
const FILES: [(&str, &str, u64, u64); 7] = [
    ("memory.min", "MemoryMin", 0, INFINITY),
    ("memory.low", "MemoryLow", 0, INFINITY),
    ("memory.high", "MemoryHigh", 1, INFINITY),
    ("memory.max", "MemoryMax", 1, INFINITY),
    // The kubelet's word for no swap is 0.
    ("memory.swap.max", "MemorySwapMax", 0, INFINITY),
    ("pids.max", "TasksMax", 1, INFINITY),
    ("cpu.weight", "CPUWeight", 1, 10_000),
];

/// What systemd is told of `unified`. What is no number is the kernel's to refuse.
fn of_files(limits: &Resources, idle: bool) -> Vec<(&'static str, u64)> {
    let mut told = Vec::new();
    for (file, name, least, most) in FILES {
        let Some(value) = limits.unified.get(file).and_then(|text| number_or_max(text)) else { continue };
        if (least..=most).contains(&value) && !(idle && name == "CPUWeight") {
            told.push((name, value));
        }
    }
    told
}

fn number_or_max(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(INFINITY),
        text => text.parse().ok(),
    }
}

/// A limit of which -1 means none.
fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(INFINITY)
}

/// CPU time in a second. Rounded up to what systemd keeps exactly, 10 ms: never less than was asked for.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000;
    let micros = exact.div_ceil(u128::from(period)).div_ceil(10_000) * 10_000;
    u64::try_from(micros).unwrap_or(INFINITY)
}

/// The bits of a list such as `0-3,8`, no bytes for all that there are; `None` if it is no list, which the kernel then says.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // CPU_SETSIZE of systemd's own limit; more would only take memory.
        if first > last || last > 8191 {
            return None;
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|n| bytes[n / 8] |= 1 << (n % 8));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(limits: &Resources) -> Vec<(&'static str, u64)> {
        let number = |(name, value)| match value {
            Property::Number(n) => (name, n),
            other => panic!("{name} is {other:?}"),
        };
        of_limits(limits).into_iter().map(number).collect()
    }

    #[test]
    fn each_limit_has_its_property() {
        let limits = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
            memory_swap_limit: Some(80 << 20),
            pids_limit: Some(7),
            unified: [
                ("memory.high".to_owned(), "1000".to_owned()),
                ("memory.min".to_owned(), "max".to_owned()),
            ]
            .into(),
            ..Resources::default()
        };
        let weight = strata_cgroup::limits::weight_of(1024);
        assert_eq!(
            numbers(&limits),
            [
                ("CPUWeight", weight),
                ("CPUQuotaPerSecUSec", 500_000),
                ("CPUQuotaPeriodUSec", 100_000),
                ("MemoryMax", 64 << 20),
                ("MemorySwapMax", 16 << 20),
                ("TasksMax", 7),
                ("MemoryMin", u64::MAX),
                ("MemoryHigh", 1000),
            ]
        );
        assert_eq!(of_limits(&Resources::default()), []);
        let idle = Resources { unified: [("cpu.idle".to_owned(), "1".to_owned())].into(), ..limits };
        assert_eq!(numbers(&idle)[0], ("CPUWeight", 0));
    }

    #[test]
    fn files_have_the_last_word() {
        let of = |files: &[(&str, &str)]| Resources {
            unified: files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect(),
            ..Resources::default()
        };
        let no_swap = Resources {
            memory_limit: Some(1000),
            memory_swap_limit: Some(3000),
            ..of(&[("memory.swap.max", "0"), ("memory.oom.group", "1")])
        };
        assert_eq!(numbers(&no_swap), [("MemoryMax", 1000), ("MemorySwapMax", 0)]);
        let all = of(&[
            ("cpu.max", "max 50000"),
            ("cpu.weight", "70\n"),
            ("memory.max", "4096"),
            ("memory.swap.max", "max"),
            ("pids.max", "9"),
        ]);
        let wanted = [
            ("CPUQuotaPerSecUSec", u64::MAX),
            ("CPUQuotaPeriodUSec", 50_000),
            ("MemoryMax", 4096),
            ("MemorySwapMax", u64::MAX),
            ("TasksMax", 9),
            ("CPUWeight", 70),
        ];
        assert_eq!(numbers(&all), wanted);
        let half = of(&[("cpu.max", "50000")]);
        assert_eq!(numbers(&half), [("CPUQuotaPerSecUSec", 500_000), ("CPUQuotaPeriodUSec", 100_000)]);
        // systemd takes none of these; the kernel says what it thinks of them.
        let odd = of(&[("cpu.max", "0"), ("cpu.weight", "0"), ("memory.max", "0"), ("pids.max", "many")]);
        assert_eq!(numbers(&odd), []);
        let idle = of(&[("cpu.idle", "1"), ("cpu.weight", "70")]);
        assert_eq!(numbers(&idle), [("CPUWeight", 0)]);
    }

    #[test]
    fn minus_one_is_infinity_and_quotas_are_not_rounded_down() {
        let none = Resources {
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert!(numbers(&none).iter().all(|(_, n)| *n == u64::MAX));
        let cpu = |quota| {
            let limits = Resources { cpu_quota: Some(quota), ..Resources::default() };
            numbers(&limits)[0].1
        };
        assert_eq!((cpu(-1), cpu(1000), cpu(1500), cpu(250_000)), (u64::MAX, 10_000, 20_000, 2_500_000));
        assert_eq!(per_second(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn lists_of_cpus_are_masks() {
        assert_eq!(mask("0"), Some(vec![1]));
        assert_eq!(mask("0-3,8"), Some(vec![0b1111, 1]));
        assert_eq!(mask("1,3-4\n"), Some(vec![0b1_1010]));
        assert_eq!(mask("\n"), Some(vec![]));
        for bad in ["a", "3-1", "0-", "-1", "0-99999999"] {
            assert_eq!(mask(bad), None, "{bad}");
        }
        let limits = Resources {
            cpuset_cpus: Some("1".into()),
            cpuset_mems: Some("0".into()),
            ..Resources::default()
        };
        let wanted =
            [("AllowedCPUs", Property::Mask(vec![2])), ("AllowedMemoryNodes", Property::Mask(vec![1]))];
        assert_eq!(of_limits(&limits), wanted);
    }
}
