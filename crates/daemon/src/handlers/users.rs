//! User namespaces that a handler gives to pods that ask for none.
//!
//! Such a pod's record holds the configuration as if it had asked for the map that it got, and beside it what it asked for
//! ([`PodRecord::asked`](crate::pod::record::PodRecord)): everything else sees a pod with a user namespace.

use crate::config::UserIds;
use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::pod::record::PodKey;
use crate::pod::run::namespace_options;
use crate::pod::state::PodState;
use crate::pod::userns;
use crate::request::PodRequest;
use strata_api::cri;
use strata_wire::plan::IdRange;

impl Node {
    /// The configuration of a pod whose handler gives it a user namespace; `None`: as it was asked for. The caller keeps others
    /// from choosing until the pod is known.
    ///
    /// # Errors
    /// If the pod also wants namespaces of the node, this kernel or file system cannot map IDs, or all are taken.
    pub(crate) fn with_users(
        &self,
        request: &PodRequest,
        ids: Option<UserIds>,
    ) -> Result<Option<cri::PodSandboxConfig>> {
        let Some(ids) = ids.filter(|_| leaves_it(&request.config)) else { return Ok(None) };
        let table = format!("[runtime.handlers.{}] user_namespace", request.handler);
        if let Some(why) = userns::lacking(self.store.root()) {
            return Err(Error::precondition(format!(
                "{table}: this node cannot map the IDs of {}: {why}; leave the key out, or use another file system",
                self.store.root().display()
            )));
        }
        // The pod that the same request has made is not in its own way: it is found in the end.
        let own = PodKey::of(&request.config);
        let others = self.pods.all();
        let others = others.iter().filter(|p| *p.key() != own || p.state() == PodState::Discarding);
        let taken = others.filter_map(|p| userns::of_pod(p.config()).ok().flatten());
        let taken: Vec<IdRange> = taken.flat_map(|m| [m.uids, m.gids]).collect();
        let first = free(ids, &taken).ok_or_else(|| {
            let text =
                format!("{table}: all {} ranges are taken by pods; remove pods, or raise pods", ids.pods);
            Error::new(Kind::ResourceExhausted, text)
        })?;
        let config = mapped(request.config.clone(), first, ids.ids_per_pod);
        userns::of_pod(&config).map_err(|e| e.context(table))?;
        Ok(Some(config))
    }
}

/// Whether a pod leaves it to its handler. The kubelet says NODE for pods whose hostUsers is unset as for those that set it.
fn leaves_it(config: &cri::PodSandboxConfig) -> bool {
    let asked = namespace_options(config).userns_options;
    asked.is_none_or(|u| u.mode() == cri::NamespaceMode::Node && u.uids.is_empty() && u.gids.is_empty())
}

/// Whether a container does: whatever its pod has, it has too.
pub(crate) fn container_leaves_it(context: &cri::LinuxContainerSecurityContext) -> bool {
    let asked = context.namespace_options.as_ref().and_then(|o| o.userns_options.as_ref());
    asked.is_none_or(|u| u.mode() == cri::NamespaceMode::Node && u.uids.is_empty() && u.gids.is_empty())
}

/// The first ID of a range that nothing of what is taken lies in.
fn free(ids: UserIds, taken: &[IdRange]) -> Option<u32> {
    let ends = |first: u32, length: u32| u64::from(first) + u64::from(length);
    let apart = |first: u32| {
        let end = ends(first, ids.ids_per_pod);
        taken.iter().all(|t| end <= u64::from(t.outside) || ends(t.outside, t.length) <= u64::from(first))
    };
    let mut firsts = (0..ids.pods).filter_map(|n| n.checked_mul(ids.ids_per_pod)?.checked_add(ids.first_id));
    firsts.find(|first| apart(*first))
}

fn mapped(mut config: cri::PodSandboxConfig, first: u32, length: u32) -> cri::PodSandboxConfig {
    let map = vec![cri::IdMapping { host_id: first, container_id: 0, length }];
    let user = cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: map.clone(), gids: map };
    let context = &mut config.linux.get_or_insert_default().security_context;
    // A context that is not there means PIDs of the containers' own; an empty one means the pod's.
    let pid = if context.is_some() { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    let none = cri::NamespaceOption { pid: pid.into(), ..Default::default() };
    let options = context.get_or_insert_default().namespace_options.get_or_insert(none);
    options.userns_options = Some(user);
    config
}

/// Mounts with their pod's map, where they have none: the kubelet does not know of it.
pub(crate) fn mapped_mounts(mounts: &[cri::Mount], pod: &cri::PodSandboxConfig) -> Vec<cri::Mount> {
    let Some(user) = namespace_options(pod).userns_options else { return mounts.to_vec() };
    let mut mounts = mounts.to_vec();
    for mount in &mut mounts {
        if mount.image.is_none() && mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
            // On the disk are the numbers that the container sees.
            mount.uid_mappings.clone_from(&user.uids);
            mount.gid_mappings.clone_from(&user.gids);
        }
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: UserIds = UserIds { first_id: 1_000_000, ids_per_pod: 1000, pods: 3 };

    fn taken(outside: u32, length: u32) -> IdRange {
        IdRange { inside: 0, outside, length }
    }

    #[test]
    fn the_first_range_that_is_free_is_taken() {
        assert_eq!(free(IDS, &[]), Some(1_000_000));
        assert_eq!(free(IDS, &[taken(1_000_000, 1000)]), Some(1_001_000));
        // One of the kubelet's that reaches into two of ours.
        assert_eq!(free(IDS, &[taken(1_000_999, 2)]), Some(1_002_000));
        assert_eq!(free(IDS, &[taken(0, 1_000_000), taken(1_001_000, 5000)]), Some(1_000_000));
        assert_eq!(free(IDS, &[taken(0, u32::MAX)]), None);
    }

    #[test]
    fn a_pod_without_options_keeps_what_that_means() {
        let config = mapped(cri::PodSandboxConfig::default(), 5000, 1000);
        assert_eq!(namespace_options(&config).pid(), cri::NamespaceMode::Container);
        let ids = userns::of_pod(&config).unwrap().unwrap();
        assert_eq!((ids.uids, ids.gids), (taken(5000, 1000), taken(5000, 1000)));
        assert!(!leaves_it(&config) && leaves_it(&cri::PodSandboxConfig::default()));
        let volume = cri::Mount { container_path: "/v".into(), host_path: "/v".into(), ..Default::default() };
        let shown = mapped_mounts(std::slice::from_ref(&volume), &config);
        assert_eq!(shown[0].uid_mappings[0].host_id, 5000);
    }
}
