//! Limits: from CRI's words to the cgroup crate's.

use crate::error::{Error, Result};
use strata_api::cri;
use strata_cgroup::{DeviceRule, Hierarchy, Resources};

/// The limits that a container asks for. Unset (zero) ones stay unset.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for numbers for which the kernel has no meaning, for less memory and
/// swap than memory, for sizes of huge pages that are none, and for names of cgroup v2 files that are none.
pub(crate) fn resources(asked: &cri::LinuxContainerResources, pids_limit: i64) -> Result<Resources> {
    let unified = asked.unified.iter().map(|(k, v)| {
        // The name becomes a file's name in the container's cgroup.
        let plain = k.contains('.') && k.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if plain && !k.starts_with("cgroup.") && !k.starts_with('.') {
            Ok((k.clone(), v.clone()))
        } else {
            Err(Error::invalid(format!(
                "{k:?} is no file of a cgroup v2 controller; use names such as memory.high"
            )))
        }
    });
    if !(-1000..=1000).contains(&asked.oom_score_adj) {
        return Err(Error::invalid(format!(
            "oom_score_adj {}: must lie between -1000 and 1000",
            asked.oom_score_adj
        )));
    }
    if let Some(bad) = asked.hugepage_limits.iter().find(|h| !is_page_size(&h.page_size)) {
        return Err(Error::invalid(format!(
            "huge pages of {:?}: a size is written as in 2MB or 1GB",
            bad.page_size
        )));
    }
    check_swap(asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes)?;
    Ok(Resources {
        cpu_shares: positive(asked.cpu_shares, "cpu_shares")?,
        cpu_quota: limit(asked.cpu_quota, "cpu_quota")?,
        cpu_period: positive(asked.cpu_period, "cpu_period")?,
        cpuset_cpus: text(&asked.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems),
        memory_limit: limit(asked.memory_limit_in_bytes, "memory_limit_in_bytes")?,
        memory_swap_limit: limit(asked.memory_swap_limit_in_bytes, "memory_swap_limit_in_bytes")?,
        pids_limit: (pids_limit > 0).then_some(pids_limit),
        hugepages: asked.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        unified: unified.collect::<Result<_>>()?,
        devices: None,
    })
}

/// Leaves out what the node cannot do and Kubernetes goes on without; says so once for each.
///
/// Without `devices` those that are allowed stay as they are.
pub(crate) fn fit(
    mut wanted: Resources,
    node: &Hierarchy,
    devices: Option<Vec<DeviceRule>>,
) -> (Resources, Vec<String>) {
    let mut left_out = Vec::new();
    let controllers = node.controllers();
    if !wanted.hugepages.is_empty() && !controllers.iter().any(|c| c == "hugetlb") {
        // The kubelet sends a limit of 0 for every size to every container.
        if wanted.hugepages.iter().any(|(_, limit)| *limit > 0) {
            left_out.push("huge page limits: this node has no hugetlb cgroup controller".into());
        }
        wanted.hugepages.clear();
    }
    wanted.devices = devices;
    (wanted, left_out)
}

/// cgroup v1 has one limit of memory and one of memory and swap together, and so has CRI: the second cannot be the lower one.
fn check_swap(memory: i64, both: i64) -> Result<()> {
    if both > 0 && (memory > both || memory < 0) {
        return Err(Error::invalid(format!(
            "memory_limit_in_bytes {memory} is above memory_swap_limit_in_bytes {both}, which is for memory and swap together; \
             raise that too"
        )));
    }
    Ok(())
}

/// What a container's limits are after an update, and what of them must be written.
///
/// Limits that the kernel keeps in one file, or compares with each other, are written together. Where all memory was to be
/// had without swap, that stays so.
///
/// # Errors
/// As [`resources`]; limits are compared with those that stay.
pub(crate) fn changed(
    old: &cri::LinuxContainerResources,
    new: &cri::LinuxContainerResources,
) -> Result<(cri::LinuxContainerResources, Resources)> {
    let mut all = merged(old, new);
    let no_swap =
        old.memory_swap_limit_in_bytes != 0 && old.memory_swap_limit_in_bytes == old.memory_limit_in_bytes;
    if new.memory_swap_limit_in_bytes == 0 && no_swap {
        all.memory_swap_limit_in_bytes = all.memory_limit_in_bytes;
    }
    check_swap(all.memory_limit_in_bytes, all.memory_swap_limit_in_bytes)?;
    let (whole, mut write) = (resources(&all, 0)?, resources(new, 0)?);
    if write.cpu_quota.is_some() || write.cpu_period.is_some() {
        (write.cpu_quota, write.cpu_period) = (whole.cpu_quota, whole.cpu_period);
    }
    if write.memory_limit.is_some() || write.memory_swap_limit.is_some() {
        (write.memory_limit, write.memory_swap_limit) = (whole.memory_limit, whole.memory_swap_limit);
    }
    Ok((all, write))
}

/// The limits of a pod's cgroup that Strata has made: those of its containers, and what the pod itself takes. One without a
/// limit has none with its overhead either.
pub(crate) fn with_overhead(
    own: &cri::LinuxContainerResources,
    overhead: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let sum = |own: i64, more: i64| if own > 0 && more > 0 { own.saturating_add(more) } else { own };
    let same_period = [0, own.cpu_period].contains(&overhead.cpu_period);
    cri::LinuxContainerResources {
        cpu_shares: sum(own.cpu_shares, overhead.cpu_shares),
        cpu_quota: sum(own.cpu_quota, if same_period { overhead.cpu_quota } else { 0 }),
        memory_limit_in_bytes: sum(own.memory_limit_in_bytes, overhead.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: sum(own.memory_swap_limit_in_bytes, overhead.memory_limit_in_bytes),
        ..own.clone()
    }
}

/// Why the kernel refused limits, in the words of who asked for them.
pub(crate) fn refused(error: &strata_cgroup::Error) -> Error {
    use rustix::io::Errno;
    match error {
        // A v1 memory limit that is in use.
        strata_cgroup::Error::Value { errno: Errno::BUSY, .. } => Error::precondition(format!(
            "{error}: more is in use, and cannot be taken away; free it first, or choose a higher limit"
        )),
        strata_cgroup::Error::Value { errno: Errno::ROFS | Errno::IO | Errno::NOMEM, .. } => {
            Error::internal(error.to_string())
        }
        strata_cgroup::Error::Value { .. } | strata_cgroup::Error::NoFile(..) => {
            Error::invalid(error.to_string())
        }
        strata_cgroup::Error::NoController(..)
        | strata_cgroup::Error::Inner(_)
        | strata_cgroup::Error::Devices(..) => Error::precondition(error.to_string()),
        _ => Error::internal(error.to_string()),
    }
}

/// `2MB`: it becomes part of a file's name.
fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|n| !n.is_empty() && n.len() < 10 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// What limits are if new ones that are unset stay as they were.
pub(crate) fn merged(
    old: &cri::LinuxContainerResources,
    new: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let string = |old: &str, new: &str| if new.is_empty() { old.to_owned() } else { new.to_owned() };
    let mut unified = old.unified.clone();
    unified.extend(new.unified.clone());
    cri::LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: string(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: string(&old.cpuset_mems, &new.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() {
            old.hugepage_limits.clone()
        } else {
            new.hugepage_limits.clone()
        },
        unified,
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
    }
}

fn positive(value: i64, what: &str) -> Result<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(n) => Ok(Some(n)),
        Err(_) => Err(Error::invalid(format!("{what} {value}: must not be negative"))),
    }
}

/// A limit: 0 unset, -1 none.
fn limit(value: i64, what: &str) -> Result<Option<i64>> {
    match value {
        0 => Ok(None),
        n if n >= -1 => Ok(Some(n)),
        n => Err(Error::invalid(format!("{what} {n}: must be positive, or -1 for no limit"))),
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_unset_and_minus_one_is_no_limit() {
        assert_eq!(resources(&cri::LinuxContainerResources::default(), 0).unwrap(), Resources::default());
        let asked = cri::LinuxContainerResources {
            cpu_shares: 2,
            cpu_quota: -1,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let r = resources(&asked, 7).unwrap();
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.memory_limit, r.pids_limit),
            (Some(2), Some(-1), Some(64 << 20), Some(7))
        );
        assert_eq!(r.cpuset_cpus.as_deref(), Some("0"));
        for bad in [
            cri::LinuxContainerResources { cpu_shares: -2, ..Default::default() },
            cri::LinuxContainerResources { memory_limit_in_bytes: -5, ..Default::default() },
            cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() },
        ] {
            assert!(resources(&bad, 0).is_err());
        }
    }

    #[test]
    fn only_files_of_controllers_may_be_named() {
        let with = |key: &str| {
            let unified = [(key.to_owned(), "1".to_owned())].into();
            resources(&cri::LinuxContainerResources { unified, ..Default::default() }, 0)
        };
        assert!(with("memory.high").is_ok() && with("hugetlb.2MB.max").is_ok());
        for bad in ["../x.y", "cgroup.procs", "memory/high", "memory", ".x", ""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_huge_pages_are_no_paths() {
        let with = |size: &str| {
            let limit = cri::HugepageLimit { page_size: size.into(), limit: 1 << 21 };
            resources(&cri::LinuxContainerResources { hugepage_limits: vec![limit], ..Default::default() }, 0)
        };
        assert_eq!(with("2MB").unwrap().hugepages, [("2MB".to_owned(), 1 << 21)]);
        assert!(with("1GB").is_ok() && with("64KB").is_ok());
        for bad in ["", "MB", "2M", "2 MB", "../2MB", "2mb", "-2MB"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_belongs_together_is_written_together() {
        let old = cri::LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 10_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        let quota = cri::LinuxContainerResources { cpu_quota: 20_000, ..Default::default() };
        let (all, write) = changed(&old, &quota).unwrap();
        assert_eq!((all.cpu_shares, all.cpu_quota, all.cpu_period), (512, 20_000, 50_000));
        assert_eq!(
            (write.cpu_quota, write.cpu_period, write.memory_limit),
            (Some(20_000), Some(50_000), None)
        );
        let memory = cri::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        let (all, write) = changed(&old, &memory).unwrap();
        assert_eq!((all.memory_limit_in_bytes, all.memory_swap_limit_in_bytes), (96 << 20, 96 << 20));
        assert_eq!((write.memory_limit, write.memory_swap_limit), (Some(96 << 20), Some(96 << 20)));
        let some_swap = cri::LinuxContainerResources { memory_swap_limit_in_bytes: 80 << 20, ..old };
        assert!(changed(&some_swap, &memory).unwrap_err().to_string().contains("memory_swap_limit"));
        let more = cri::LinuxContainerResources { memory_swap_limit_in_bytes: -1, ..memory };
        assert_eq!(changed(&some_swap, &more).unwrap().1.memory_swap_limit, Some(-1));
    }

    #[test]
    fn overhead_is_added_to_limits_only() {
        let own =
            cri::LinuxContainerResources { memory_limit_in_bytes: 10, cpu_shares: 4, ..Default::default() };
        let over =
            cri::LinuxContainerResources { memory_limit_in_bytes: 5, cpu_quota: 7, ..Default::default() };
        let both = with_overhead(&own, &over);
        assert_eq!((both.memory_limit_in_bytes, both.cpu_quota, both.cpu_shares), (15, 0, 4));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let old =
            cri::LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 5, ..Default::default() };
        let new = cri::LinuxContainerResources { memory_limit_in_bytes: 9, ..Default::default() };
        let both = merged(&old, &new);
        assert_eq!((both.cpu_shares, both.memory_limit_in_bytes), (512, 9));
    }
}
