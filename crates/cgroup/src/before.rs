//! What limits were, so that they can be taken back.

use crate::group::Group;
use crate::hierarchy::Mode;
use crate::{Resources, Result, file};
use std::path::Path;

impl Group {
    /// What the files say now to which these limits would be written: to apply it takes them back, also where there was no limit
    /// before. Rules for devices are not in it.
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
        // While it has processes it cannot be told to have none of its own any more (`ENOSPC`): it keeps what it had from above.
        let set = |name: &str| match said(&dir.join(name), "")? {
            Some(none) if none == "\n" => said(&dir.join(format!("{name}.effective")), ""),
            other => Ok(other),
        };
        if limits.cpuset_cpus.is_some() {
            before.cpuset_cpus = set("cpuset.cpus")?;
        }
        if limits.cpuset_mems.is_some() {
            before.cpuset_mems = set("cpuset.mems")?;
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
