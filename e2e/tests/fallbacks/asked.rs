//! Calls of which some fail, by what their arguments point to: a filter sees no memory, so each call asks this process
//! (seccomp_unotify(2)).

use super::{mapped, walk};
use crate::unified::{Limits, limited, test_unified, unified};
use k8s_cri::v1 as cri;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use strata_e2e::eventually;
use strata_e2e::node::{Node, cgroups, container, pod, process, security, test};
use strata_sys::notify::{Answer, Call, Listener, install_here};

const FSCONFIG_SET_FLAG: u64 = 0;
const FSCONFIG_SET_STRING: u64 = 1;
/// What looks a file up by its name.
const LOOKS: [&str; 3] = ["open", "openat", "statx"];
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// What is at an address of a process that waits: as much as its page has, up to this many bytes.
fn memory(call: &Call, address: u64, most: usize) -> Vec<u8> {
    let mut found = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{}/mem", call.pid)) else { return found };
    while found.len() < most {
        let at = address + found.len() as u64;
        let mut piece = vec![0; usize::try_from(4096 - at % 4096).unwrap().min(most - found.len())];
        match file.read_at(&mut piece, at) {
            Ok(read) if read > 0 => found.extend(&piece[..read]),
            _ => break,
        }
    }
    found
}

/// The string at an address; of a path, its end may be cut off.
fn text(call: &Call, address: u64) -> String {
    let bytes = memory(call, address, 4096);
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// A call's number, on an architecture that has it.
fn number(name: &str) -> Option<i64> {
    name.parse::<syscalls::Sysno>().ok().map(|call| i64::from(call.id()))
}

type Decide = fn(&Call) -> Option<Errno>;

/// Starts stratad, with all that it starts, on a kernel where calls of these names fail as is decided; the number counts those.
fn launch_asking(node: &Node, names: &[&str], decide: Decide) -> Arc<AtomicUsize> {
    node.kill9();
    let failed = Arc::new(AtomicUsize::new(0));
    let numbers: Vec<_> = names.iter().filter_map(|name| number(name)).collect();
    assert!(!numbers.is_empty(), "{names:?} are no calls of this architecture");
    node.launch_from(&mut || {
        // Begun before there is a filter, which it would inherit: it would wait for its own answers.
        let (give, given) = std::sync::mpsc::channel();
        let failed = failed.clone();
        std::thread::spawn(move || {
            // Dropped where the filter was refused.
            if let Ok(listener) = given.recv() {
                answer(&listener, decide, &failed);
            }
        });
        give.send(Listener::new(install_here(&numbers).unwrap_or_else(|e| panic!("{e}")))).unwrap();
    });
    failed
}

/// Answers until the last process that has the filter is gone.
fn answer(listener: &Listener, decide: Decide, failed: &AtomicUsize) {
    loop {
        let call = match listener.next(Duration::from_secs(5)) {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(e) if e.errno == Errno::TIMEDOUT => continue,
            Err(e) => panic!("{e}"),
        };
        let answer = match decide(&call) {
            Some(errno) => {
                failed.fetch_add(1, Ordering::SeqCst);
                Answer::Error(errno)
            }
            None => Answer::Continue,
        };
        // A thread that was killed meanwhile needs none.
        let _ = listener.answer(&call, answer);
    }
}

/// Before Linux 6.5.
#[test]
fn layers_one_by_one() {
    test(|node| {
        let failed = launch_asking(node, &["fsconfig"], |call| {
            let set = call.args[1] == FSCONFIG_SET_STRING && text(call, call.args[2]) == "lowerdir+";
            set.then_some(Errno::INVAL)
        });
        walk(node);
        assert!(failed.load(Ordering::SeqCst) > 0);
    });
}

/// A file system that cannot map IDs, or a kernel before 5.19.
#[test]
fn id_mapped_mounts() {
    test(|node| {
        let failed = launch_asking(node, &["mount_setattr"], |call| {
            let set = memory(call, call.args[3], 8).try_into().map_or(0, u64::from_ne_bytes);
            (set & MOUNT_ATTR_IDMAP != 0).then_some(Errno::INVAL)
        });
        let info = node.crictl(&["info"]).ok().json();
        assert_eq!(
            info["runtimeHandlers"][0]["features"]["user_namespaces"],
            serde_json::Value::Null,
            "{info}"
        );
        node.pull("busybox");
        let (config, options) = mapped(node, "mapped");
        let mut wanted = container(node, "mapped", "true");
        security(&mut wanted).namespace_options = Some(options);
        let refused = node
            .try_run_pod(&config)
            .and_then(|pod_id| node.try_create(&pod_id, &config, &wanted))
            .unwrap_err();
        assert!(refused.message().contains("cannot show files with other owners"), "{refused}");
        walk(node);
        assert!(failed.load(Ordering::SeqCst) > 0);
    });
}

/// Before Linux 5.10.
#[test]
fn volatile_overlays_are_required_for_kubernetes() {
    test(|node| {
        let failed = launch_asking(node, &["fsconfig"], |call| {
            let flag = call.args[1] == FSCONFIG_SET_FLAG && text(call, call.args[2]) == "volatile";
            flag.then_some(Errno::INVAL)
        });
        let image = node.pull("busybox");
        let config = pod(node, "volatile");
        let pod_id = node.run_pod(&config);
        let refused = node.try_create(&pod_id, &config, &container(node, "c", "true")).unwrap_err();
        assert!(refused.message().contains("volatile"), "{refused}");
        assert!(failed.load(Ordering::SeqCst) > 0);
        assert_eq!(node.strata(&["run", "--rm", &image, "echo", "works"]).ok().stdout, "works\n");
    });
}

#[test]
fn filters_of_system_calls_are_required_where_they_are_asked_for() {
    test(|node| {
        let failed = launch_asking(node, &["seccomp"], |_| Some(Errno::NOSYS));
        node.pull("busybox");
        let config = pod(node, "filter");
        let pod_id = node.run_pod(&config);
        let mut wanted = container(node, "filtered", "true");
        security(&mut wanted).seccomp = Some(cri::SecurityProfile::default());
        let refused =
            node.try_create(&pod_id, &config, &wanted).and_then(|id| node.try_start(&id)).unwrap_err();
        assert!(refused.message().contains("seccomp"), "{refused}");
        assert!(failed.load(Ordering::SeqCst) > 0);
        let id = node.run_container(&pod_id, &config, &container(node, "free", "exec sleep 1000"));
        assert_eq!(node.exec(&id, "echo works"), "works\n");
    });
}

/// Whether one of [`LOOKS`] names a file of a cgroup whose name ends so.
fn names(call: &Call, end: &str) -> bool {
    let path = text(call, call.args[usize::from(Some(call.number) != number("open"))]);
    path.starts_with("/sys/fs/cgroup/") && path.ends_with(end)
}

/// Before Linux 5.14. What is killed forks all the time.
#[test]
fn killing_a_cgroup_at_once() {
    test(|node| {
        let failed = launch_asking(node, &LOOKS, |call| names(call, "/cgroup.kill").then_some(Errno::NOENT));
        walk(node);
        let before = failed.load(Ordering::SeqCst);
        node.pull("busybox");
        let config = pod(node, "forks");
        let pod_id = node.run_pod(&config);
        let forks = "while :; do (sleep 1000 & sleep 0.05) & sleep 0.1; done";
        let id = node.run_container(&pod_id, &config, &container(node, "forks", forks));
        let inside = || {
            let of_container = |dir: &&PathBuf| dir.iter().any(|name| name == id.as_str());
            let read = |dir: &PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            let all = cgroups::below(node.cgroup()).iter().filter(of_container).map(read).collect::<String>();
            all.lines().map(|pid| pid.parse().unwrap()).collect::<BTreeSet<i32>>()
        };
        let sleeps = |seconds: &str| {
            let told = |pid: &i32| process::command_line(*pid).unwrap_or_default();
            inside().iter().filter(|pid| told(pid).contains(seconds)).count()
        };
        let more = forks.replace("1000", "2000");
        let refused = node.try_exec(&id, &format!("setsid sh -c '{more}' & {more}"), 2).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::DeadlineExceeded, "{refused}");
        eventually(20, "all of an exec is killed", || match sleeps("2000") {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        });
        eventually(20, "the container runs on", || match sleeps("1000") {
            0 | 1 => Err("it forks no more".into()),
            _ => Ok(()),
        });
        node.stop_container(&id, 0).unwrap();
        assert_eq!(node.status(&id).exit_code, 137);
        assert_eq!(inside(), BTreeSet::new(), "what it forked is left");
        node.remove_pod(&pod_id).unwrap();
        if std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup2 ") {
            assert!(before > 0 && failed.load(Ordering::SeqCst) > before, "cgroup.kill was not asked for");
        }
    });
}

/// Before Linux 5.15, 4.19 and 5.7.
#[test]
fn files_of_cgroups_that_came_later() {
    test_unified(|node| {
        launch_asking(node, &LOOKS, |call| {
            let late = ["/cpu.idle", "/memory.oom.group", ".rsvd.max", ".rsvd.current"];
            late.iter().any(|file| names(call, file)).then_some(Errno::NOENT)
        });
        node.pull("busybox");
        let config = pod(node, "late");
        let pod_id = node.run_pod(&config);
        for file in ["cpu.idle", "memory.oom.group"] {
            let wanted = limited(node, "refused", "true", unified(&[(file, "1")]));
            let refused = node.try_create(&pod_id, &config, &wanted).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(&format!("has no file {file}")), "{refused}");
        }
        let pages = vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }];
        let limits = Limits { cpu_shares: 512, hugepage_limits: pages, ..Default::default() };
        let id = node.run_container(&pod_id, &config, &limited(node, "c", "exec sleep 1000", limits));
        let read = |file| cgroups::read(node.cgroup(), &id, [file, file]);
        assert_eq!(
            (read("hugetlb.2MB.max"), read("hugetlb.2MB.rsvd.max")),
            ((4 << 20).to_string(), "max".into())
        );
        assert!(read("cpu.weight") != "100", "the weight does not depend on cpu.idle");
        let request = cri::ContainerStatsRequest { container_id: id };
        let stats = node.cri(async |mut c| c.container_stats(request).await).unwrap().stats.unwrap();
        assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    });
}
