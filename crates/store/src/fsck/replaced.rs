//! `replaced/`: damaged layers that others have taken the place of, as long as containers may have them mounted.
//!
//! An overlay looks its lower files up by name whenever it meets one that it does not know yet: what a running container
//! stands on must not be deleted under it, however damaged it is. A list of the containers, `containers`, lies in the
//! directory before it moves, so that a daemon that is killed at any moment finds everything in its place.

use crate::error::{Context, Result};
use crate::index::{Inner, Lease};
use crate::layout::Dir;
use crate::store::Store;
use rustix::fs::RenameFlags;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::MutexGuard;
use strata_sys::durable;

/// The list of those who may have a replaced layer mounted: an ID per line.
const USERS: &str = "containers";

impl Store {
    /// Puts the layer that is called `spare` in place of another one, in one step. If that fails, the spare one is gone.
    pub(crate) fn swap_layer(&self, lease: &Lease, key: &str, spare: &str) -> Result<()> {
        let swapped = self.swap_synced(lease, key, spare);
        if swapped.is_err() {
            let mut inner = self.index.lock();
            if inner.layers.remove(spare).is_some()
                && let Err(e) = self.layout.discard(&self.layout.layers, spare)
            {
                tracing::warn!(layer = %spare, error = %e, "cannot be discarded; the next start does");
            }
        }
        swapped
    }

    fn swap_synced(&self, lease: &Lease, key: &str, spare: &str) -> Result<()> {
        // What takes the place must not be lost in a power cut.
        self.sync_published(lease).context(|| format!("layer {key}"))?;
        let layers = &self.layout.layers;
        let what = || format!("put layer {key} in place");
        let (mut inner, used) = self.with_users_listed(key).context(what)?;
        if used {
            let aside = self.layout.fresh_name(key);
            durable::rename(&layers.fd, OsStr::new(spare), &self.layout.replaced.fd, OsStr::new(&aside))
                .context(what)?;
            if let Err(e) = exchange(&self.layout.replaced, &aside, layers, key) {
                // Nobody has it mounted, and nobody would look for it there.
                if let Err(also) = self.layout.discard(&self.layout.replaced, &aside) {
                    tracing::warn!(layer = %key, error = %also, "a spare layer cannot be discarded; the next collection does");
                }
                return Err(e.context(what()));
            }
        } else {
            exchange(layers, spare, layers, key).context(what)?;
        }
        if let Some(record) = inner.layers.remove(spare) {
            inner.layers.insert(key.to_owned(), record);
        }
        inner.held(lease).layers.remove(spare);
        if !used {
            self.layout.discard(layers, spare).context(what)?;
        }
        drop(inner);
        durable::sync_dir(&self.layout.replaced.fd)?;
        durable::sync_dir(&layers.fd).context(what)
    }

    /// The index, locked, with a list of the layer's users in its directory; whether there are any, and a directory.
    fn with_users_listed(&self, key: &str) -> Result<(MutexGuard<'_, Inner>, bool)> {
        let path = self.layout.layers.path.join(key);
        let mut listed = Vec::new();
        loop {
            let inner = self.index.lock();
            let users = users_of(&inner, key);
            if users.is_empty() || !path.exists() {
                return Ok((inner, false));
            }
            if users.iter().all(|id| listed.contains(id)) {
                return Ok((inner, true));
            }
            // Nobody waits for the disk: somebody may have come meanwhile.
            drop(inner);
            let dir = durable::open_dir(&path)?;
            durable::write_file(&dir, OsStr::new(USERS), users.join("\n").as_bytes(), 0o600)?;
            listed = users;
        }
    }

    /// Discards replaced layers that no container can have mounted any more.
    pub(crate) fn collect_replaced(&self) -> Result<()> {
        for name in self.layout.replaced.names()? {
            // Locked before it is read: until it is in its place, what is about to be replaced has no list here.
            let inner = self.index.lock();
            let list = std::fs::read_to_string(self.layout.replaced.path.join(&name).join(USERS));
            let users: HashSet<String> = list.unwrap_or_default().lines().map(ToOwned::to_owned).collect();
            if !inner.containers.keys().any(|id| users.contains(id)) {
                self.layout.discard(&self.layout.replaced, &name)?;
            }
        }
        Ok(())
    }
}

/// Puts one directory where another is, which gets its name; or where one has been lost.
fn exchange(from: &Dir, name: &str, to: &Dir, key: &str) -> Result<()> {
    match rustix::fs::renameat_with(&from.fd, name, &to.fd, key, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOENT) => {
            Ok(durable::rename(&from.fd, OsStr::new(name), &to.fd, OsStr::new(key))?)
        }
        other => Ok(other.map_err(std::io::Error::from)?),
    }
}

fn users_of(inner: &Inner, key: &str) -> Vec<String> {
    let using = inner.containers.iter().filter(|(_, c)| c.keys().any(|k| k == key));
    using.map(|(id, _)| id.clone()).collect()
}
