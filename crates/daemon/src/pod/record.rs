//! What is kept of a pod: `<root>/pods/<id>/pod.json`.
//!
//! Fields are only ever added, with a default; [`VERSION`] goes up when a meaning changes, and a newer record is refused.
//!
//! ```text
//!  written                     state      network.owed
//!  before anything is made     creating   what attaching would owe
//!  once everything is up       ready      the same, and the attachment
//!  once it has been stopped    notready   false, unless detaching failed
//!  before it is taken apart    discarding as it was
//! ```

use super::resources::PodResources;
use super::state::PodState;
use crate::config::Handler;
use crate::net::devices::Lent;
use crate::net::{Attachment, Intent};
use crate::request::{NetworkMode, Origin, PodRequest};
use serde::{Deserialize, Serialize};
use strata_api::cri;
use strata_wire::plan::PodNamespaces;

/// The records' version.
pub(crate) const VERSION: u32 = 1;

/// A pod's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// [`VERSION`] of the writer.
    pub(crate) version: u32,
    /// Its ID.
    pub(crate) id: String,
    /// Who asked for it.
    pub(crate) origin: Origin,
    /// The RuntimeClass handler it was asked with.
    pub(crate) handler: String,
    /// What that handler said when the pod was made.
    #[serde(default, deserialize_with = "known")]
    pub(crate) defaults: Handler,
    /// What was asked for, with the user namespace that the handler gave.
    pub(crate) config: cri::PodSandboxConfig,
    /// What was asked for, if that is something else.
    #[serde(default)]
    pub(crate) asked: Option<cri::PodSandboxConfig>,
    /// When, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The boot during which it was last brought up.
    pub(crate) boot_id: String,
    /// Where it stands.
    pub(crate) state: PodState,
    /// The parent of its containers' cgroups, relative to each hierarchy's root.
    pub(crate) cgroup_parent: String,
    /// Whether that cgroup is Strata's to remove.
    pub(crate) owns_cgroup: bool,
    /// Its pinned namespaces.
    pub(crate) namespaces: PodNamespaces,
    /// Its network.
    pub(crate) network: PodNetwork,
    /// The SELinux level that its containers share, if this kernel has levels: what was asked for, or its own pair of categories.
    #[serde(default)]
    pub(crate) selinux_level: Option<String>,
    /// Its limits as last updated; those that it was made with are in its configuration.
    #[serde(default)]
    pub(crate) resources: PodResources,
}

/// A pod's network, the journal of attaching and detaching included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodNetwork {
    /// As asked for.
    pub(crate) mode: NetworkMode,
    /// Who attaches and detaches it; `None`: nobody, it is on the host's or has none.
    pub(crate) provider: Option<String>,
    /// Whether it must be detached: set before attaching begins.
    pub(crate) owed: bool,
    /// What its provider needs to detach it, whatever has become of the configuration by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) intent: Option<Intent>,
    /// What attaching answered.
    pub(crate) attachment: Option<Attachment>,
    /// Interfaces of the node's that it has, or is about to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<Lent>,
}

impl PodNetwork {
    /// Whether something of the node's has to be given back.
    pub(crate) fn owes(&self) -> bool {
        self.owed || !self.devices.is_empty()
    }
}

/// A handler's settings, as far as this release knows them: the configuration refuses others, a record must not.
fn known<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Handler, D::Error> {
    use serde::de::Error;
    let mut kept = serde_json::Map::deserialize(deserializer)?;
    let own = serde_json::to_value(Handler::default()).map_err(D::Error::custom)?;
    kept.retain(|key, _| own.get(key).is_some());
    serde_json::from_value(kept.into()).map_err(D::Error::custom)
}

impl PodRecord {
    /// What the pod was asked for with.
    pub(crate) fn request(&self) -> PodRequest {
        PodRequest {
            config: self.asked.as_ref().unwrap_or(&self.config).clone(),
            handler: self.handler.clone(),
            origin: self.origin,
            network: self.network.mode,
        }
    }
}

/// What makes a pod one of a kind among those that are not being discarded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodKey {
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
}

impl PodKey {
    /// The key that CRI's metadata say.
    pub(crate) fn of(config: &cri::PodSandboxConfig) -> Self {
        let m = config.metadata.clone().unwrap_or_default();
        Self { namespace: m.namespace, name: m.name, uid: m.uid, attempt: m.attempt }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}
