//! Which rules apply to a container, and what they come to for every number.

use super::Error;
use super::arch::{Abi, Arch, X32_BIT};
use super::profile::{Action, Condition, Filter, Profile, Rule};
use std::collections::BTreeMap;

/// A filter's return value (`SECCOMP_RET_*`, linux/seccomp.h).
pub(super) type Return = u32;

/// Kills the process: for calls of an ABI that the profile does not know.
pub(super) const KILL_PROCESS: Return = 0x8000_0000;
const ERRNO: Return = 0x0005_0000;
const ENOSYS: Return = ERRNO | 38;
const EPERM: u32 = 1;
/// `MAX_ERRNO` of linux/err.h: a filter's larger ones are clamped to it.
const MAX_ERRNO: u32 = 4095;

/// What happens to one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Conditions that all must hold, and what then happens: the first that matches.
    pub(super) branches: Vec<(Vec<Condition>, Return)>,
    /// What happens if none matches.
    pub(super) otherwise: Return,
}

impl Verdict {
    fn always(value: Return) -> Self {
        Self { branches: Vec::new(), otherwise: value }
    }
}

/// One ABI's part of a filter.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) abi: Abi,
    /// Verdicts by the first number they hold for, each up to the next one's; the first is at 0, no two neighbours are
    /// the same.
    pub(super) segments: Vec<(u32, Verdict)>,
}

/// The policies of every ABI that the profile names for this machine, the native one first.
pub(super) fn policies(
    profile: &Profile,
    arch: Arch,
    caps: u64,
    kernel: (u32, u32),
) -> Result<Vec<Policy>, Error> {
    let default = value(profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        let value = value(rule.action, rule.errno_ret)?;
        check(rule)?;
        let applies =
            included(&rule.includes, arch, caps, kernel)? && !excluded(&rule.excludes, arch, caps, kernel)?;
        if applies && value != default {
            rules.push((rule, value));
        }
    }
    Ok(abis(profile, arch)
        .into_iter()
        .map(|abi| Policy { abi, segments: segments(profile, abi, &rules, default) })
        .collect())
}

fn abis(profile: &Profile, arch: Arch) -> Vec<Abi> {
    let native = arch.native_abi();
    let mapped = profile.arch_map.iter().filter(|map| map.architecture == native.scmp_name());
    let named: Vec<&str> = profile
        .architectures
        .iter()
        .chain(mapped.flat_map(|map| &map.sub_architectures))
        .map(String::as_str)
        .collect();
    let foreign = Abi::ALL.into_iter().filter(|abi| abi.foreign_on(arch) && named.contains(&abi.scmp_name()));
    std::iter::once(native).chain(foreign).collect()
}

fn value(action: Action, errno: Option<u32>) -> Result<Return, Error> {
    let errno = || match errno.unwrap_or(EPERM) {
        n if n <= MAX_ERRNO => Ok(n),
        n => Err(Error::Errno(n)),
    };
    Ok(match action {
        Action::KillProcess => KILL_PROCESS,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Errno => ERRNO | errno()?,
        Action::Trace => 0x7ff0_0000 | errno()?,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
        Action::Notify => return Err(Error::Notify),
    })
}

fn check(rule: &Rule) -> Result<(), Error> {
    match rule.args.iter().find(|c| c.index > 5) {
        None => Ok(()),
        Some(c) => {
            Err(Error::Argument { name: rule.all_names().next().unwrap_or_default().into(), index: c.index })
        }
    }
}

fn included(filter: &Filter, arch: Arch, caps: u64, kernel: (u32, u32)) -> Result<bool, Error> {
    Ok(filter.caps.iter().all(|name| has(caps, name))
        && (filter.arches.is_empty() || filter.arches.iter().any(|a| a == arch.go_name()))
        && (filter.min_kernel.is_none() || new_enough(filter, kernel)?))
}

fn excluded(filter: &Filter, arch: Arch, caps: u64, kernel: (u32, u32)) -> Result<bool, Error> {
    Ok(filter.caps.iter().any(|name| has(caps, name))
        || filter.arches.iter().any(|a| a == arch.go_name())
        || (filter.min_kernel.is_some() && new_enough(filter, kernel)?))
}

fn has(caps: u64, name: &str) -> bool {
    crate::caps::by_name(name).is_some_and(|bit| caps & bit != 0)
}

fn new_enough(filter: &Filter, kernel: (u32, u32)) -> Result<bool, Error> {
    let Some(text) = &filter.min_kernel else { return Ok(true) };
    let version =
        text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.map(|wanted: (u32, u32)| kernel >= wanted).ok_or_else(|| Error::Kernel(text.clone()))
}

/// Verdicts of the numbers that rules name, filled up with the default one, neighbours merged.
fn segments(profile: &Profile, abi: Abi, rules: &[(&Rule, Return)], default: Return) -> Vec<(u32, Verdict)> {
    let mut named: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut settled: BTreeMap<u32, Return> = BTreeMap::new();
    for (rule, value) in rules {
        for number in rule.all_names().filter_map(|name| abi.number(name)) {
            if rule.args.is_empty() {
                settled.entry(number).or_insert(*value);
            }
            let verdict = named.entry(number).or_insert_with(|| Verdict::always(default));
            verdict.branches.extend(alternatives(rule).into_iter().map(|all| (all, *value)));
        }
    }
    for (number, value) in settled {
        named.insert(number, Verdict::always(value));
    }
    let highest = profile.syscalls.iter().flat_map(Rule::all_names).filter_map(|name| abi.number(name)).max();
    let beyond = if permissive(profile.default_action) || highest.is_none() { default } else { ENOSYS };

    let mut segments: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |from: u32, verdict: Verdict| match segments.last() {
        Some((_, last)) if *last == verdict => {}
        _ => segments.push((from, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in named {
        if number > next {
            push(next, Verdict::always(default));
        }
        push(number, verdict);
        next = number + 1;
    }
    // Numbers that only rules of the default action, or of absent capabilities, name: known, and refused.
    let known = highest.map_or(0, |n| n + 1);
    if known > next {
        push(next, Verdict::always(default));
    }
    push(known.max(next), Verdict::always(beyond));
    if abi == Abi::X86_64 {
        push(X32_BIT, Verdict::always(ENOSYS));
    }
    segments
}

/// A rule's conditions, as lists of which one must hold altogether.
fn alternatives(rule: &Rule) -> Vec<Vec<Condition>> {
    let repeated =
        rule.args.iter().enumerate().any(|(n, c)| rule.args.iter().take(n).any(|d| d.index == c.index));
    if repeated { rule.args.iter().map(|c| vec![*c]).collect() } else { vec![rule.args.clone()] }
}

/// Whether a call that no rule names is made nevertheless.
fn permissive(action: Action) -> bool {
    matches!(action, Action::Allow | Action::Log | Action::Trace | Action::Notify)
}
