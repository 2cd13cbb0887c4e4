//! No step depends on one that is not on disk yet. A model of what a disk must have is kept for each call of the worker:
//! it has a file's bytes after fsync(2) of the file, a name after fsync of the directory, everything after syncfs(2), and
//! a rename, which is one change, after a sync of either directory.

use crate::common::privileged;
use crate::every_call::in_memory;
use crate::scenes::{After, all, variables};
use crate::watch::{Seen, Step, Verdict, watch};
use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

/// What is not on disk for certain.
#[derive(Default)]
struct Model {
    root: PathBuf,
    /// Whether refs name compressed layers that need not be there.
    discards: bool,
    /// Files whose bytes, and directories whose attributes, were changed.
    content: BTreeSet<PathBuf>,
    /// Names that were made.
    names: BTreeSet<PathBuf>,
    /// Names that were taken away, and what came in their place, if it was a rename.
    gone: Vec<(PathBuf, Option<PathBuf>)>,
    /// What records needed that are no more: after a power cut they may be back.
    ghosts: Vec<(PathBuf, BTreeSet<PathBuf>)>,
    /// Where things in trash/ were.
    origins: HashMap<PathBuf, PathBuf>,
    /// How much was found that a ref that was being written needs, or that took the place of what one needs.
    checked: usize,
    wrong: Vec<String>,
}

impl Model {
    fn complain(&mut self, step: &Step, what: &str) {
        self.wrong.push(format!("{} {:?}: {what}", step.call, step.paths));
    }

    /// The directory of the store that a path is in, and the rest of the path.
    fn place<'p>(&self, path: &'p Path) -> (String, &'p Path) {
        let Ok(rest) = path.strip_prefix(&self.root) else { return (String::new(), path) };
        let mut parts = rest.components();
        let first = match parts.next() {
            Some(Component::Normal(name)) => name.to_str().unwrap().to_owned(),
            _ => String::new(),
        };
        (first, parts.as_path())
    }

    /// Judges a step that is about to be done, and takes it for done.
    fn step(&mut self, step: &Step) {
        let path = &step.paths[0];
        match step.call {
            "syncfs" => self.everything_is_on_disk(),
            "fsync" | "fdatasync" => self.synced(path),
            "open" | "openat" | "openat2" | "creat" => {
                if !path.exists() {
                    self.names.insert(path.clone());
                }
                if step.truncates || !path.exists() {
                    self.changed(step, path);
                }
            }
            "mkdir" | "mkdirat" | "mknod" | "mknodat" | "symlink" | "symlinkat" => {
                self.names.insert(path.clone());
            }
            "link" | "linkat" => {
                self.names.insert(step.paths[1].clone());
            }
            "rename" | "renameat" | "renameat2" => self.renamed(step, path, &step.paths[1]),
            "unlink" | "unlinkat" | "rmdir" => self.unlinked(step, path),
            "chmod" | "fchmodat" | "fchmod" | "fchownat" | "fchown" | "lchown" | "utimensat" => {
                self.content.insert(path.clone());
            }
            _ => self.changed(step, path),
        }
    }

    fn everything_is_on_disk(&mut self) {
        self.content.clear();
        self.names.clear();
        self.gone.clear();
        self.ghosts.clear();
    }

    fn synced(&mut self, path: &Path) {
        self.content.remove(path);
        let below = |p: &Path| p.parent() == Some(path);
        let moved =
            |(from, to): &(PathBuf, Option<PathBuf>)| below(from) || to.as_ref().is_some_and(|to| below(to));
        let (done, rest) = std::mem::take(&mut self.gone).into_iter().partition(moved);
        self.gone = rest;
        for (from, to) in done {
            self.ghosts.retain(|(record, _)| !record.starts_with(&from));
            if let Some(to) = to {
                self.names.remove(&to);
            }
        }
        self.ghosts.retain(|(record, _)| !below(record));
        self.names.retain(|name| !below(name));
    }

    /// A file's bytes: nobody must be able to see it yet under a name that counts.
    fn changed(&mut self, step: &Step, path: &Path) {
        let (place, rest) = self.place(path);
        let hidden = rest.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let record = ["container.json", "exit.json", "pod.json"].iter().any(|name| rest.ends_with(name));
        // The list of a damaged layer's containers, beside its files.
        let list = hidden && place == "layers" && rest.components().count() == 2;
        if (matches!(place.as_str(), "layers" | "blobs") && !list) || (place == "refs" && !hidden) || record {
            self.complain(step, "written in place");
        }
        self.content.insert(path.to_owned());
    }

    fn unlinked(&mut self, step: &Step, path: &Path) {
        let (place, rest) = self.place(path);
        match place.as_str() {
            "tmp" => {}
            "trash" => {
                let thing = self.root.join("trash").join(rest.components().next().unwrap());
                let back = |(from, to): &(PathBuf, Option<PathBuf>)| {
                    to.as_ref() == Some(&thing) && self.origins.get(&thing) == Some(from)
                };
                if self.gone.iter().any(back) {
                    self.complain(step, "deleted, and after a power cut it may be back under its name");
                }
            }
            "refs" => self.ghosts.push((path.to_owned(), self.needs(path))),
            "containers" | "pods" => {
                let inner: Vec<_> = rest.components().skip(1).collect();
                let first = inner.first().map(|c| c.as_os_str().to_str().unwrap().to_owned());
                let temporary = first.as_deref().is_some_and(|f| f.starts_with('.'));
                if !temporary && !matches!(first.as_deref(), Some("exit.json" | "work")) {
                    self.complain(step, "deleted in place");
                }
            }
            _ => self.complain(step, "deleted in place"),
        }
        self.forget(path);
        self.gone.push((path.to_owned(), None));
    }

    fn forget(&mut self, path: &Path) {
        self.content.retain(|p| !p.starts_with(path));
        self.names.retain(|p| !p.starts_with(path));
    }

    fn renamed(&mut self, step: &Step, from: &Path, to: &Path) {
        let (place, _) = self.place(to);
        match place.as_str() {
            "refs" => {
                if to.exists() {
                    self.ghosts.push((to.to_owned(), self.needs(to)));
                }
                let needs = self.needs(from);
                self.checked += needs.len();
                self.must_be_on_disk(step, from, false);
                needs
                    .iter()
                    .filter(|path| path.exists())
                    .for_each(|path| self.must_be_on_disk(step, path, true));
            }
            "containers" | "pods" => self.must_be_on_disk(step, from, false),
            // What takes the place of something that is needed.
            "layers" | "blobs" if self.needed_now().contains(to) => {
                self.checked += 1;
                self.contents_must_be_on_disk(step, from);
            }
            "trash" => self.discarded(step, from, to),
            _ => {}
        }
        self.forget(to);
        for set in [&mut self.content, &mut self.names] {
            let (moved, rest) = std::mem::take(set).into_iter().partition(|p| p.starts_with(from));
            *set = rest;
            let moved: BTreeSet<PathBuf> = moved;
            set.extend(moved.iter().map(|p| plain(&to.join(p.strip_prefix(from).unwrap()))));
        }
        self.names.insert(to.to_owned());
        self.gone.push((from.to_owned(), Some(to.to_owned())));
    }

    fn discarded(&mut self, step: &Step, from: &Path, to: &Path) {
        let (place, rest) = self.place(from);
        if matches!(place.as_str(), "layers" | "blobs") {
            let mut needed = self.needed_now();
            needed.extend(self.ghosts.iter().flat_map(|(_, needs)| needs.clone()));
            if needed.contains(from) {
                self.complain(step, "a ref or a container that needs it may be on disk");
            }
        }
        if place == "containers" && rest.components().count() == 1 {
            let record = from.join("container.json");
            self.ghosts.push((from.to_owned(), self.needs(&record)));
        }
        if place != "tmp" {
            self.origins.insert(to.to_owned(), from.to_owned());
        }
    }

    /// What all refs and containers need that are there.
    fn needed_now(&self) -> BTreeSet<PathBuf> {
        let list = |dir: &str| std::fs::read_dir(self.root.join(dir)).unwrap().map(|e| e.unwrap().path());
        let containers = list("containers").map(|dir| dir.join("container.json"));
        let hidden = |p: &PathBuf| p.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        list("refs").filter(|p| !hidden(p)).chain(containers).flat_map(|path| self.needs(&path)).collect()
    }

    /// The paths that a record needs: of a ref, or of a container.
    fn needs(&self, record: &Path) -> BTreeSet<PathBuf> {
        let Ok(bytes) = std::fs::read(record) else { return BTreeSet::new() };
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return BTreeSet::new() };
        let blob = |digest: &serde_json::Value| {
            Some(self.root.join("blobs").join(digest.as_str()?.replacen(':', "/", 1)))
        };
        let layer = |key: &serde_json::Value| Some(self.root.join("layers").join(key.as_str()?));
        let mut needs = BTreeSet::new();
        for one in json["layers"].as_array().into_iter().flatten() {
            // A container's are keys, a ref's say more.
            needs.extend(layer(one).or_else(|| layer(&one["key"])));
            if !self.discards {
                needs.extend(blob(&one["blob"]["digest"]));
            }
        }
        if json["manifest"].is_object() {
            needs.extend(blob(&json["image"]));
            needs.extend(blob(&json["manifest"]["digest"]));
        }
        needs
    }

    fn must_be_on_disk(&mut self, step: &Step, path: &Path, name: bool) {
        let unsynced = self.content.iter().chain(&self.names).find(|p| p.starts_with(path)).cloned();
        let unsynced = unsynced.filter(|p| name || self.content.contains(p));
        if let Some(unsynced) = unsynced {
            self.complain(step, &format!("{} may not be on disk", unsynced.display()));
        }
    }

    /// A tree, but not its name, which it is about to change.
    fn contents_must_be_on_disk(&mut self, step: &Step, path: &Path) {
        let inside = self.names.iter().filter(|p| p.parent().is_some_and(|dir| dir.starts_with(path)));
        if let Some(unsynced) =
            self.content.iter().filter(|p| p.starts_with(path)).chain(inside).next().cloned()
        {
            self.complain(step, &format!("{} may not be on disk", unsynced.display()));
        }
    }

    /// The caller has been told that it is done.
    fn told(&mut self, mark: &str) {
        let mut open: Vec<PathBuf> = self.content.iter().chain(&self.names).cloned().collect();
        open.extend(self.gone.iter().map(|(from, _)| from.clone()));
        let needed = self.needed_now();
        for path in open {
            let (place, rest) = self.place(&path);
            let depth = rest.components().count();
            let name = rest.file_name().unwrap_or_default().to_str().unwrap();
            let promised = match place.as_str() {
                "refs" => !name.starts_with('.'),
                // The record, and the directory it is in. What is written in the container is the container's.
                "containers" => depth == 1 || (depth == 2 && name.ends_with(".json")),
                "pods" => !name.starts_with('.'),
                "layers" | "blobs" => needed.iter().any(|thing| path.starts_with(thing)),
                _ => false,
            };
            if promised {
                self.wrong.push(format!("{mark}: {} may not be on disk", path.display()));
            }
        }
    }
}

fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

#[test]
fn no_step_depends_on_an_unsynced_one() {
    if !privileged() {
        return;
    }
    let dir = in_memory();
    for scene in all() {
        let dir = dir.path().join(scene.name);
        std::fs::create_dir(&dir).unwrap();
        let discards = (scene.options)().discard_blobs;
        let mut model = Model { root: dir.join("store"), discards, ..Model::default() };
        let mut steps = 0;
        let ended = watch(&dir, &dir.join("store"), &variables(scene, &dir, After::Collect), &mut |seen| {
            match seen {
                Seen::Step(step) => {
                    model.step(step);
                    steps += 1;
                }
                // The damage was no work of the store's.
                Seen::Mark("begin") if scene.repairs => {
                    model.everything_is_on_disk();
                    model.wrong.clear();
                }
                Seen::Mark(mark) if mark == "end" || (mark.contains('=') && !scene.two) => model.told(mark),
                Seen::Mark(_) => {}
            }
            Verdict::Go
        });
        assert!(ended.status.success(), "{}", ended.output);
        let changes = !matches!(scene.name, "open" | "container");
        assert!(!changes || model.checked > 0, "{}: nothing is needed by anything", scene.name);
        assert!(steps > 10, "{}: {steps} steps", scene.name);
        assert!(model.wrong.is_empty(), "{}:\n{}", scene.name, model.wrong.join("\n"));
    }
}
