//! Records that their reader can make nothing of: they go to `lost+found/` with what was written in the container.

use crate::containers::check_id;
use crate::error::{Context, Result};
use crate::store::Store;
use strata_sys::durable;

impl Store {
    /// The IDs of containers whose records were damaged when the store was opened: their files are in `lost+found/`, and
    /// something of them may still run.
    pub fn lost_containers(&self) -> &[String] {
        &self.lost_containers
    }

    /// Takes a container out of the store that the caller can make nothing of; where its record and what was written in it
    /// are now, below the root.
    ///
    /// # Errors
    /// If it is not there, or the disk fails.
    pub fn put_container_away(&self, id: &str) -> Result<String> {
        check_id(id)?;
        let to = self.layout.put_away(&self.layout.containers, id).context(|| format!("container {id}"))?;
        durable::sync_dir(&self.layout.containers.fd)?;
        self.index.lock().containers.remove(id);
        self.sizes.forget(id);
        Ok(to)
    }

    /// Takes a pod's record out of the store that the caller can make nothing of; where it is now, below the root.
    ///
    /// # Errors
    /// If it is not there, or the disk fails.
    pub fn put_pod_away(&self, id: &str) -> Result<String> {
        check_id(id)?;
        let to = self.layout.put_away(&self.layout.pods, id).context(|| format!("pod {id}"))?;
        durable::sync_dir(&self.layout.pods.fd)?;
        Ok(to)
    }
}
