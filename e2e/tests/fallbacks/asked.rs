//! Calls of which some fail, by what their arguments point to: a filter sees no memory, so each call asks this process
//! (seccomp_unotify(2)).

use super::{mapped, walk};
use k8s_cri::v1 as cri;
use rustix::io::Errno;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use strata_e2e::node::{Node, container, pod, security, test};
use strata_sys::notify::{Answer, Call, Listener, install_here};

const FSCONFIG_SET_FLAG: u64 = 0;
const FSCONFIG_SET_STRING: u64 = 1;
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

type Decide = fn(&Call) -> Option<Errno>;

/// Starts stratad, with all that it starts, on a kernel where calls of one name fail as is decided; the number counts those.
fn launch_asking(node: &Node, name: &str, decide: Decide) -> Arc<AtomicUsize> {
    node.kill9();
    let failed = Arc::new(AtomicUsize::new(0));
    let number = i64::from(name.parse::<syscalls::Sysno>().unwrap().id());
    node.launch_from(&mut || {
        let listener = Listener::new(install_here(&[number]).unwrap_or_else(|e| panic!("{e}")));
        let failed = failed.clone();
        std::thread::spawn(move || {
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
        });
    });
    failed
}

/// Before Linux 6.5.
#[test]
fn layers_one_by_one() {
    test(|node| {
        let failed = launch_asking(node, "fsconfig", |call| {
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
        let failed = launch_asking(node, "mount_setattr", |call| {
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
        let failed = launch_asking(node, "fsconfig", |call| {
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
        let failed = launch_asking(node, "seccomp", |_| Some(Errno::NOSYS));
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
