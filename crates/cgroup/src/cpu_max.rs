//! How much CPU time a group may take, as cgroup v2 writes it: `cpu.max` (cgroup-v2.rst, "CPU Interface Files").

use crate::Resources;

/// CPU time per period, both in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMax {
    /// `None`: as much as there is.
    pub quota: Option<u64>,
    /// The period.
    pub period: u64,
}

/// The period of a group of which none was said (sched-bwc.rst).
const PERIOD: u64 = 100_000;

impl CpuMax {
    /// What is said by quota and period; `None` if neither is. Of the two 0 is unset, and a negative quota is none.
    #[must_use]
    pub fn of_numbers(limits: &Resources) -> Option<Self> {
        if limits.cpu_quota.is_none() && limits.cpu_period.is_none() {
            return None;
        }
        let quota = limits.cpu_quota.and_then(|q| u64::try_from(q).ok()).filter(|q| *q != 0);
        Some(Self { quota, period: period(limits) })
    }

    /// What is said by the file's own text in `unified`; `None` if it is not, or is none that the kernel takes. A period that it
    /// leaves out is the one that is written before it.
    #[must_use]
    pub fn of_text(limits: &Resources) -> Option<Self> {
        let mut words = limits.unified.get("cpu.max")?.split_whitespace();
        let quota = match words.next()? {
            "max" => None,
            number => Some(number.parse().ok().filter(|q| *q != 0)?),
        };
        let period = match words.next() {
            None => period(limits),
            Some(number) => number.parse().ok().filter(|p| *p != 0)?,
        };
        words.next().is_none().then_some(Self { quota, period })
    }
}

fn period(limits: &Resources) -> u64 {
    limits.cpu_period.filter(|p| *p != 0).unwrap_or(PERIOD)
}

impl std::fmt::Display for CpuMax {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.quota {
            None => write!(f, "max {}", self.period),
            Some(quota) => write!(f, "{quota} {}", self.period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, cpu_period: Option<u64>) -> Option<String> {
        let unified = [("cpu.max".to_owned(), text.to_owned())].into();
        CpuMax::of_text(&Resources { unified, cpu_period, ..Resources::default() }).map(|max| max.to_string())
    }

    #[test]
    fn the_file_s_text_is_read_as_the_kernel_reads_it() {
        for (given, period, want) in [
            ("max", None, "max 100000"),
            ("max 50000\n", None, "max 50000"),
            ("20000", None, "20000 100000"),
            ("20000", Some(40_000), "20000 40000"),
            ("20000 50000", Some(40_000), "20000 50000"),
        ] {
            assert_eq!(text(given, period).as_deref(), Some(want), "{given:?}");
        }
        for bad in ["", "0", "many", "1 0", "1 2 3", "-1", "1 max"] {
            assert_eq!(text(bad, None), None, "{bad:?}");
        }
        assert_eq!(CpuMax::of_text(&Resources::default()), None);
    }

    #[test]
    fn numbers_become_the_file_s_text() {
        let of = |cpu_quota, cpu_period| {
            let limits = Resources { cpu_quota, cpu_period, ..Resources::default() };
            CpuMax::of_numbers(&limits).map(|max| max.to_string())
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(50_000), None).as_deref(), Some("50000 100000"));
        assert_eq!(of(Some(-1), Some(20_000)).as_deref(), Some("max 20000"));
        assert_eq!(of(Some(0), Some(0)).as_deref(), Some("max 100000"));
        assert_eq!(of(None, Some(20_000)).as_deref(), Some("max 20000"));
    }
}
