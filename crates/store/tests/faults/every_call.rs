//! Every call that changes a file fails once, and is the last one of its process once.

use crate::check;
use crate::common::privileged;
use crate::repairs::Running;
use crate::scenes::{After, CONTAINER, SCENES, Scene, scene, variables};
use crate::watch::{Ended, Seen, Step, Verdict, watch};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use strata_store::Store;

/// `all` tries what is tried by turns in every way, and nothing is left out; a number chooses the turns.
const HOW: &str = "STRATA_FAULTS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Error(After),
    Kill,
}

/// A file system in memory, which nobody but this thread and its children sees: it has no disk to wait for.
pub struct Memory(tempfile::TempDir);

pub fn in_memory() -> Memory {
    let dir = tempfile::tempdir().unwrap();
    crate::common::private_mounts();
    nix::mount::mount(Some("faults"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    Memory(dir)
}

impl Memory {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The directory below it could not be removed.
        let _ = nix::mount::umount2(self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Which step a fault meets: the one of this number, or the first of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Number(usize),
    Call(&'static str),
}

/// What a run was.
pub struct Run {
    pub ended: Ended,
    /// What the fault met.
    pub met: Option<Step>,
    /// What was seen from the operation's begin on, to the worker's end.
    pub steps: Vec<Step>,
    /// How many of them belong to the operation.
    pub act: usize,
    /// The container that runs all the while.
    running: Option<Running>,
}

/// One run of a scene.
pub fn run(scene: &'static Scene, dir: &Path, fault: Fault, at: At) -> Run {
    let (mut begun, mut act, mut steps, mut met) = (false, None, Vec::new(), None);
    let mut running = None;
    let after = if let Fault::Error(after) = fault { after } else { After::Collect };
    std::fs::create_dir(dir).unwrap();
    let ended = watch(dir, &dir.join("store"), &variables(scene, dir, after), &mut |seen| {
        let step: &Step = match seen {
            Seen::Mark("begin") => {
                begun = true;
                running = scene.running.then(|| Running::start(&dir.join("store")));
                return Verdict::Go;
            }
            Seen::Mark(_) => {
                act = Some(steps.len());
                return Verdict::Go;
            }
            Seen::Step(step) if begun => step,
            Seen::Step(_) => return Verdict::Go,
        };
        let number = steps.len();
        steps.push(step.clone());
        let here = met.is_none()
            && act.is_none()
            && match at {
                At::Number(n) => n == number,
                At::Call(name) => name == step.call,
            };
        if !here || fault == Fault::None {
            return Verdict::Go;
        }
        met = Some(step.clone());
        match fault {
            Fault::Error(_) if step.call.contains("sync") || step.call.contains("unlink") => {
                Verdict::Fail(Errno::IO)
            }
            Fault::Error(_) => Verdict::Fail(Errno::NOSPC),
            _ => Verdict::Kill,
        }
    });
    let act = act.unwrap_or(steps.len());
    Run { ended, met, steps, act, running }
}

/// Runs a scene with a fault, and looks at what is left; which step was met, or what is wrong.
fn try_fault(scene: &'static Scene, dir: &Path, fault: Fault, at: At) -> Result<Option<Step>, String> {
    let Run { ended, met, running, .. } = run(scene, dir, fault, at);
    let Some(met) = met else { return Ok(None) };
    let what = format!("{} with {fault:?} at {at:?}, {} {:?}", scene.name, met.call, met.paths);
    if fault != Fault::Kill && !ended.status.success() {
        return Err(format!("{what}\nthe worker said: {}", ended.output));
    }
    let looked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        if let Some(running) = &running {
            running.looks_around();
        }
        let store = Store::open(&dir.join("store"), (scene.options)()).unwrap();
        store.pods().unwrap();
        check::settled(&store, dir, scene, false);
        if fault == Fault::Kill || scene.repairs {
            (scene.act)(&store).unwrap();
            check::settled(&store, dir, scene, true);
        }
        if let Some(running) = running {
            running.goes_on();
            drop(running);
            // What it stood on goes with it.
            store.remove_container(CONTAINER).unwrap();
            check::settled(&store, dir, scene, true);
        }
    }));
    if let Err(panic) = looked {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        return Err(format!("after {what}: {text}\nthe worker said: {}", ended.output));
    }
    std::fs::remove_dir_all(dir).unwrap();
    Ok(Some(met))
}

/// What has been tried of a scene, and what was wrong.
struct Trials {
    scene: &'static Scene,
    dir: Memory,
    count: AtomicUsize,
    met: Mutex<BTreeSet<&'static str>>,
    wrong: Mutex<Vec<String>>,
}

impl Trials {
    fn try_one(&self, fault: Fault, at: At) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        match try_fault(self.scene, &self.dir.path().join(count.to_string()), fault, at) {
            Ok(step) => self.met.lock().unwrap().extend(step.map(|s| s.call)),
            Err(text) => self.wrong.lock().unwrap().push(text),
        }
    }
}

/// All faults of a scene.
fn try_all(name: &str) {
    if !privileged() {
        return;
    }
    let how = std::env::var(HOW).unwrap_or_else(|_| "0".into());
    let (scene, dir) = (scene(name), in_memory());
    let undisturbed = run(scene, &dir.path().join("undisturbed"), Fault::None, At::Number(0));
    assert!(undisturbed.ended.status.success(), "{}", undisturbed.ended.output);
    let steps = &undisturbed.steps[..undisturbed.act];
    assert!(!steps.is_empty());
    let turn: usize = how.parse().unwrap_or(0);
    let faults = |n: usize| match (how.as_str(), (n + turn) % 2) {
        ("all", _) => vec![Fault::Kill, Fault::Error(After::Collect), Fault::Error(After::Again)],
        (_, 0) => vec![Fault::Kill, Fault::Error(After::Collect)],
        _ => vec![Fault::Kill, Fault::Error(After::Again)],
    };
    let trials = Trials { scene, dir, count: 0.into(), met: Mutex::default(), wrong: Mutex::default() };
    // Threads do not take turns in the same order each time, so that the last one may have a higher number.
    let (next, last) = (AtomicUsize::new(0), steps.len() + 4);
    std::thread::scope(|scope| {
        // What could not be deleted is tried again after a second: there is time for others.
        for _ in 0..4 {
            scope.spawn(|| {
                while let n = next.fetch_add(1, Ordering::Relaxed)
                    && n < last
                {
                    faults(n).into_iter().for_each(|fault| trials.try_one(fault, At::Number(n)));
                }
            });
        }
    });
    let seen: BTreeSet<_> = steps.iter().map(|s| s.call).collect();
    let missed: Vec<_> = seen.difference(&trials.met.lock().unwrap()).copied().collect();
    for call in missed {
        faults(0).into_iter().for_each(|fault| trials.try_one(fault, At::Call(call)));
    }
    let wrong = trials.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} faults did harm, these among them:\n{}", wrong.len(), wrong.join("\n"));
    assert!(trials.met.into_inner().unwrap().is_superset(&seen), "every kind of call has failed: {seen:?}");
}

/// The kernel tells of a page that it could not write once: what was to be synced then must not be used by a later pull,
/// whose sync would find nothing wrong.
#[test]
fn what_a_failed_sync_was_about_is_written_again() {
    if !privileged() {
        return;
    }
    let (scene, dir) = (scene("pull"), in_memory());
    let fault = Fault::Error(After::Again);
    let failed = run(scene, &dir.path().join("run"), fault, At::Call("syncfs"));
    assert!(failed.ended.status.success(), "{}", failed.ended.output);
    assert!(failed.met.is_some());
    let (before, after) = failed.steps.split_at(failed.act);
    let published = |steps: &[Step]| -> BTreeSet<PathBuf> {
        let named = steps.iter().filter(|s| s.call.starts_with("rename")).map(|s| s.paths[1].clone());
        let store = dir.path().join("run/store");
        named.filter(|p| p.starts_with(store.join("layers")) || p.starts_with(store.join("blobs"))).collect()
    };
    assert!(
        published(before).len() >= 5,
        "two layers, a manifest, a config and more: {:?}",
        published(before)
    );
    assert_eq!(published(before), published(after));
}

macro_rules! scenes {
    ($($function:ident: $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $function() {
                try_all($name);
            }
        )*

        #[test]
        fn no_scene_is_left_out() {
            assert_eq!([$($name),*].as_slice(), SCENES.iter().map(|s| s.name).collect::<Vec<_>>());
        }
    };
}

scenes! {
    opening: "open",
    pulling: "pull",
    pulling_without_blobs: "pull without blobs",
    pulling_a_name_that_moves: "pull of a name that moves",
    committing: "commit",
    tagging: "tag",
    removing: "remove",
    collecting: "collect",
    loading: "load",
    repairing: "repair",
    repairing_under_a_container: "repair under a container",
    repairing_from_a_registry: "repair from a registry",
    restoring_blobs: "restore",
    making_containers: "container",
}
