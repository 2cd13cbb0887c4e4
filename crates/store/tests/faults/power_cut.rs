//! The power is cut between any two writes of a disk on which images are pulled, committed and removed: what is on it then
//! is a store in which everything that was promised is there, and whole.

use crate::check;
use crate::common::{private_mounts, privileged};
use crate::disk::{Cache, Disk, Power, Random};
use crate::scenes::{After, scene, variables};
use crate::watch::{Seen, Verdict, watch};
use std::collections::{BTreeMap, BTreeSet};
use strata_store::{RecordKind, Store};

/// Repeats the cuts of an earlier run.
const SEED: &str = "STRATA_POWERCUT_SEED";
/// How often the power is cut.
const CUTS: &str = "STRATA_POWERCUT_COUNT";

/// What the worker said, and how many writes and flushes there were before.
struct Word {
    after: usize,
    text: String,
}

/// What must hold after a cut, by what it is about: the last that was said of it. `None`: it was about to change.
fn promised(words: &[Word], at: usize) -> BTreeMap<&str, Option<&str>> {
    let said = words.iter().filter(|word| word.after <= at);
    said.map(|word| match word.text.split_once('=') {
        Some((what, value)) => (what, Some(value)),
        None => (word.text.as_str(), None),
    })
    .collect()
}

/// Lets a worker churn on a disk, with some of its syncs left out, and says what it promised when.
fn churn(disk: &Disk, how: &str, left_out: &[&str]) -> Vec<Word> {
    let mounted = disk.format();
    let scratch = tempfile::tempdir().unwrap();
    let (scene, mut words) = (scene(how), Vec::new());
    let variables = variables(scene, mounted.path(), After::Collect);
    let ended = watch(scratch.path(), mounted.path(), &variables, &mut |seen| match seen {
        Seen::Mark(text) => {
            words.push(Word { after: disk.events(), text: text.to_owned() });
            Verdict::Go
        }
        Seen::Step(step) if left_out.contains(&step.call) => Verdict::Pretend,
        Seen::Step(_) => Verdict::Go,
    });
    assert!(ended.status.success(), "{}", ended.output);
    words
}

#[test]
fn what_was_promised_is_there_after_a_power_cut() {
    cut_while("churn", 40);
}

#[test]
fn what_two_were_promised_at_once_is_there_after_a_power_cut() {
    cut_while("churn of two", 30);
}

/// Cuts the power so often while a worker churns, and looks at what is there.
fn cut_while(how: &str, count: u64) {
    if !privileged() {
        return;
    }
    private_mounts();
    let Some(disk) = Disk::new() else { return };
    let words = churn(&disk, how, &[]);
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let seed = number(SEED).unwrap_or_else(|| u64::from(std::process::id()));
    let count = number(CUTS).unwrap_or(count);
    let mut random = Random::new(seed);
    let mut power = disk.power();
    let mut cuts: Vec<usize> = (0..count).map(|_| random.below(power.events() + 1)).collect();
    cuts.sort_unstable();
    for (n, at) in cuts.into_iter().enumerate() {
        let cache = [Cache::Some, Cache::Lost, Cache::Kept][n % 3];
        eprintln!("{SEED}={seed}: cut before {at} of {} with the cache {cache:?}", power.events());
        look(&mut power, at, cache, &mut random, &promised(&words, at));
    }
}

/// The disk is one that forgets: a store that does not sync is caught.
#[test]
fn a_sync_that_is_left_out_is_noticed() {
    if !privileged() {
        return;
    }
    for left_out in [&["syncfs"][..], &["fsync"]] {
        let noticed = std::thread::spawn(move || {
            private_mounts();
            let disk = Disk::new()?;
            let words = churn(&disk, "churn", left_out);
            let (mut power, mut random) = (disk.power(), Random::new(1));
            // Right after each promise.
            let mut promises = words.iter().filter(|word| word.text.contains('=')).map(|word| word.after);
            Some(promises.any(|at| {
                let look = || look(&mut power, at, Cache::Lost, &mut random, &promised(&words, at));
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).is_err()
            }))
        });
        assert!(noticed.join().unwrap().unwrap_or(true), "without {left_out:?} nothing is lost");
    }
}

fn look(
    power: &mut Power<'_>,
    at: usize,
    cache: Cache,
    random: &mut Random,
    promised: &BTreeMap<&str, Option<&str>>,
) {
    let mount = power.cut(at, cache, random);
    let store = Store::open(&mount.path().join("store"), (scene("churn").options)()).unwrap();
    for image in store.images() {
        check::whole(&store, mount.path(), &image, true);
    }
    for (id, _) in store.containers() {
        store.snapshot(&id).unwrap();
    }
    for (what, value) in promised {
        let Some(value) = value else { continue };
        let is = match what.split_once('/').unwrap() {
            ("image", name) => store.resolve(name).map_or_else(|_| "none".into(), |i| i.id.hex().to_owned()),
            ("exit", id) => {
                let exit = store.record(RecordKind::Exit, id).unwrap();
                exit.map_or_else(|| "none".into(), |e| String::from_utf8(e).unwrap())
            }
            ("pod", id) => {
                let pod = store.record(RecordKind::Pod, id).unwrap();
                pod.map_or_else(|| "none".into(), |p| String::from_utf8(p).unwrap())
            }
            ("container", id) => {
                let all = store.containers();
                let found = all.iter().find(|(other, _)| other == id);
                found.map_or_else(|| "none".into(), |(_, record)| record.as_ref().unwrap().get().to_owned())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(is, *value, "{what}");
    }
    store.gc(false).unwrap();
    check::nothing_else(&store, mount.path(), &BTreeSet::new());
    drop(store);
}
