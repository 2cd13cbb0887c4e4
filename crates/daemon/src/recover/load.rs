//! Reading the records. A damaged one must not keep a node's other pods from being served. One that a newer release has written
//! must: its pod is whole and runs, and ending it is not for a downgrade to do.

use crate::container::record::{self as container_record, ContainerRecord, Exit};
use crate::container::state::ContainerState;
use crate::container::{Container, Live};
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::record::{self as pod_record, PodRecord};
use crate::pod::state::{Change, PodState};
use crate::pod::{Pod, files, short};
use crate::request::Origin;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use strata_store::RecordKind;

/// What the records say.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Pods.
    pub(super) pods: Vec<Arc<Pod>>,
    /// Pods whose records cannot be read.
    pub(super) lost_pods: Vec<LostPod>,
    /// Containers of pods that are there, whose own records cannot be read.
    pub(super) lost_containers: Vec<String>,
}

/// A pod whose record cannot be read.
#[derive(Clone, Debug)]
pub(super) struct LostPod {
    /// Its ID.
    pub(super) id: String,
    /// What its record says after all, if it is JSON.
    pub(super) says: Value,
    /// Its containers.
    pub(super) containers: Vec<String>,
}

/// What every record says of itself.
trait Record: DeserializeOwned {
    const VERSION: u32;
    fn id(&self) -> &str;
}

impl Record for PodRecord {
    const VERSION: u32 = pod_record::VERSION;
    fn id(&self) -> &str {
        &self.id
    }
}

impl Record for ContainerRecord {
    const VERSION: u32 = container_record::VERSION;
    fn id(&self) -> &str {
        &self.id
    }
}

impl Node {
    pub(super) fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        let mut pods = HashMap::new();
        for (id, bytes) in self.store.pods()? {
            let bytes = bytes.map_err(Error::from);
            match bytes.as_ref().map_err(Clone::clone).and_then(|b| parse::<PodRecord>(&id, b)) {
                Ok(mut record) => {
                    // Recorded as ready before it was: nobody has its ID.
                    let told = record.origin == Origin::Strata || !files::unfinished(&self.pod_dir(&id));
                    if record.state == PodState::Ready && !told {
                        record.state = PodState::Creating;
                    }
                    let pod = Pod::new(record, self.pod_dir(&id), false, self.events.clone());
                    self.pods.insert(pod.clone());
                    pods.insert(id, pod);
                }
                Err(e) if is_newer(&e) => return Err(e.context(format!("record of pod {id}"))),
                Err(e) => {
                    let path = self.store.root().join("pods").join(&id).join("pod.json");
                    tracing::error!(pod = short(&id), record = %path.display(), error = %e, "the pod's record cannot be read: what is left of the pod is ended, and its record will be in lost+found/");
                    let says = bytes.ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
                    loaded.lost_pods.push(LostPod { id, says, containers: Vec::new() });
                }
            }
        }
        for (id, json) in self.store.containers() {
            self.load_container(&pods, &mut loaded, id, json.map_err(Error::from))?;
        }
        for pod in pods.values() {
            // A pod of the strata command lives for its one container, whose creation may have been cut off.
            let empty = pod.origin() == Origin::Strata && self.containers.of_pod(pod.id()).is_empty();
            if empty || pod.state() == PodState::Creating {
                // Before the first call: its name is free.
                let _ = pod.change(Change::Discarding);
            }
        }
        // The store has put their files away.
        loaded.lost_containers.extend_from_slice(self.store.lost_containers());
        self.forget_strange_seccomp();
        self.forget_strange_bundles();
        self.end_strange_hooks();
        loaded.pods = pods.into_values().collect();
        Ok(loaded)
    }

    fn load_container(
        &self,
        pods: &HashMap<String, Arc<Pod>>,
        loaded: &mut Loaded,
        id: String,
        json: Result<Box<serde_json::value::RawValue>>,
    ) -> Result<()> {
        let record = match json.and_then(|json| parse::<ContainerRecord>(&id, json.get().as_bytes())) {
            Ok(record) => record,
            Err(e) if is_newer(&e) => return Err(e.context(format!("record of container {id}"))),
            Err(e) => {
                let path = self.store.root().join("containers").join(&id).join("container.json");
                tracing::error!(container = short(&id), record = %path.display(), error = %e, "the container's record cannot be read: it is ended, and its files will be in lost+found/");
                loaded.lost_containers.push(id);
                return Ok(());
            }
        };
        if let Some(pod) = pods.get(&record.pod_id) {
            self.add_container(pod, record);
        } else if let Some(lost) = loaded.lost_pods.iter_mut().find(|lost| lost.id == record.pod_id) {
            lost.containers.push(id);
        } else {
            // Its pod was removed before it was, which a power cut in between makes possible.
            self.store.remove_container(&id)?;
        }
        Ok(())
    }

    fn add_container(&self, pod: &Arc<Pod>, record: ContainerRecord) {
        // One of a pod that was being removed may share its name with a newer one.
        if let Some(name) = record.extras.name.as_ref().filter(|_| pod.state() != PodState::Discarding)
            && let Err(e) = self.containers.reserve(name, &record.id)
        {
            tracing::error!(container = short(&record.id), error = %e, "two containers have one name; use its ID");
        }
        let live = match self.exit_of(&record) {
            Some(exit) if exit.run == record.runs => {
                let started_at = exit.started_at;
                Live { exit: Some(exit), started_at, ..Live::at(ContainerState::Exited) }
            }
            _ => Live::at(ContainerState::Unknown),
        };
        self.containers.insert(Container::new(pod.clone(), record, live));
    }

    /// How a container ended, if that was recorded. One whose end cannot be read is as one whose end nobody has seen.
    fn exit_of(&self, record: &ContainerRecord) -> Option<Exit> {
        let read = self.store.record(RecordKind::Exit, &record.id).map_err(Error::from);
        let read = read.and_then(|exit| exit.map(|b| decode(&b)).transpose());
        read.unwrap_or_else(|e| {
            let path = self.store.root().join("containers").join(&record.id).join("exit.json");
            tracing::error!(container = short(&record.id), record = %path.display(), error = %e, "how the container ended cannot be read");
            None
        })
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::new(Kind::DataLoss, e.to_string()))
}

/// Whether nothing is wrong with a record but that this release is too old for it.
fn is_newer(error: &Error) -> bool {
    error.kind() == Kind::FailedPrecondition
}

/// Reads a record of this ID; its version comes first, since a newer one may have other fields.
fn parse<T: Record>(id: &str, bytes: &[u8]) -> Result<T> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let version = decode::<Version>(bytes)?.version;
    if version > T::VERSION {
        return Err(Error::precondition(format!(
            "it has version {version}, and this release reads up to {}: it was written by a newer stratad; install that again, \
             or remove the node's pods with it first",
            T::VERSION
        )));
    }
    let record: T = decode(bytes)?;
    if record.id() == id {
        Ok(record)
    } else {
        Err(Error::new(Kind::DataLoss, format!("it is the record of {}", short(record.id()))))
    }
}
