//! Limits, and what happens at them.

use super::{Private, skip};
use strata_cgroup::{Error, Resources};

fn unified(name: &str, value: &str) -> Resources {
    Resources { unified: [(name.to_owned(), value.to_owned())].into(), ..Resources::default() }
}

#[test]
fn limits_go_up_and_down_while_processes_run() {
    let Some(private) = Private::new() else { return };
    let group = &private.0;
    let _child = private.spawn("exec sleep 100");
    for memory in [64 << 20, 256 << 20, 32 << 20] {
        let limits = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(memory),
            memory_swap_limit: Some(memory),
            pids_limit: Some(20),
            cpuset_cpus: Some("0".into()),
            ..Resources::default()
        };
        group.apply(&limits).unwrap();
        assert_eq!(group.stats().unwrap().memory_limit, Some(u64::try_from(memory).unwrap()));
    }
    let error =
        group.apply(&Resources { cpuset_cpus: Some("4000".into()), ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus cannot be set to \"4000\""), "{error}");
}

#[test]
fn processes_beyond_the_limit_cannot_be_made() {
    let Some(private) = Private::new() else { return };
    let limit = |n| private.0.apply(&Resources { pids_limit: Some(n), ..Resources::default() }).unwrap();
    limit(1);
    let mut child = private.spawn("(:) 2>/dev/null");
    assert!(!child.0.wait().unwrap().success());
    limit(-1);
    let mut child = private.spawn("(:)");
    assert!(child.0.wait().unwrap().success());
    assert_eq!(private.0.stats().unwrap().pids_limit, None);
}

#[test]
fn cpu_limits_arrive_in_the_kernel_s_words() {
    let Some(private) = Private::new() else { return };
    let _child = private.spawn("exec sleep 100");
    let set = |quota, period| Resources { cpu_quota: quota, cpu_period: period, ..Resources::default() };
    private.0.apply(&Resources { cpu_shares: Some(1024), ..Resources::default() }).unwrap();
    let want = if private.v2() { "100" } else { "1024" };
    assert_eq!(private.reads("cpu", "cpu.shares", "cpu.weight"), want);
    private.0.apply(&set(Some(20_000), Some(50_000))).unwrap();
    let want = if private.v2() { "20000 50000" } else { "20000" };
    assert_eq!(private.reads("cpu", "cpu.cfs_quota_us", "cpu.max"), want);
    private.0.apply(&set(Some(-1), Some(100_000))).unwrap();
    let want = if private.v2() { "max 100000" } else { "-1" };
    assert_eq!(private.reads("cpu", "cpu.cfs_quota_us", "cpu.max"), want);
}

#[test]
fn an_idle_group_has_no_weight_until_it_is_none_any_more() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let weight = Resources { cpu_shares: Some(512), ..Resources::default() };
    private.0.apply(&Resources { cpu_shares: Some(2), ..unified("cpu.idle", "1") }).unwrap();
    private.0.apply(&weight).unwrap();
    assert_eq!(private.reads("", "", "cpu.idle"), "1");
    private.0.apply(&Resources { cpu_shares: Some(262_144), ..unified("cpu.idle", "0") }).unwrap();
    assert_eq!(private.reads("", "", "cpu.weight"), "10000");
}

#[test]
fn memory_is_limited_in_each_of_v2_s_ways() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let _child = private.spawn("exec sleep 100");
    let more = [("memory.high", "50331648"), ("memory.low", "8388608"), ("memory.min", "4194304")];
    let limits = Resources {
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(96 << 20),
        unified: more.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Resources::default()
    };
    private.0.apply(&limits).unwrap();
    for (name, value) in more {
        assert_eq!(private.reads("", "", name), value, "{name}");
    }
    assert_eq!(private.reads("", "", "memory.max"), (64 << 20).to_string());
    assert_eq!(private.reads("", "", "memory.swap.max"), (32 << 20).to_string());
    // Against the memory that was given before.
    private.0.apply(&Resources { memory_swap_limit: Some(64 << 20), ..Resources::default() }).unwrap();
    assert_eq!(private.reads("", "", "memory.swap.max"), "0");
    private
        .0
        .apply(&Resources {
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            ..unified("memory.high", "max")
        })
        .unwrap();
    assert_eq!(private.reads("", "", "memory.max"), "max");
    assert_eq!(private.reads("", "", "memory.swap.max"), "max");
}

#[test]
fn huge_pages_and_their_reservations_are_limited() {
    let Some(private) = Private::new() else { return };
    let dir = private.0.v1_dir("hugetlb").or_else(|| private.0.v2_dir()).unwrap();
    let suffix = if private.0.v1_dir("hugetlb").is_some() { "limit_in_bytes" } else { "max" };
    let limits = Resources { hugepages: vec![("2MB".into(), 4 << 20)], ..Resources::default() };
    match private.0.apply(&limits) {
        Err(e) if !private.v2() => return skip(&format!("no hugetlb controller here: {e}")),
        done => done.unwrap(),
    }
    for name in [format!("hugetlb.2MB.{suffix}"), format!("hugetlb.2MB.rsvd.{suffix}")] {
        assert_eq!(std::fs::read_to_string(dir.join(&name)).unwrap().trim(), (4 << 20).to_string(), "{name}");
    }
}

#[test]
fn transfers_are_limited_by_device() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let Some(number) = super::updates::disk() else { return skip("no disk") };
    private.0.apply(&unified("io.max", &format!("{number} wbps=1048576"))).unwrap();
    assert!(private.reads("", "", "io.max").contains("wbps=1048576"));
    private.0.apply(&unified("io.max", &format!("{number} wbps=max"))).unwrap();
    assert_eq!(private.reads("", "", "io.max"), "");
}

#[test]
fn settings_that_are_none_are_refused_by_name() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    for name in ["memory.hihg", "../cpu.max", "nonsense"] {
        let error = private.0.apply(&unified(name, "1")).unwrap_err();
        assert!(matches!(&error, Error::NoFile(_, file) if file == name), "{error}");
    }
    let error = private.0.apply(&unified("memory.high", "many")).unwrap_err().to_string();
    assert!(error.contains("memory.high cannot be set to \"many\""), "{error}");
    // A group below one that has processes has no controllers.
    let below = private.0.child("below").unwrap();
    below.create_in(&[]).unwrap();
    let error = below.apply(&Resources { pids_limit: Some(5), ..Resources::default() }).unwrap_err();
    assert!(matches!(error, Error::NoController("pids", _)), "{error}");
}

#[test]
fn the_kernel_s_oom_kills_are_counted() {
    let Some(private) = Private::new() else { return };
    let limit = 16 << 20;
    private
        .0
        .apply(&Resources {
            memory_limit: Some(limit),
            memory_swap_limit: Some(limit),
            ..Resources::default()
        })
        .unwrap();
    let mut child = private.spawn("sleep 0.2; exec tail /dev/zero");
    let status = child.0.wait().unwrap();
    assert!(!status.success());
    assert_eq!(private.0.oom_kills().unwrap(), 1);
}

#[test]
fn an_oom_kill_is_counted_when_its_victim_is_reaped() {
    let Some(private) = Private::new() else { return };
    let limit = Some(16 << 20);
    let limits = Resources { memory_limit: limit, memory_swap_limit: limit, ..Resources::default() };
    private.0.apply(&limits).unwrap();
    for nth in 1..=5 {
        let mut child = private.spawn("exec tail /dev/zero");
        child.0.wait().unwrap();
        assert_eq!(private.0.oom_kills().unwrap(), nth);
    }
}

#[test]
fn with_oom_group_one_that_takes_too_much_takes_all_with_it() {
    let Some(private) = Private::new().and_then(Private::if_v2) else { return };
    let limit = Some(16 << 20);
    let limits =
        Resources { memory_limit: limit, memory_swap_limit: limit, ..unified("memory.oom.group", "1") };
    private.0.apply(&limits).unwrap();
    let mut innocent = private.spawn("exec sleep 1000");
    let mut greedy = private.spawn("exec tail /dev/zero");
    assert!(!greedy.0.wait().unwrap().success());
    assert!(!innocent.0.wait().unwrap().success());
    // The kernel counts the one that it has chosen once more.
    assert!(private.0.oom_kills().unwrap() >= 2);
}
