//! Kernel parameters of a pod's own namespaces (kubernetes.io, "Using sysctls in a Kubernetes Cluster").

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use strata_wire::plan::IdMap;

/// Checked parameters: a path below /proc/sys, a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sysctls {
    all: Vec<(PathBuf, String)>,
    own_net: bool,
    /// Not asked for: where the kernel refuses one, the pod does without.
    defaults: Vec<(PathBuf, String)>,
}

/// Ports below this one are root's (ip-sysctl.rst).
const PORTS: &str = "net/ipv4/ip_unprivileged_port_start";
/// The groups that may send pings without rights (ip-sysctl.rst).
const PING: &str = "net/ipv4/ping_group_range";

/// In the IPC namespace (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

impl Sysctls {
    /// Checks names: each must belong to a namespace that the pod has of its own.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument), naming the parameter.
    pub(crate) fn new(asked: &HashMap<String, String>, own_net: bool, own_ipc: bool) -> Result<Self> {
        let mut all = Vec::new();
        for (name, value) in asked {
            let dotted = name.replace('/', ".");
            let parts: Vec<&str> = dotted.split('.').collect();
            if parts.iter().any(|p| p.is_empty()) || dotted.contains('\0') || value.contains('\0') {
                return Err(Error::invalid(format!("sysctl {name:?} is no name of a kernel parameter")));
            }
            let (own, which) = if dotted.starts_with("net.") {
                (own_net, "network")
            } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
                (own_ipc, "IPC")
            } else if dotted == "kernel.domainname" {
                // A pod has a UTS namespace of its own exactly if it has a network namespace.
                (own_net, "UTS")
            } else {
                return Err(Error::invalid(format!(
                    "sysctl {name} is not of a namespace: it would change the whole node; set it on the node"
                )));
            };
            if !own {
                return Err(Error::invalid(format!(
                    "sysctl {name} is not allowed: the pod uses the node's {which} namespace"
                )));
            }
            // Interface names may hold dots, which only the form with slashes can say.
            let path: PathBuf =
                if name.contains('/') { name.split('/').collect() } else { parts.iter().collect() };
            all.push((path, value.clone()));
        }
        all.sort();
        Ok(Self { all, own_net, defaults: Vec::new() })
    }

    /// What other runtimes let every user of a pod's network do: bind any port, and send pings. They are not root's to deny, since
    /// the network is the pod's own. Groups are those of the pod's user namespace, if it has one.
    pub(crate) fn for_users(mut self, ids: Option<IdMap>) -> Self {
        if !self.own_net {
            return self;
        }
        for (name, value) in [(PORTS, "0"), (PING, "0 2147483647")] {
            if !self.all.iter().any(|(path, _)| path == Path::new(name)) {
                self.defaults.push((name.into(), value.into()));
            }
        }
        let Some(range) = ids.map(|ids| ids.gids) else { return self };
        let all = self.all.iter_mut().chain(&mut self.defaults);
        for (_, value) in all.filter(|(path, _)| path == Path::new(PING)) {
            // The kernel takes the writer's numbers.
            let last = range.inside.saturating_add(range.length - 1);
            let groups: Vec<u32> = value.split_whitespace().filter_map(|g| g.parse().ok()).collect();
            if let [from, to] = groups[..]
                && let (Some(from), Some(to)) = (range.to_host(from), range.to_host(to.min(last)))
            {
                *value = format!("{from} {to}");
            }
        }
        self
    }

    /// Writes those of the network, which whoever administers it may, for this thread's namespace.
    pub(crate) fn apply_net(&self) -> Result<()> {
        for (path, value) in &self.defaults {
            if let Err(e) = std::fs::write(Path::new("/proc/sys").join(path), value) {
                tracing::debug!(path = %path.display(), value, error = %e, "kernel parameter left as it is");
            }
        }
        self.write(|path| path.starts_with("net"))
    }

    /// Writes the others, which the root of the user namespace that owns the namespace may.
    pub(crate) fn apply_ipc(&self) -> Result<()> {
        self.write(|path| !path.starts_with("net"))
    }

    fn write(&self, wanted: impl Fn(&Path) -> bool) -> Result<()> {
        for (path, value) in self.all.iter().filter(|(path, _)| wanted(path)) {
            let path = PathBuf::from("/proc/sys").join(path);
            std::fs::write(&path, value).map_err(|e| {
                Error::invalid(format!("sysctl {} cannot be set to {value:?}: {e}", path.display()))
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, net: bool, ipc: bool) -> Result<Sysctls> {
        Sysctls::new(&[(name.to_owned(), "1".to_owned())].into(), net, ipc)
    }

    #[test]
    fn pings_are_for_the_groups_of_the_pod() {
        use strata_wire::plan::IdRange;
        let range = IdRange { inside: 0, outside: 5000, length: 1000 };
        let ids = Some(IdMap { uids: range, gids: range });
        let ping = |sysctls: Sysctls| {
            let mut all = sysctls.all.into_iter().chain(sysctls.defaults);
            all.find(|(path, _)| path == Path::new(PING)).map(|(_, value)| value)
        };
        let none = || Sysctls::new(&HashMap::new(), true, true).unwrap();
        assert_eq!(ping(none().for_users(None)).as_deref(), Some("0 2147483647"));
        assert_eq!(ping(none().for_users(ids)).as_deref(), Some("5000 5999"));
        let asked = [("net.ipv4.ping_group_range".to_owned(), "5 10".to_owned())].into();
        let asked = || Sysctls::new(&asked, true, true).unwrap();
        assert_eq!(ping(asked().for_users(None)).as_deref(), Some("5 10"));
        assert_eq!(ping(asked().for_users(ids)).as_deref(), Some("5005 5010"));
        let of_node = Sysctls::new(&HashMap::new(), false, true).unwrap();
        assert_eq!(of_node.clone().for_users(ids), of_node);
    }

    #[test]
    fn only_the_pods_own_parameters_are_taken() {
        assert!(of("net.ipv4.ip_forward", true, false).is_ok());
        assert!(of("net/ipv4/conf/eth0.1/forwarding", true, true).is_ok());
        assert!(of("kernel.shm_rmid_forced", true, true).is_ok());
        assert!(of("fs.mqueue.msg_max", true, true).is_ok());
        assert!(of("kernel.domainname", true, true).is_ok() && of("kernel.domainname", false, true).is_err());
        for bad in ["net.ipv4.ip_forward", "kernel.sem"] {
            assert!(of(bad, false, false).is_err(), "{bad}");
        }
        for bad in ["kernel.panic", "vm.swappiness", "", "net..x", "net.../x", "../x", "net/../../vm/x"] {
            assert!(of(bad, true, true).is_err(), "{bad}");
        }
    }
}
