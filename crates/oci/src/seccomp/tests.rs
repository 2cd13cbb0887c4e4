//! Filters, run by an interpreter of our own, against the rules read one by one.

use super::arch::{Abi, X32_BIT};
use super::*;
use proptest::prelude::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0000 | 38;
const KILL_PROCESS: u32 = 0x8000_0000;
const KERNEL: (u32, u32) = (6, 18);

/// Runs a filter on `struct seccomp_data` as bpf(4) and linux/filter.h say.
fn run(filter: &[u8], audit: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::from(number.to_ne_bytes());
    data.extend(audit.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
    let program: Vec<_> = filter
        .chunks_exact(8)
        .map(|b| (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]])))
        .collect();
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let (code, yes, no, k) = program[at];
        at += 1;
        let jump = |holds: bool| at + usize::from(if holds { yes } else { no });
        match code {
            0x20 => {
                let from = k as usize;
                assert!(from.is_multiple_of(4) && from + 4 <= 64);
                a = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at = jump(a == k),
            0x25 => at = jump(a > k),
            0x35 => at = jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Allow => ALLOW,
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1),
        Action::KillThread => 0,
        Action::KillProcess => KILL_PROCESS,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace => 0x7ff0_0000 | errno.unwrap_or(1),
        Action::Notify => unreachable!(),
    }
}

fn holds(c: &Condition, args: [u64; 6], wide: bool) -> bool {
    let cut = |v: u64| if wide { v } else { v & 0xffff_ffff };
    let (arg, value, two) = (cut(args[c.index as usize]), cut(c.value), cut(c.value_two));
    match c.op {
        Operator::Equal => arg == value,
        Operator::NotEqual => arg != value,
        Operator::Greater => arg > value,
        Operator::GreaterOrEqual => arg >= value,
        Operator::Less => arg < value,
        Operator::LessOrEqual => arg <= value,
        Operator::MaskedEqual => arg & value == two & value,
    }
}

fn rule_holds(rule: &Rule, args: [u64; 6], wide: bool) -> bool {
    let mut seen = std::collections::HashSet::new();
    if rule.args.iter().any(|c| !seen.insert(c.index)) {
        rule.args.iter().any(|c| holds(c, args, wide))
    } else {
        rule.args.iter().all(|c| holds(c, args, wide))
    }
}

/// The rules one by one, with none of the compiler's data structures.
fn naive(profile: &Profile, caps: u64, abi: Abi, number: u32, args: [u64; 6]) -> u32 {
    if abi == Abi::X86_64 && number >= X32_BIT {
        return ENOSYS;
    }
    let default = value(profile.default_action, profile.default_errno_ret);
    let has = |name: &String| caps & crate::caps::by_name(name).unwrap_or(0) != 0;
    let kernel = |text: &Option<String>| match text.as_deref() {
        None => true,
        Some("4.8") => KERNEL >= (4, 8),
        Some(other) => panic!("{other}"),
    };
    let amd64 = |arches: &[String]| arches.iter().any(|a| a == "amd64");
    let named = |rule: &Rule| rule.all_names().any(|n| abi.number(n) == Some(number));
    let matching = || {
        profile.syscalls.iter().filter(|rule| {
            named(rule)
                && value(rule.action, rule.errno_ret) != default
                && rule.includes.caps.iter().all(has)
                && (rule.includes.arches.is_empty() || amd64(&rule.includes.arches))
                && kernel(&rule.includes.min_kernel)
                && !rule.excludes.caps.iter().any(has)
                && !amd64(&rule.excludes.arches)
        })
    };
    if let Some(rule) = matching().find(|r| r.args.is_empty()) {
        return value(rule.action, rule.errno_ret);
    }
    if let Some(rule) = matching().find(|r| rule_holds(r, args, abi.wide())) {
        return value(rule.action, rule.errno_ret);
    }
    let newer = profile.syscalls.iter().flat_map(Rule::all_names).filter_map(|n| abi.number(n)).max();
    let open = matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace);
    if newer.is_some_and(|highest| number > highest) && !open { ENOSYS } else { default }
}

/// Values around everything that a profile compares with.
fn interesting(profile: &Profile) -> Vec<u64> {
    let mut all = vec![0, 1, u64::MAX, 0xffff_ffff, 1 << 32];
    for c in profile.syscalls.iter().flat_map(|r| &r.args) {
        for v in [c.value, c.value_two, c.value | c.value_two] {
            all.extend([
                v,
                v.wrapping_add(1),
                v.wrapping_sub(1),
                v | 1 << 32,
                v ^ (1 << 63),
                v & 0xffff_ffff,
            ]);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn numbers(abi: Abi) -> impl Iterator<Item = u32> {
    let x32 = if abi == Abi::X86_64 { X32_BIT } else { 0x7fff_ffff };
    (0..600).chain([x32 - 1, x32, x32 + 1, x32 + 59, u32::MAX])
}

#[test]
fn the_default_profile_decides_as_its_rules_do() {
    let profile = Profile::default_profile();
    let admin = 1 << 21;
    for caps in [crate::caps::default_mask(), 0, admin, u64::MAX] {
        let filter = compile(profile, Arch::X86_64, caps, KERNEL).unwrap();
        for abi in [Abi::X86_64, Abi::I386] {
            let conditional: Vec<u32> = profile
                .syscalls
                .iter()
                .filter(|rule| !rule.args.is_empty())
                .flat_map(|rule| rule.all_names().filter_map(|name| abi.number(name)))
                .collect();
            let all = interesting(profile);
            for number in numbers(abi) {
                let values = if conditional.contains(&number) { all.as_slice() } else { &all[..2] };
                for v in values.iter().copied() {
                    let args = [v, 0, v, 0, 0, v];
                    let expected = naive(profile, caps, abi, number, args);
                    assert_eq!(run(&filter, abi.audit(), number, args), expected, "{abi:?} {number} {v:#x}");
                }
            }
        }
        assert_eq!(run(&filter, Abi::Aarch64.audit(), 63, [0; 6]), KILL_PROCESS);
    }
}

#[test]
fn the_default_profile_on_arm() {
    let filter = compile(Profile::default_profile(), Arch::Aarch64, 0, KERNEL).unwrap();
    let call =
        |name: &str, arg| run(&filter, Abi::Aarch64.audit(), Abi::Aarch64.number(name).unwrap(), [arg; 6]);
    assert_eq!(call("openat", 0), ALLOW);
    assert_eq!(call("mount", 0), EPERM);
    assert_eq!(call("clone3", 0), ENOSYS);
    assert_eq!(run(&filter, Abi::X86_64.audit(), 0, [0; 6]), KILL_PROCESS);
}

#[test]
fn what_containers_rely_on() {
    let call = |caps: u64, kernel, name: &str, arg: u64| {
        let filter = compile(Profile::default_profile(), Arch::X86_64, caps, kernel).unwrap();
        run(&filter, Abi::X86_64.audit(), Abi::X86_64.number(name).unwrap(), [arg, 0, 0, 0, 0, 0])
    };
    let plain = crate::caps::default_mask();
    assert_eq!(call(plain, KERNEL, "read", 0), ALLOW);
    assert_eq!(call(plain, KERNEL, "socket", 2), ALLOW);
    assert_eq!(call(plain, KERNEL, "socket", 16), ALLOW);
    assert_eq!(call(plain, KERNEL, "socket", 40), EPERM, "VSOCK");
    assert_eq!(call(plain, KERNEL, "socket", 1 << 32 | 40), EPERM, "VSOCK, as the kernel sees it");
    assert_eq!(call(plain, KERNEL, "clone", 0x10f00), ALLOW, "a thread");
    assert_eq!(call(plain, KERNEL, "clone", 0x1000_0000), EPERM, "CLONE_NEWUSER");
    assert_eq!(call(1 << 21, KERNEL, "clone", 0x1000_0000), ALLOW);
    assert_eq!(call(plain, KERNEL, "clone3", 0), ENOSYS);
    assert_eq!(call(plain, KERNEL, "unshare", 0), EPERM);
    assert_eq!(call(plain, KERNEL, "personality", 0xffff_ffff), ALLOW);
    assert_eq!(call(plain, KERNEL, "personality", 0x0040_0000), EPERM, "ADDR_NO_RANDOMIZE");
    assert_eq!(call(plain, KERNEL, "ptrace", 0), ALLOW);
    assert_eq!(call(plain, (4, 7), "ptrace", 0), EPERM);
    assert_eq!(call(plain, KERNEL, "keyctl", 0), EPERM);
    assert_eq!(call(plain, KERNEL, "io_uring_setup", 0), EPERM);
    assert_eq!(call(plain, KERNEL, "file_setattr", 0), ENOSYS, "newer than the profile");
    assert_eq!(call(plain, KERNEL, "chroot", 0), ALLOW);
    assert_eq!(call(0, KERNEL, "chroot", 0), EPERM);
    assert_eq!(call(1 << 39, KERNEL, "bpf", 0), ALLOW);
}

#[test]
fn profiles_that_make_no_filter_say_why() {
    let compile_text =
        |text: &str| compile(&Profile::parse(text.as_bytes()).unwrap(), Arch::X86_64, 0, KERNEL);
    let rule = |rest: &str| {
        compile_text(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],{rest}}}]}}"#
        ))
    };
    assert_eq!(rule(r#""action":"SCMP_ACT_NOTIFY""#).unwrap_err(), Error::Notify);
    assert_eq!(rule(r#""action":"SCMP_ACT_ERRNO","errnoRet":4096"#).unwrap_err(), Error::Errno(4096));
    let kernel = rule(r#""action":"SCMP_ACT_ERRNO","includes":{"minKernel":"five"}"#);
    assert_eq!(kernel.unwrap_err(), Error::Kernel("five".into()));
    let argument = rule(r#""action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#);
    assert!(matches!(argument.unwrap_err(), Error::Argument { index: 6, .. }));
    let many: Vec<_> =
        (0..2000).map(|v| format!(r#"{{"index":0,"value":{v},"op":"SCMP_CMP_EQ"}}"#)).collect();
    let long = rule(&format!(r#""action":"SCMP_ACT_ERRNO","args":[{}]"#, many.join(",")));
    assert!(matches!(long.unwrap_err(), Error::TooLong(n) if n > 4096));
}

#[test]
fn the_kernel_takes_the_default_filter() {
    let Some(arch) = Arch::native() else { return };
    let filter = compile(Profile::default_profile(), arch, crate::caps::default_mask(), KERNEL).unwrap();
    let vsock = std::thread::spawn(move || {
        strata_sys::process::set_no_new_privs().unwrap();
        strata_sys::seccomp::load(&filter, 0).unwrap();
        // Threads, processes and sockets as usual; the C library falls back from clone3.
        std::thread::spawn(|| ()).join().unwrap();
        assert!(std::process::Command::new("true").status().unwrap().success());
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::socket(rustix::net::AddressFamily::from_raw(40), rustix::net::SocketType::STREAM, None)
            .map(drop)
    });
    assert_eq!(vsock.join().unwrap(), Err(rustix::io::Errno::PERM));
}

#[test]
fn the_default_filter_is_a_short_tree() {
    let filter =
        compile(Profile::default_profile(), Arch::X86_64, crate::caps::default_mask(), KERNEL).unwrap();
    // Both ABIs; the longest way to a verdict without arguments: arch, number, depth of the tree.
    assert!(filter.len() / 8 < 900, "{} instructions", filter.len() / 8);
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let names: Vec<&'static str> = vec![
        "read", "write", "open", "close", "clone", "clone3", "socket", "mount", "getpid", "futex", "openat2",
    ];
    let action = prop::sample::select(vec![
        Action::Allow,
        Action::Errno,
        Action::KillThread,
        Action::KillProcess,
        Action::Trap,
        Action::Log,
        Action::Trace,
    ]);
    let op = prop::sample::select(vec![
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
        Operator::MaskedEqual,
    ]);
    let number = prop_oneof![0u64..4, any::<u64>(), (0u64..4).prop_map(|n| n << 32), Just(0xffff_ffff)];
    let condition = (0u32..6, number.clone(), number, op)
        .prop_map(|(index, value, value_two, op)| Condition { index, value, value_two, op });
    let rule = (
        prop::collection::vec(prop::sample::select(names), 1..4),
        action.clone(),
        prop::option::of(0u32..4),
        prop::collection::vec(condition, 0..7),
    )
        .prop_map(|(names, action, errno_ret, args)| Rule {
            names: names.into_iter().map(String::from).collect(),
            name: String::new(),
            action,
            errno_ret,
            args,
            includes: Filter::default(),
            excludes: Filter::default(),
        });
    (action, prop::option::of(0u32..4), prop::collection::vec(rule, 0..12)).prop_map(
        |(default_action, default_errno_ret, syscalls)| Profile {
            default_action,
            default_errno_ret,
            architectures: vec!["SCMP_ARCH_X86".into()],
            arch_map: Vec::new(),
            flags: Vec::new(),
            syscalls,
        },
    )
}

proptest! {
    #[test]
    fn any_profile_decides_as_its_rules_do(profile in any_profile(), seed in any::<[u64; 6]>()) {
        let filter = compile(&profile, Arch::X86_64, 0, KERNEL).unwrap();
        let pool = interesting(&profile);
        for round in 0..40u64 {
            let pick = |n: usize| {
                let r = seed[n].wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(u32::try_from(n).unwrap() * 7);
                pool[usize::try_from(r % pool.len() as u64).unwrap()]
            };
            let args = [pick(0), pick(1), pick(2), pick(3), pick(4), pick(5)];
            for abi in [Abi::X86_64, Abi::I386] {
                for number in [0, 1, 2, 3, 5, 20, 21, 39, 41, 56, 120, 202, 240, 359, 435, 436, 437, 438, X32_BIT] {
                    let args = if abi.wide() { args } else { args.map(|a| a & 0xffff_ffff) };
                    let expected = naive(&profile, 0, abi, number, args);
                    prop_assert_eq!(run(&filter, abi.audit(), number, args), expected);
                }
            }
        }
    }
}
