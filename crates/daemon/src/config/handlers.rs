//! `[runtime.handlers.NAME]`: what a RuntimeClass's handler changes of the built-in runtime.

use super::{CgroupDriver, ConfigError, bad};
use crate::cgroups::names;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The built-in runtime's own name; what it says also holds for pods without a RuntimeClass.
pub(crate) const STRATA: &str = "strata";

/// Handlers by name.
pub(crate) type Handlers = BTreeMap<String, Handler>;

/// What pods of one handler get where they do not say. A pod keeps what held when it was made, in its record: fields may be
/// added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Handler {
    /// The seccomp profile.
    pub(crate) seccomp: SeccompDefault,
    /// Whether privileged pods are run.
    pub(crate) privileged: bool,
    /// The network.
    pub(crate) network: HandlerNetwork,
    /// The parent of pods' cgroups, relative to each hierarchy's root; empty: `pods` below `[cgroup] root`.
    pub(crate) cgroup_parent: String,
    /// The most processes and threads of one container; 0: no limit of its own.
    pub(crate) pids_limit: u32,
    /// A user namespace for each pod that asks for none.
    pub(crate) user_namespace: Option<UserIds>,
}

/// IDs of the node that pods' user namespaces map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserIds {
    /// The first one, of users and of groups.
    pub(crate) first_id: u32,
    /// How many each pod gets.
    pub(crate) ids_per_pod: u32,
    /// For how many pods there are.
    pub(crate) pods: u32,
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            seccomp: SeccompDefault::Unconfined,
            privileged: true,
            network: HandlerNetwork::Default,
            cgroup_parent: String::new(),
            pids_limit: 0,
            user_namespace: None,
        }
    }
}

/// A default seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum SeccompDefault {
    /// `runtime/default`: Strata's own.
    Runtime,
    /// `unconfined`: none, as the conformance suite demands of a runtime that nobody has configured.
    #[default]
    Unconfined,
    /// `localhost/FILE`: one of the node's, below `runtime.seccomp_dir` or by its absolute path.
    File(PathBuf),
}

impl TryFrom<String> for SeccompDefault {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "runtime/default" => return Ok(Self::Runtime),
            "unconfined" => return Ok(Self::Unconfined),
            _ => {}
        }
        let file = text.strip_prefix("localhost/").filter(|f| {
            let mut parts = Path::new(f).components();
            !f.is_empty() && parts.all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
        });
        file.map(|f| Self::File(f.into())).ok_or_else(|| {
            format!("seccomp {text:?}: must be runtime/default, unconfined or localhost/FILE, without \"..\"")
        })
    }
}

impl From<SeccompDefault> for String {
    fn from(choice: SeccompDefault) -> Self {
        match choice {
            SeccompDefault::Runtime => "runtime/default".into(),
            SeccompDefault::Unconfined => "unconfined".into(),
            SeccompDefault::File(path) => format!("localhost/{}", path.display()),
        }
    }
}

/// A handler's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HandlerNetwork {
    /// What `[network] cri` says.
    #[default]
    Default,
    /// The cluster's CNI plugins.
    Cni,
    /// Strata's own bridge.
    Builtin,
    /// A namespace with a loopback interface only.
    None,
}

/// Refuses names and values that would only fail with a pod.
pub(super) fn check(handlers: &Handlers, driver: CgroupDriver) -> Result<(), ConfigError> {
    for (name, handler) in handlers {
        if !is_dns_label(name) {
            let why = "must be a name as RuntimeClass takes it: small letters, digits and dashes, at most 63";
            return Err(bad("runtime.handlers", name, why));
        }
        if !handler.cgroup_parent.is_empty()
            && let Err(why) = names::check_configured(driver, &handler.cgroup_parent)
        {
            let value = format!("{name}: cgroup_parent = {}", handler.cgroup_parent);
            return Err(bad("runtime.handlers", value, why));
        }
        if let Some(ids) = handler.user_namespace {
            let end = u64::from(ids.first_id) + u64::from(ids.ids_per_pod) * u64::from(ids.pods);
            if ids.first_id == 0 || ids.ids_per_pod == 0 || ids.pods == 0 || end > u64::from(u32::MAX) {
                let value = format!("{name}: user_namespace = {ids:?}");
                let why =
                    "first_id, ids_per_pod and pods must be more than 0, and the last ID at most 4294967294";
                return Err(bad("runtime.handlers", value, why));
            }
        }
    }
    Ok(())
}

/// Whether a text is an RFC 1123 label, which RuntimeClass.handler must be.
fn is_dns_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let config = Config::parse(Path::new("x"), text)?;
        config.check().map(|()| config)
    }

    #[test]
    fn a_table_changes_what_it_names() {
        let text = "[runtime.handlers.locked]\nseccomp = \"localhost/strict.json\"\nprivileged = false\n\
                    network = \"none\"\ncgroup_parent = \"/locked\"\npids_limit = 64\n\
                    user_namespace = { first_id = 1000000, ids_per_pod = 65536, pods = 9 }\n[runtime.handlers.plain]\n";
        let handlers = parse(text).unwrap().runtime.handlers;
        let locked = Handler {
            seccomp: SeccompDefault::File("strict.json".into()),
            privileged: false,
            network: HandlerNetwork::None,
            cgroup_parent: "/locked".into(),
            pids_limit: 64,
            user_namespace: Some(UserIds { first_id: 1_000_000, ids_per_pod: 65_536, pods: 9 }),
        };
        assert_eq!(handlers["locked"], locked);
        assert_eq!(handlers["plain"], Handler::default());
        // As a pod keeps it.
        let kept = serde_json::to_string(&locked).unwrap();
        assert_eq!(serde_json::from_str::<Handler>(&kept).unwrap(), locked);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        for (text, told) in [
            ("[runtime.handlers.a]\nsecomp = \"unconfined\"\n", "secomp"),
            ("[runtime.handlers.a]\nseccomp = \"none\"\n", "localhost/FILE"),
            ("[runtime.handlers.a]\nseccomp = \"localhost/../x\"\n", "localhost/FILE"),
            ("[runtime.handlers.a]\nnetwork = \"host\"\n", "network"),
            ("[runtime.handlers.a]\npids_limit = -1\n", "pids_limit"),
            ("[runtime.handlers.a]\ncgroup_parent = \"/a/../b\"\n", "cgroup_parent"),
            (
                "[runtime.handlers.a]\nuser_namespace = { first_id = 0, ids_per_pod = 1, pods = 1 }\n",
                "first_id",
            ),
            (
                "[runtime.handlers.a]\nuser_namespace = { first_id = 1, ids_per_pod = 65536, pods = 65536 }\n",
                "4294967294",
            ),
            ("[runtime.handlers.A_b]\n", "A_b"),
            ("[runtime.handlers.\"\"]\n", "runtime.handlers"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(told), "{text}: {message}");
        }
    }
}
