//! What is neither ref, blob nor layer: containers, mount points, names that nobody gave.

use super::layers::is_key;
use super::{Run, What};
use crate::error::Result;
use crate::layout::{Dir, MOUNTPOINT_DIRS, MOUNTPOINT_FILES, NAMES, make_mountpoints};
use crate::record::{self, ContainerFile};
use crate::refs::is_file_name;
use std::path::Path;
use strata_oci::Digest;

impl Run<'_> {
    /// The rest of the store.
    pub(super) fn check_rest(&mut self) -> Result<()> {
        self.check_containers()?;
        self.check_mountpoints()?;
        self.check_names()
    }

    fn check_containers(&mut self) -> Result<()> {
        for id in self.store.layout.containers.names()? {
            self.stopped()?;
            let dir = self.store.layout.containers.path.join(&id);
            let problem = match record::read_whole::<ContainerFile>(&dir.join("container.json")) {
                Ok(_) => missing_part(&dir),
                // Another one may be making or removing it.
                Err(e) if e.errno() == Some(rustix::io::Errno::NOENT) => None,
                Err(e) => Some(e.to_string()),
            };
            if let Some(problem) = problem {
                let action = format!(
                    "copy what is needed from {}, and remove the container",
                    dir.join("upper").display()
                );
                self.tell_outcome(What::Container, id, problem, Err(action), Vec::new());
            }
        }
        Ok(())
    }

    fn check_mountpoints(&mut self) -> Result<()> {
        let root = self.store.layout.mountpoints.clone();
        let mut wrong = Vec::new();
        for (dir, names) in [("", &MOUNTPOINT_DIRS[..]), ("etc", &MOUNTPOINT_FILES[..])] {
            for name in names {
                let (path, is_dir) = (root.join(dir).join(name), dir.is_empty());
                let fine = std::fs::symlink_metadata(&path)
                    .is_ok_and(|m| if is_dir { m.is_dir() } else { m.is_file() && m.len() == 0 });
                if !fine {
                    wrong.push((path, "it is missing, or no empty one"));
                }
            }
            let entries = std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
            for entry in entries.filter(|e| !names.iter().any(|n| e.file_name() == *n)) {
                wrong.push((entry.path(), "it does not belong there, and every container sees it"));
            }
        }
        for dir in ["dev", "proc", "sys"] {
            let entries = std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
            wrong
                .extend(entries.map(|e| (e.path(), "it does not belong there, and every container sees it")));
        }
        for (path, problem) in wrong {
            let outcome = if self.options.repair {
                self.mend_mountpoint(&path)
            } else {
                Err("fsck --repair moves it into lost+found/ and makes what is missing".into())
            };
            self.tell_outcome(What::Store, self.below_root(&path), problem.into(), outcome, Vec::new());
        }
        Ok(())
    }

    fn mend_mountpoint(&self, path: &Path) -> Result<String, String> {
        let moved = self.store.layout.put_away_path(path).map_err(|e| e.to_string())?;
        make_mountpoints(&self.store.layout.mountpoints).map_err(|e| e.to_string())?;
        Ok(moved.map_or_else(|| "made again".to_owned(), |to| format!("moved to {to}")))
    }

    /// Names that no part of the store gave.
    fn check_names(&mut self) -> Result<()> {
        let mut stray = Vec::new();
        {
            let layout = &self.store.layout;
            let mut look = |dir: &Dir, known: &dyn Fn(&str) -> bool| -> Result<()> {
                stray.extend(dir.all_names()?.into_iter().filter(|n| !known(n)).map(|n| dir.path.join(n)));
                Ok(())
            };
            let is_id = |n: &str| Digest::parse(&format!("sha256:{n}")).is_ok();
            // One that is about to take another's place.
            look(&layout.layers, &|n| is_key(n) || n.starts_with("repair."))?;
            look(&layout.refs, &|n| is_file_name(n) || is_unfinished(n))?;
            look(&layout.containers, &is_id)?;
            look(&layout.pods, &is_id)?;
            look(&layout.blobs, &|n| matches!(n, "sha256" | "sha512"))?;
            for algorithm in ["sha256", "sha512"] {
                for entry in std::fs::read_dir(layout.blobs.path.join(algorithm))? {
                    let path = entry?.path();
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    if Digest::parse(&format!("{algorithm}:{name}")).is_err() {
                        stray.push(path);
                    }
                }
            }
            for name in layout.root.all_names()?.into_iter().filter(|n| !NAMES.contains(&n.as_str())) {
                self.summary
                    .notes
                    .push(format!("{name:?} in {} is not the store's", layout.root.path.display()));
            }
        }
        for path in stray {
            let outcome = if self.options.repair {
                let moved = self.store.layout.put_away_path(&path).map_err(|e| e.to_string());
                moved.map(|to| to.map_or_else(|| "it is gone".to_owned(), |to| format!("moved to {to}")))
            } else {
                Err("fsck --repair moves it into lost+found/".into())
            };
            let id = self.below_root(&path);
            self.tell_outcome(
                What::Store,
                id,
                "nothing of the store is called so".into(),
                outcome,
                Vec::new(),
            );
        }
        Ok(())
    }

    fn below_root(&self, path: &Path) -> String {
        path.strip_prefix(&self.store.layout.root.path).unwrap_or(path).display().to_string()
    }
}

/// A write that was interrupted, or is under way: the next one of the same name takes its place.
fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

fn missing_part(dir: &Path) -> Option<String> {
    let missing = ["upper", "work"].into_iter().find(|part| !dir.join(part).is_dir())?;
    // Another one may be removing it.
    dir.exists().then(|| format!("its directory {missing}/ is missing"))
}
