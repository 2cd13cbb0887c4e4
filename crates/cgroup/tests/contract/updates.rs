//! Each limit is changed while processes run, to more and to less, and a change is taken back.

use super::{Guard, Private, skip, soon};
use std::io::Write;
use std::process::{Command, Stdio};
use strata_cgroup::Resources;

fn unified(settings: &[(&str, &str)]) -> Resources {
    let unified = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Resources { unified, ..Resources::default() }
}

/// A line of a process's status.
fn status(process: &Guard, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap().trim().to_owned()
}

/// A whole disk: partitions have no limits of their own.
pub(super) fn disk() -> Option<String> {
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let disk = disks.map(|e| e.path()).find(|disk| disk.join("device").exists())?;
    Some(std::fs::read_to_string(disk.join("dev")).unwrap().trim().to_owned())
}

#[test]
fn a_running_process_moves_to_other_cpus() {
    let Some(private) = Private::new() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return skip("one CPU only");
    }
    let child = private.spawn("exec sleep 100");
    for cpus in ["0", "1", "0-1", "0"] {
        let limits = Resources { cpuset_cpus: Some(cpus.into()), ..Resources::default() };
        private.0.apply(&limits).unwrap();
        assert_eq!(private.reads("cpuset", "cpuset.cpus", "cpuset.cpus"), cpus);
        soon("it may run there", || status(&child, "Cpus_allowed_list") == cpus);
    }
}

#[test]
fn a_running_process_is_given_memory_nodes() {
    let Some(private) = Private::new() else { return };
    let child = private.spawn("exec sleep 100");
    let nodes = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_else(|_| "0".into());
    // One after the other, and all of them; on most machines that is the only one.
    for mems in ["0", nodes.trim(), "0"] {
        let limits = Resources { cpuset_mems: Some(mems.into()), ..Resources::default() };
        private.0.apply(&limits).unwrap();
        assert_eq!(private.reads("cpuset", "cpuset.mems", "cpuset.mems"), mems);
        soon("it has them", || status(&child, "Mems_allowed_list") == mems);
    }
    let limits = Resources { cpuset_mems: Some("1000".into()), ..Resources::default() };
    let error = private.0.apply(&limits).unwrap_err();
    assert!(error.to_string().contains("cpuset.mems cannot be set to \"1000\""), "{error}");
    assert_eq!(private.reads("cpuset", "cpuset.mems", "cpuset.mems"), "0");
}

#[test]
fn a_running_process_may_make_others_up_to_the_limit_of_the_moment() {
    let Some(private) = Private::new() else { return };
    let limit = |n| private.0.apply(&Resources { pids_limit: Some(n), ..Resources::default() }).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "while read go; do sleep 100 & done"]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut shell = Guard(shell.spawn().unwrap());
    private.0.add(i32::try_from(shell.0.id()).unwrap()).unwrap();
    let mut orders = shell.0.stdin.take().unwrap();
    let mut one_more = || orders.write_all(b"go\n").unwrap();
    let count = || private.0.procs().unwrap().len();
    limit(2);
    one_more();
    soon("one is made", || count() == 2);
    limit(3);
    one_more();
    soon("there is room for another", || count() == 3);
    // Fewer than there are: they stay.
    limit(2);
    assert_eq!((private.reads("pids", "pids.max", "pids.max").as_str(), count()), ("2", 3));
    one_more();
    soon("the shell gives up", || shell.0.try_wait().unwrap().is_some_and(|how| !how.success()));
    limit(-1);
    assert_eq!(private.reads("pids", "pids.max", "pids.max"), "max");
}

#[test]
fn huge_pages_are_limited_to_more_and_to_less() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("exec sleep 100");
    let dir = private.0.v1_dir("hugetlb").or_else(|| private.0.v2_dir()).unwrap();
    let suffix = if private.0.v1_dir("hugetlb").is_some() { "limit_in_bytes" } else { "max" };
    for bytes in [4 << 20, 8 << 20, 0_u64] {
        let limits = Resources { hugepages: vec![("2MB".into(), bytes)], ..Resources::default() };
        match private.0.apply(&limits) {
            Err(e) if !private.v2() => return skip(&format!("no hugetlb controller here: {e}")),
            done => done.unwrap(),
        }
        for name in [format!("hugetlb.2MB.{suffix}"), format!("hugetlb.2MB.rsvd.{suffix}")] {
            assert_eq!(std::fs::read_to_string(dir.join(&name)).unwrap().trim(), bytes.to_string(), "{name}");
        }
    }
}

#[test]
fn each_of_v2_s_own_files_is_changed_under_a_running_process() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let _child = private.spawn("exec sleep 100");
    let Some(disk) = disk() else { return skip("no disk") };
    let few = format!("{disk} rbps=1048576 wbps=max riops=max wiops=100");
    let many = format!("{disk} rbps=max wbps=max riops=5000 wiops=100000");
    let none = format!("{disk} rbps=max wbps=max riops=max wiops=max");
    for (name, values) in [
        ("memory.min", ["4194304", "8388608", "0"]),
        ("memory.low", ["8388608", "16777216", "0"]),
        ("memory.high", ["50331648", "67108864", "max"]),
        ("memory.swap.max", ["0", "8388608", "max"]),
        ("memory.oom.group", ["1", "0", "1"]),
        ("cpu.weight", ["10000", "1", "100"]),
        ("cpu.max", ["50000 100000", "150000 100000", "max 100000"]),
        ("cpu.idle", ["1", "0", "1"]),
        ("pids.max", ["5", "50", "max"]),
        ("io.max", [&few, &many, &none]),
    ] {
        for value in values {
            private.0.apply(&unified(&[(name, value)])).unwrap();
            let want = if value == none { "" } else { value };
            assert_eq!(private.reads("", "", name), want, "{name}");
        }
    }
}

#[test]
fn the_oom_group_of_the_moment_decides_who_else_is_killed() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let limit = Some(16 << 20);
    let group = |value| Resources {
        memory_limit: limit,
        memory_swap_limit: limit,
        ..unified(&[("memory.oom.group", value)])
    };
    let mut innocent = private.spawn("exec sleep 1000");
    for (value, spares) in [("1", false), ("0", true), ("1", false)] {
        private.0.apply(&group(value)).unwrap();
        let mut greedy = private.spawn("exec tail /dev/zero");
        assert!(!greedy.0.wait().unwrap().success());
        if spares {
            assert!(innocent.0.try_wait().unwrap().is_none(), "it was killed with memory.oom.group = 0");
        } else {
            assert!(!innocent.0.wait().unwrap().success());
            innocent = private.spawn("exec sleep 1000");
        }
    }
}

/// Everything that a change of these limits writes, as it is.
fn files(private: &Private) -> Vec<String> {
    let v1 = [
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("cpuset", "cpuset.cpus"),
        ("cpuset", "cpuset.mems"),
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
    ];
    let v2 = [
        "cpu.weight",
        "cpu.max",
        "cpu.idle",
        "cpuset.cpus.effective",
        "cpuset.mems.effective",
        "memory.max",
        "memory.swap.max",
    ]
    .into_iter()
    .chain(["memory.high", "memory.low", "memory.oom.group", "pids.max", "io.max", "hugetlb.2MB.max"]);
    match private.v2() {
        true => v2.map(|name| format!("{name} = {}", private.reads("", "", name))).collect(),
        false => v1.map(|(of, name)| format!("{name} = {}", private.reads(of, name, ""))).into(),
    }
}

#[track_caller]
fn taken_back(private: &Private, limits: &Resources, before: &Resources) {
    let left = private.0.take_back(limits, before);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_change_is_taken_back_also_where_nothing_was_limited() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("exec sleep 100");
    let mut wanted = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(50_000),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(96 << 20),
        pids_limit: Some(20),
        ..Resources::default()
    };
    if private.v2() {
        let Some(disk) = disk() else { return skip("no disk") };
        let io = format!("{disk} wbps=1048576");
        let settings = [
            ("memory.high", "50331648"),
            ("memory.low", "8388608"),
            ("memory.oom.group", "1"),
            ("io.max", &io),
        ];
        wanted.unified = unified(&settings).unified;
        wanted.hugepages = vec![("2MB".into(), 4 << 20)];
    }
    let untouched = files(&private);
    let before = private.0.before(&wanted).unwrap();
    private.0.apply(&wanted).unwrap();
    let limited = files(&private);
    let changed = untouched.iter().zip(&limited).filter(|(before, after)| before != after).count();
    assert!(changed >= 5, "{untouched:?} {limited:?}");
    taken_back(&private, &wanted, &before);
    assert_eq!(files(&private), untouched);

    // Of a limit, and of an idle group, which has no weight.
    private.0.apply(&wanted).unwrap();
    let mut other = Resources { memory_limit: Some(32 << 20), cpu_shares: Some(2), ..Resources::default() };
    if private.v2() {
        private.0.apply(&unified(&[("cpu.idle", "1")])).unwrap();
        other.unified = unified(&[("cpu.idle", "0"), ("memory.high", "max")]).unified;
    }
    let limited = files(&private);
    let before = private.0.before(&other).unwrap();
    private.0.apply(&other).unwrap();
    assert_ne!(files(&private), limited);
    taken_back(&private, &other, &before);
    assert_eq!(files(&private), limited);
}

#[test]
fn what_a_refused_change_did_not_touch_is_not_written() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("exec sleep 100");
    let sets = || {
        let set = |name: &str| private.reads("cpuset", name, name);
        (set("cpuset.cpus"), set("cpuset.mems"))
    };
    let untouched = (sets(), files(&private));
    // On v2 it has no sets of its own, and gets none by one that is refused.
    assert_eq!(private.v2(), untouched.0 == (String::new(), String::new()), "{untouched:?}");
    for refused in [
        Resources { cpu_shares: Some(512), cpuset_cpus: Some("8000".into()), ..Resources::default() },
        Resources { cpu_shares: Some(512), cpuset_mems: Some("8000".into()), ..Resources::default() },
    ] {
        let before = private.0.before(&refused).unwrap();
        let error = private.0.apply(&refused).unwrap_err();
        assert!(error.to_string().contains("8000"), "{error}");
        assert_ne!(files(&private), untouched.1, "the weight has been changed");
        taken_back(&private, &refused, &before);
        assert_eq!((sets(), files(&private)), untouched);
    }
}

#[test]
fn what_cannot_be_taken_back_is_told_and_keeps_nothing_else() {
    let Some(private) = Private::new() else { return };
    let cpus = private.reads("cpuset", "cpuset.cpus", "cpuset.cpus.effective");
    // v2 takes any set, whatever there is above.
    if private.v2() || cpus == "0" {
        return;
    }
    let _child = private.spawn("exec sleep 100");
    let wanted = Resources {
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(20),
        ..Resources::default()
    };
    let before = private.0.before(&wanted).unwrap();
    private.0.apply(&wanted).unwrap();
    let above = private.0.v1_dir("cpuset").unwrap().join("../cpuset.cpus");
    std::fs::write(above, "0").unwrap();
    let left = private.0.take_back(&wanted, &before);
    let told: Vec<_> = left.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("cpuset.cpus") && told[0].contains(&cpus), "{told:?}");
    let now = |of: &str, name: &str| private.reads(of, name, "");
    let now = (now("cpu", "cpu.shares"), now("pids", "pids.max"), now("cpuset", "cpuset.cpus"));
    assert_eq!(now, ("1024".into(), "max".into(), "0".into()));
}
