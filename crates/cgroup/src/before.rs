//! What limits were, so that they can be taken back.

use crate::group::Group;
use crate::hierarchy::Mode;
use crate::{Error, Resources, Result, file};
use std::path::Path;

impl Group {
    /// What the files say now to which these limits would be written, for [`Self::take_back`]. Rules for devices are not in it.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub fn before(&self, limits: &Resources) -> Result<Resources> {
        let mut before = match self.hierarchy().mode() {
            Mode::V2 => self.before_v2(limits)?,
            Mode::V1 | Mode::Hybrid => self.before_v1(limits)?,
        };
        if let Some(dir) = self.v2_dir() {
            for (name, value) in &limits.unified {
                if !name.contains('/')
                    && let Some(text) = said(&dir.join(name), value)?
                {
                    before.unified.insert(name.clone(), text);
                }
            }
        }
        // A group that is idle has no weight (`set_weight`).
        if before.unified.get("cpu.idle").is_some_and(|idle| idle == "1") {
            before.unified.remove("cpu.weight");
        }
        let (dir, suffix) = match (self.v1_dir("hugetlb"), self.v2_dir()) {
            (Some(dir), _) => (dir, "limit_in_bytes"),
            (None, Some(dir)) => (dir, "max"),
            (None, None) => return Ok(before),
        };
        for (size, _) in &limits.hugepages {
            let limit = file::read_u64(&dir.join(format!("hugetlb.{size}.{suffix}")))?;
            before.hugepages.extend(limit.map(|limit| (size.clone(), limit)));
        }
        Ok(before)
    }

    fn before_v2(&self, limits: &Resources) -> Result<Resources> {
        let mut before = Resources::default();
        let Some(dir) = self.v2_dir() else { return Ok(before) };
        let weight = limits.cpu_shares.is_some() || limits.unified.contains_key("cpu.weight");
        let files = [
            (weight, "cpu.idle"),
            (weight, "cpu.weight"),
            (limits.cpu_quota.is_some() || limits.cpu_period.is_some(), "cpu.max"),
            (limits.memory_limit.is_some(), "memory.max"),
            (limits.memory_swap_limit.is_some(), "memory.swap.max"),
            (limits.pids_limit.is_some(), "pids.max"),
        ];
        for (_, name) in files.into_iter().filter(|(written, _)| *written) {
            if let Some(text) = said(&dir.join(name), "")? {
                before.unified.insert(name.to_owned(), text);
            }
        }
        if limits.cpuset_cpus.is_some() {
            before.cpuset_cpus = said(&dir.join("cpuset.cpus"), "")?;
        }
        if limits.cpuset_mems.is_some() {
            before.cpuset_mems = said(&dir.join("cpuset.mems"), "")?;
        }
        Ok(before)
    }

    fn before_v1(&self, limits: &Resources) -> Result<Resources> {
        let text = |wanted: bool, controller: &str, name: &str| match self.v1_dir(controller) {
            Some(dir) if wanted => said(&dir.join(name), ""),
            _ => Ok(None),
        };
        let number = |wanted: bool, controller: &str, name: &str| {
            let number = |text: String| if text == "max" { Some(-1) } else { text.parse::<i64>().ok() };
            Ok::<_, crate::Error>(text(wanted, controller, name)?.and_then(number))
        };
        let memory = limits.memory_limit.is_some() || limits.memory_swap_limit.is_some();
        let cpu = limits.cpu_quota.is_some() || limits.cpu_period.is_some();
        let unsigned = |n: i64| u64::try_from(n).ok();
        Ok(Resources {
            cpu_shares: number(limits.cpu_shares.is_some(), "cpu", "cpu.shares")?.and_then(unsigned),
            cpu_quota: number(cpu, "cpu", "cpu.cfs_quota_us")?,
            cpu_period: number(cpu, "cpu", "cpu.cfs_period_us")?.and_then(unsigned),
            cpuset_cpus: text(limits.cpuset_cpus.is_some(), "cpuset", "cpuset.cpus")?,
            cpuset_mems: text(limits.cpuset_mems.is_some(), "cpuset", "cpuset.mems")?,
            memory_limit: number(memory, "memory", "memory.limit_in_bytes")?,
            memory_swap_limit: number(memory, "memory", "memory.memsw.limit_in_bytes")?,
            pids_limit: number(limits.pids_limit.is_some(), "pids", "pids.max")?,
            ..Resources::default()
        })
    }
}

impl Group {
    /// Takes limits back that were applied, all of them or some: writes what [`Self::before`] said to those files that say something
    /// else now, and to no other, also where there was no limit before. What cannot be written keeps nothing else from it.
    #[must_use = "what could not be taken back"]
    pub fn take_back(&self, limits: &Resources, before: &Resources) -> Vec<Error> {
        let changed = self.before(limits).and_then(|now| {
            let mut changed = without(before, &now);
            changed.cpuset_cpus = self.set_or_from_above("cpuset.cpus", changed.cpuset_cpus)?;
            changed.cpuset_mems = self.set_or_from_above("cpuset.mems", changed.cpuset_mems)?;
            Ok(changed)
        });
        match changed {
            Ok(changed) => parts(changed).iter().filter_map(|part| self.apply(part).err()).collect(),
            Err(e) => vec![e],
        }
    }

    /// A set that has been changed, as it can be taken back on v2: while the group has processes it cannot be told to have none of its
    /// own any more (`ENOSPC`), but it can be given what it would have from above.
    fn set_or_from_above(&self, name: &str, set: Option<String>) -> Result<Option<String>> {
        match (self.v2_dir().as_deref().and_then(Path::parent), set.as_deref()) {
            (Some(above), Some("\n")) => said(&above.join(format!("{name}.effective")), ""),
            _ => Ok(set),
        }
    }
}

/// What of limits is something else now.
fn without(before: &Resources, now: &Resources) -> Resources {
    fn unless<T: Clone + PartialEq>(before: &Option<T>, now: &Option<T>) -> Option<T> {
        before.clone().filter(|_| before != now)
    }
    let mut unified = before.unified.clone();
    unified.retain(|name, text| now.unified.get(name) != Some(text));
    Resources {
        cpu_shares: unless(&before.cpu_shares, &now.cpu_shares),
        cpu_quota: unless(&before.cpu_quota, &now.cpu_quota),
        cpu_period: unless(&before.cpu_period, &now.cpu_period),
        cpuset_cpus: unless(&before.cpuset_cpus, &now.cpuset_cpus),
        cpuset_mems: unless(&before.cpuset_mems, &now.cpuset_mems),
        memory_limit: unless(&before.memory_limit, &now.memory_limit),
        memory_swap_limit: unless(&before.memory_swap_limit, &now.memory_swap_limit),
        pids_limit: unless(&before.pids_limit, &now.pids_limit),
        hugepages: before.hugepages.iter().filter(|limit| !now.hugepages.contains(limit)).cloned().collect(),
        unified,
        devices: None,
    }
}

/// Limits that do not depend on each other, one by one.
fn parts(all: Resources) -> Vec<Resources> {
    let none = Resources::default;
    let mut parts = vec![
        Resources { cpu_shares: all.cpu_shares, ..none() },
        Resources { cpu_quota: all.cpu_quota, cpu_period: all.cpu_period, ..none() },
        Resources { cpuset_cpus: all.cpuset_cpus, ..none() },
        Resources { cpuset_mems: all.cpuset_mems, ..none() },
        Resources { memory_limit: all.memory_limit, memory_swap_limit: all.memory_swap_limit, ..none() },
        Resources { pids_limit: all.pids_limit, ..none() },
    ];
    parts.extend(all.hugepages.into_iter().map(|limit| Resources { hugepages: vec![limit], ..none() }));
    // In the order of their names: `cpu.idle` before `cpu.weight`, which an idle group has not.
    parts.extend(all.unified.into_iter().map(|file| Resources { unified: [file].into(), ..none() }));
    parts
}

/// What takes `value` back when it is written to a file instead: its text, or of files with a line for each device that line.
/// `None`: there is no such file, or no way back is known.
fn said(path: &Path, value: &str) -> Result<Option<String>> {
    let Some(text) = file::read_if_there(path)? else { return Ok(None) };
    let key = value.split_whitespace().next().filter(|word| word.contains(':'));
    let Some(device) = key else {
        let first = text.lines().next().unwrap_or_default().trim();
        // To write nothing would change nothing.
        return Ok(Some(if first.is_empty() { "\n".to_owned() } else { first.to_owned() }));
    };
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(device));
    let none = || match path.file_name()?.to_str()? {
        "io.max" => Some(format!("{device} rbps=max wbps=max riops=max wiops=max")),
        "io.weight" | "io.bfq.weight" => Some(format!("{device} default")),
        "io.latency" => Some(format!("{device} target=0")),
        _ => None,
    };
    Ok(line.map(str::to_owned).or_else(none))
}
