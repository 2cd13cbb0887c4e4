//! Limits: from CRI's words to the cgroup crate's.

use crate::error::{Error, Result};
use strata_api::cri;
use strata_cgroup::{DeviceRule, Hierarchy, Resources};

/// The limits that a container asks for. Unset (zero) ones stay unset.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for negative numbers where the kernel has no meaning for
/// them, and for names of cgroup v2 files that are none.
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
pub(crate) fn fit(
    mut wanted: Resources,
    node: &Hierarchy,
    devices: Vec<DeviceRule>,
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
    wanted.devices = Some(devices);
    (wanted, left_out)
}

/// What a container's limits are after an update that leaves out what stays.
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
    fn an_update_keeps_what_it_does_not_name() {
        let old =
            cri::LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 5, ..Default::default() };
        let new = cri::LinuxContainerResources { memory_limit_in_bytes: 9, ..Default::default() };
        let both = merged(&old, &new);
        assert_eq!((both.cpu_shares, both.memory_limit_in_bytes), (512, 9));
    }
}
