//! Names of images: each is a file, called by the digest of the name in it.

use super::{Run, What};
use crate::error::{Kind, Result};
use crate::record::{self, RefRecord};
use crate::refs::{file_name, is_file_name};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A file below `refs/` from which no name can be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) file: String,
    pub(super) problem: String,
}

impl Run<'_> {
    /// The names that are known, against their files.
    pub(super) fn check_refs(&mut self) -> Result<()> {
        let known: Vec<Arc<RefRecord>> = self.store.index.lock().refs.values().cloned().collect();
        for r in known {
            self.stopped()?;
            let Some(problem) = self.ref_problem(&r)? else { continue };
            let outcome = if self.options.repair {
                self.rewrite(&r)
            } else {
                Err("fsck --repair writes it again, as long as stratad is not restarted".into())
            };
            self.tell_outcome(What::Ref, r.name.clone(), problem, outcome, vec![r.name.clone()]);
        }
        Ok(())
    }

    /// What is wrong with the file of a name that this process knows.
    fn ref_problem(&self, r: &RefRecord) -> Result<Option<String>> {
        let path = self.store.layout.refs.path.join(file_name(&r.name));
        let problem = match record::read_whole::<RefRecord>(&path) {
            Ok(read) if same(&read, r) => return Ok(None),
            Ok(_) => "its file says something else than what was written".to_owned(),
            Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
            Err(e) if e.errno() == Some(rustix::io::Errno::NOENT) => "its file is missing".to_owned(),
            Err(e) => e.to_string(),
        };
        // Somebody may have moved the name, or taken it away, since it was looked up.
        let inner = self.store.index.lock();
        let still = inner.refs.get(&r.name).is_some_and(|now| same(now, r));
        Ok(still.then_some(problem))
    }

    fn rewrite(&self, r: &RefRecord) -> Result<String, String> {
        self.store.rewrite_ref(r).map_err(|e| e.to_string())?;
        Ok("written again".into())
    }

    /// Files that belong to no name that is known.
    pub(super) fn unreadable_refs(&self) -> Result<Vec<Unreadable>> {
        let files = self.store.layout.refs.names()?;
        let known: BTreeSet<String> =
            self.store.index.lock().refs.keys().map(|name| file_name(name)).collect();
        let mut unreadable = Vec::new();
        for file in files.into_iter().filter(|f| is_file_name(f) && !known.contains(f)) {
            let problem = match record::read_whole::<RefRecord>(&self.store.layout.refs.path.join(&file)) {
                // It was made after the names were looked up.
                Ok(r) if file_name(&r.name) == file => continue,
                Ok(r) => format!("it says that it names {}, but is called otherwise", r.name),
                Err(e) if e.kind() == Kind::NewerFormat => return Err(e),
                // It went while we looked.
                Err(e) if e.errno() == Some(rustix::io::Errno::NOENT) => continue,
                Err(e) => e.to_string(),
            };
            unreadable.push(Unreadable { file, problem });
        }
        Ok(unreadable)
    }
}

/// Whether two records say the same.
fn same(a: &RefRecord, b: &RefRecord) -> bool {
    let parts = |r: &RefRecord| {
        (
            r.name.clone(),
            r.image.clone(),
            r.manifest.clone(),
            r.pulled.clone(),
            r.layers.clone(),
            r.origin,
            r.since,
        )
    };
    parts(a) == parts(b)
}
