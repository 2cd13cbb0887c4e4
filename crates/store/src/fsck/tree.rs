//! A layer's files against the list of what they were.
//!
//! The list and the walk have one order, so that neither is held in memory; only files with several names are remembered.
//! Contents are read on threads beside the walk.

mod attrs;
mod content;

use super::meter::Meter;
use crate::entries::{EntryMeta, Kind, List, order};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::escape::escape;
use crate::walk::{Item, walk};
use attrs::Attrs;
use content::{Job, Readers};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// So many damaged files of a layer are named; the rest is counted.
const NAMED: usize = 20;

/// What is wrong with a layer's files.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Path, escaped, and what is wrong.
    pub(super) named: Vec<(String, String)>,
    /// How many there are.
    pub(super) count: u64,
    /// Why part of the layer could not be looked at, where that is no damage: it is nested deeper than a walk goes.
    pub(super) beyond: Option<String>,
    /// How many entries were looked at.
    pub(super) files: u64,
}

impl Damage {
    /// Takes over what another one has found.
    pub(super) fn merge(&mut self, other: Self) {
        self.files += other.files;
        self.beyond = self.beyond.take().or(other.beyond);
        self.count += other.count;
        self.named.extend(other.named);
        self.named.truncate(NAMED);
    }

    pub(super) fn add(&mut self, path: &[u8], text: impl Into<String>) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push((escape(path), text.into()));
        }
    }
}

/// Compares a layer's files with its list. What cannot be read is damage; once the check is stopped, anything may be.
pub(super) fn compare(fs: &OwnedFd, list: List, quick: bool, meter: &Meter<'_>) -> Damage {
    let readers = Readers::new(meter);
    let mut walked = std::thread::scope(|scope| {
        let (jobs, queue) = content::queue();
        for _ in 0..if quick { 0 } else { content::THREADS } {
            let (readers, queue) = (&readers, Arc::clone(&queue));
            scope.spawn(move || readers.work(&queue));
        }
        drop(queue);
        // Dropping it ends the readers once they have nothing left to read.
        let mut state = Walk::new(list, (!quick).then_some(jobs));
        let walked = walk(fs, &mut |item| {
            if meter.read(0) { state.item(item) } else { Err(Error::invalid("the check was stopped")) }
        })
        .and_then(|()| state.rest());
        if walked.is_ok() {
            state.names_elsewhere();
        }
        let mut damage = state.damage;
        match walked {
            Err(e) if e.kind() == ErrorKind::Invalid => damage.beyond = Some(e.to_string()),
            Err(e) => damage.add(b"", e.to_string()),
            Ok(()) => {}
        }
        damage
    });
    walked.merge(readers.into_found());
    walked.named.sort();
    walked
}

/// What a file with several names is known by.
struct Linked {
    first: Vec<u8>,
    names: usize,
    seen: usize,
}

struct Walk {
    list: List,
    /// The next one of the list.
    next: Option<(Vec<u8>, EntryMeta)>,
    started: bool,
    jobs: Option<content::Jobs>,
    attrs: Attrs,
    links: HashMap<u64, Linked>,
    /// A directory that is missing or something else: what was in it is not told too.
    gone: Option<Vec<u8>>,
    damage: Damage,
}

impl Walk {
    fn new(list: List, jobs: Option<content::Jobs>) -> Self {
        let attrs = Attrs::new(list.complete());
        let links = HashMap::new();
        Self { list, next: None, started: false, jobs, attrs, links, gone: None, damage: Damage::default() }
    }

    fn advance(&mut self) -> Result<()> {
        self.started = true;
        self.next = self.list.next()?;
        Ok(())
    }

    /// One that the walk has met.
    fn item(&mut self, item: &Item<'_>) -> Result<bool> {
        if !self.started {
            self.advance()?;
        }
        while let Some((path, _)) = &self.next {
            match order(path, item.path) {
                Ordering::Less => self.missing()?,
                Ordering::Equal => {
                    let Some((path, meta)) = self.next.take() else { break };
                    self.advance()?;
                    return self.both(&path, &meta, item);
                }
                Ordering::Greater => break,
            }
        }
        self.damage.add(item.path, "the layer has no such file");
        Ok(false)
    }

    /// The next one of the list is not there.
    fn missing(&mut self) -> Result<()> {
        if let Some((path, meta)) = self.next.take() {
            self.damage.files += 1;
            let inside = self.gone.as_ref().is_some_and(|gone| is_in(&path, gone));
            if !inside {
                let what = match meta.kind {
                    Kind::Whiteout => "the whiteout is missing",
                    Kind::Dir => "the directory is missing",
                    _ => "it is missing",
                };
                self.damage.add(&path, what);
                self.gone = Some(path);
            }
        }
        self.advance()
    }

    fn rest(&mut self) -> Result<()> {
        if !self.started {
            self.advance()?;
        }
        while self.next.is_some() {
            self.missing()?;
        }
        Ok(())
    }

    fn both(&mut self, path: &[u8], meta: &EntryMeta, item: &Item<'_>) -> Result<bool> {
        self.damage.files += 1;
        if let Some(text) = self.attrs.other_type(meta, item) {
            self.damage.add(path, text);
            self.gone = Some(path.to_vec());
            return Ok(false);
        }
        let wrong = self.attrs.differences(meta, item)?;
        let same_file = self.links(path, meta, item);
        if !wrong.is_empty() {
            self.damage.add(path, wrong.join(", "));
        } else if meta.kind == Kind::File
            && !same_file
            && let Some(jobs) = &self.jobs
        {
            match Job::open(item, meta) {
                Ok(job) => jobs.send(job),
                Err(e) => self.damage.add(path, format!("it cannot be read: {e}")),
            }
        }
        Ok(true)
    }

    /// Checks which names are one file; whether this is a further name of one that has been met.
    fn links(&mut self, path: &[u8], meta: &EntryMeta, item: &Item<'_>) -> bool {
        if !self.list.complete() || meta.kind == Kind::Dir {
            return false;
        }
        let known = self.links.get_mut(&item.stat.st_ino);
        match (&meta.hard_link, known) {
            (Some(first), Some(linked)) if linked.first == *first => {
                linked.seen += 1;
                return true;
            }
            (Some(first), _) => {
                self.damage.add(path, format!("it is not the same file as {:?} any more", escape(first)));
            }
            (None, Some(linked)) => {
                linked.seen += 1;
                let text = format!("it has become the same file as {:?}", escape(&linked.first));
                self.damage.add(path, text);
            }
            (None, None) if item.stat.st_nlink > 1 => {
                let names = usize::try_from(item.stat.st_nlink).unwrap_or(usize::MAX);
                self.links.insert(item.stat.st_ino, Linked { first: path.to_vec(), names, seen: 1 });
            }
            (None, None) => {}
        }
        false
    }

    /// Files that have names which the walk has not met.
    fn names_elsewhere(&mut self) {
        for linked in self.links.values().filter(|l| l.names > l.seen) {
            let text = format!("it has {} names, of which {} are in this layer", linked.names, linked.seen);
            self.damage.add(&linked.first, text);
        }
    }
}

fn is_in(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}
