//! Plugins that hang in the kernel, where no signal ends them.

use super::rig::{Net, with_cni};
use fuser::{BackgroundSession, Config, Errno, Filesystem, INodeNo, ReplyEntry, Request};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use strata_e2e::eventually;
use strata_e2e::node::{pod, process};

/// A file system that answers no look-up: who asks for a name waits in the kernel.
#[derive(Clone, Default)]
struct Silent(Arc<Mutex<Vec<ReplyEntry>>>);

impl Filesystem for Silent {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.0.lock().unwrap().push(reply);
    }
}

/// The file system while it is mounted.
struct Hung {
    asked: Silent,
    _session: BackgroundSession,
}

impl Hung {
    /// `None` where there is no FUSE.
    fn mount(at: &Path) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            strata_e2e::skip("no /dev/fuse");
            return None;
        }
        std::fs::create_dir(at).unwrap();
        let asked = Silent::default();
        let session = fuser::spawn_mount(asked.clone(), at, &Config::default()).unwrap();
        Some(Self { asked, _session: session })
    }

    fn answer(&self) {
        for reply in self.asked.0.lock().unwrap().drain(..) {
            reply.error(Errno::ENOENT);
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.answer();
    }
}

/// The plugins that no signal ends: state D of proc_pid_stat(5).
fn hanging(net: &Net<'_>) -> Vec<i32> {
    let all = process::naming(&net.bin).into_iter().map(|(pid, _)| pid);
    all.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") D "))
    })
    .collect()
}

#[test]
fn a_plugin_that_hangs_in_the_kernel_holds_up_nobody() {
    with_cni(|net| {
        let node = net.node;
        let Some(hung) = Hung::mount(&net.bin.join("hung")) else { return };
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let going = node.run_pod(&pod(node, "going"));
        net.switch("hang.bridge.DEL", true);
        let refused = node.stop_pod(&going).unwrap_err();
        for part in ["DEL", "bridge", "was killed", "hangs in the kernel"] {
            assert!(refused.message().contains(part), "{refused}");
        }
        assert_eq!(hanging(net).len(), 1);
        net.switch("hang.bridge.DEL", false);
        // While it hangs, the pod's address may still be used by it; asking is answered, and other pods come and go.
        let told = node.crictl(&["stopp", &going]).fails();
        println!("{told}");
        assert!(told.contains("hangs in the kernel"), "{told}");
        assert_eq!(net.addresses().len(), 1);
        let other = node.run_pod(&pod(node, "other"));
        assert_eq!(net.addresses().len(), 2);
        node.remove_pod(&other).unwrap();

        net.switch("hang.bridge.ADD", true);
        let refused = node.try_run_pod(&pod(node, "coming")).unwrap_err();
        assert!(refused.message().contains("hangs in the kernel"), "{refused}");
        net.switch("hang.bridge.ADD", false);
        assert_eq!(hanging(net).len(), 2);

        // Once they end, what is owed is done without being asked for.
        hung.answer();
        eventually(20, "the plugins have ended", || match process::naming(&net.bin) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
        net.given_back("hangs");
        node.stop_pod(&going).unwrap();
    });
}
