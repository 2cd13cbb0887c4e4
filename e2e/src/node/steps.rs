//! A daemon that ends at a certain step: before the n-th of the calls with which it changes something or tells somebody.
//!
//! seccomp's user notification stops each of these calls until it is answered (seccomp_unotify(2)); the daemon is killed instead.
//! Its shims have the filter too, and go on.

use super::{Node, process};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;
use strata_sys::notify::{Answer, Listener, install_here};

/// What makes a step: names of files, what is to be on disk, mounts, and messages to shims and to the kernel's network.
const CALLS: [&str; 18] = [
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "link",
    "linkat",
    "symlinkat",
    "fsync",
    "fdatasync",
    "syncfs",
    "mount",
    "umount2",
    "sendmsg",
    "sendto",
];

/// How long no call comes when all but one thread have done what they can.
const QUIET: Duration = Duration::from_millis(150);

/// What is to happen to the daemon.
#[derive(Debug, Default)]
struct Plan {
    daemon: AtomicI32,
    /// How many more steps it may begin, itself included; 0 for all.
    left: AtomicUsize,
    /// The last step waits until nothing else goes on, and only then the daemon ends.
    lags: AtomicBool,
}

/// The daemons of a node, one after the other, each of which ends where it is told to.
#[derive(Debug)]
pub struct Steps<'a> {
    node: &'a Node,
    plan: Arc<Plan>,
}

impl<'a> Steps<'a> {
    /// Replaces the node's daemon by one that can be told.
    #[track_caller]
    pub fn of(node: &'a Node) -> Self {
        node.kill9();
        let steps = Self { node, plan: Arc::default() };
        steps.launch();
        steps
    }

    #[track_caller]
    fn launch(&self) {
        let calls: Vec<_> = CALLS
            .iter()
            .filter_map(|name| name.parse::<syscalls::Sysno>().ok())
            .map(|number| i64::from(number.id()))
            .collect();
        let plan = &self.plan;
        plan.daemon.store(0, Ordering::SeqCst);
        self.node.launch_from(&mut || {
            let listener = Listener::new(install_here(&calls).unwrap_or_else(|e| panic!("{e}")));
            let plan = Arc::clone(plan);
            // Ends with the last process that has the filter.
            std::thread::spawn(move || answer(&listener, &plan));
        });
        plan.daemon.store(self.node.pid(), Ordering::SeqCst);
    }

    /// From now on the last step is one of a thread that lags: what others do at the same time is done before the daemon ends.
    #[must_use]
    pub fn lagging(self) -> Self {
        self.plan.lags.store(true, Ordering::SeqCst);
        self
    }

    /// Does something during which the daemon ends before its n-th step, and starts it again. `None` if it came to its end.
    #[track_caller]
    pub fn killed_at<T>(&self, step: usize, call: impl FnOnce() -> T) -> Option<T> {
        self.plan.left.store(step, Ordering::SeqCst);
        let result = call();
        if self.plan.left.swap(0, Ordering::SeqCst) > 0 {
            return None;
        }
        self.node.kill9();
        self.launch();
        Some(result)
    }
}

fn answer(listener: &Listener, plan: &Plan) {
    // The daemon that has a thread which lags.
    let mut lagging = None;
    loop {
        let quiet = if lagging.is_some() { QUIET } else { Duration::from_secs(5) };
        let call = match listener.next(quiet) {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(e) if e.errno == rustix::io::Errno::TIMEDOUT => {
                lagging.take().into_iter().for_each(process::kill);
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let daemon = plan.daemon.load(Ordering::SeqCst);
        let own = daemon > 0 && Path::new(&format!("/proc/{daemon}/task/{}", call.pid)).exists();
        let counted = own
            .then(|| plan.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)));
        if counted == Some(Ok(1)) {
            match plan.lags.load(Ordering::SeqCst) {
                true => lagging = Some(daemon),
                false => process::kill(daemon),
            }
            continue;
        }
        // A thread that was killed meanwhile needs no answer.
        let _ = listener.answer(&call, Answer::Continue);
    }
}
