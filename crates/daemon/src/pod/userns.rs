//! User namespaces: what CRI asks for, checked, and whether this node can.
//!
//! The kubelet gives each pod that has `hostUsers: false` 65536 IDs of the node of its own, and the same map with each volume.

use crate::error::{Error, Result};
use crate::request::known;
use std::path::Path;
use std::sync::OnceLock;
use strata_api::cri;
use strata_sys::clone::CloneFlags;
use strata_sys::mount;
use strata_sys::ns::NsKind;
use strata_sys::userns::{self, Range};
use strata_wire::plan::{IdMap, IdRange};

/// What a pod's user namespace maps; `None`: the pod has the node's.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for modes and maps that make no sense, and for one beside namespaces of
/// the node, which its root would have no rights in.
pub(crate) fn of_pod(config: &cri::PodSandboxConfig) -> Result<Option<IdMap>> {
    let options = super::run::namespace_options(config);
    let Some(asked) = &options.userns_options else { return Ok(None) };
    let ids = of_options(asked)?;
    let of_node = [("network", options.network()), ("PID", options.pid()), ("IPC", options.ipc())];
    match of_node.into_iter().find(|(_, mode)| *mode == cri::NamespaceMode::Node) {
        Some((which, _)) if ids.is_some() => Err(Error::invalid(format!(
            "a pod with a user namespace cannot use the node's {which} namespace; set hostUsers: true, or leave the other one out"
        ))),
        _ => Ok(ids),
    }
}

fn of_options(asked: &cri::UserNamespace) -> Result<Option<IdMap>> {
    let mapped = !asked.uids.is_empty() || !asked.gids.is_empty();
    match known(asked.mode, "userns_options.mode")? {
        cri::NamespaceMode::Node if mapped => {
            Err(Error::invalid("userns_options: mode NODE has no mappings; use POD, or leave them out"))
        }
        cri::NamespaceMode::Node => Ok(None),
        cri::NamespaceMode::Pod => {
            let ids = ids(&asked.uids, &asked.gids).map_err(|e| e.context("userns_options"))?;
            if ids.uids.inside != 0 || ids.gids.inside != 0 {
                return Err(Error::invalid("userns_options: container_id must be 0: root needs a number"));
            }
            if ids.uids.length != ids.gids.length {
                return Err(Error::invalid(format!(
                    "userns_options: {} users and {} groups are mapped; map as many of each",
                    ids.uids.length, ids.gids.length
                )));
            }
            Ok(Some(ids))
        }
        other => Err(Error::invalid(format!(
            "userns_options: mode {} is not known for user namespaces; use POD or NODE",
            other.as_str_name()
        ))),
    }
}

fn ids(uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> Result<IdMap> {
    let one = |list: &[cri::IdMapping], what: &str| {
        let [m] = list else {
            let text = format!("{} {what} mappings are given, and exactly one is taken", list.len());
            return Err(Error::invalid(text));
        };
        // The last number means no ID (setuid(2)).
        let fits = |first: u32| first.checked_add(m.length).is_some();
        if m.length == 0 || !fits(m.host_id) || !fits(m.container_id) {
            return Err(Error::invalid(format!(
                "{what} mapping of {} IDs from {} to {}: it must not be empty, nor end beyond the last ID",
                m.length, m.container_id, m.host_id
            )));
        }
        Ok(IdRange { inside: m.container_id, outside: m.host_id, length: m.length })
    };
    Ok(IdMap { uids: one(uids, "UID")?, gids: one(gids, "GID")? })
}

/// Whether a container asks for its pod's user namespace; one that says nothing gets it too.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) if it asks for another one.
pub(crate) fn check_container(
    pod: &cri::PodSandboxConfig,
    container: &cri::LinuxContainerSecurityContext,
) -> Result<()> {
    let asked = container.namespace_options.as_ref().and_then(|o| o.userns_options.as_ref());
    match asked {
        Some(asked) if of_options(asked)? != of_pod(pod)? => Err(Error::invalid(
            "the container's userns_options differ from its pod's; containers share their pod's user namespace",
        )),
        _ => Ok(()),
    }
}

/// What a volume's files are shown as.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for maps that make no sense.
pub(crate) fn of_mount(asked: &cri::Mount) -> Result<Option<IdMap>> {
    if asked.uid_mappings.is_empty() && asked.gid_mappings.is_empty() {
        return Ok(None);
    }
    ids(&asked.uid_mappings, &asked.gid_mappings)
        .map(Some)
        .map_err(|e| e.context(format!("mount on {}", asked.container_path)))
}

/// Refuses users and groups that a pod's namespace does not map: nothing could be theirs.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument), naming the number.
pub(crate) fn check_user(ids: Option<IdMap>, uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let Some(ids) = ids else { return Ok(()) };
    let bad = |what: &str, id: u32, length: u32| {
        Err(Error::invalid(format!(
            "{what} {id} is not mapped: the pod's user namespace has {length} of them; use a lower one"
        )))
    };
    if ids.uids.to_host(uid).is_none() {
        return bad("user", uid, ids.uids.length);
    }
    match std::iter::once(&gid).chain(groups).find(|gid| ids.gids.to_host(**gid).is_none()) {
        Some(gid) => bad("group", *gid, ids.gids.length),
        None => Ok(()),
    }
}

/// A map as the kernel takes it.
pub(crate) fn ranges(ids: IdMap) -> ([Range; 1], [Range; 1]) {
    let range = |r: IdRange| [Range { inside: r.inside, outside: r.outside, length: r.length }];
    (range(ids.uids), range(ids.gids))
}

/// Why pods cannot have user namespaces, where they cannot: the kernel makes none, or the store's file system cannot be shown
/// through one. Found out once.
pub(crate) fn lacking(store: &Path) -> Option<&'static str> {
    static KNOWN: OnceLock<Option<String>> = OnceLock::new();
    let why = KNOWN.get_or_init(|| {
        let error = probe(store).err()?;
        tracing::info!(store = %store.display(), %error, "pods cannot have user namespaces here");
        Some(error.to_string())
    });
    why.as_deref()
}

fn probe(store: &Path) -> strata_sys::Result<()> {
    let range = [Range { inside: 0, outside: 65_536, length: 1 }];
    let namespace = userns::hold(&range, &range, CloneFlags::empty())?.open(NsKind::User)?;
    let tree = mount::clone_tree(rustix::fs::CWD, store, false)?;
    mount::idmap(&tree, namespace, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping { host_id, container_id, length }
    }

    fn options(
        mode: cri::NamespaceMode,
        uids: &[cri::IdMapping],
        gids: &[cri::IdMapping],
    ) -> cri::UserNamespace {
        cri::UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() }
    }

    fn pod(user: Option<cri::UserNamespace>) -> cri::PodSandboxConfig {
        let namespaces = cri::NamespaceOption { userns_options: user, ..Default::default() };
        cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(user: Option<cri::UserNamespace>) -> cri::LinuxContainerSecurityContext {
        let namespaces = cri::NamespaceOption { userns_options: user, ..Default::default() };
        cri::LinuxContainerSecurityContext { namespace_options: Some(namespaces), ..Default::default() }
    }

    #[test]
    fn one_map_that_begins_with_root_is_taken() {
        use cri::NamespaceMode::{Container, Node, Pod, Target};
        let good = [mapping(0, 1000, 100_000)];
        let ids = of_pod(&pod(Some(options(Pod, &good, &good)))).unwrap().unwrap();
        assert_eq!(ids.uids, IdRange { inside: 0, outside: 1000, length: 100_000 });
        assert_eq!(of_pod(&pod(Some(options(Node, &[], &[])))).unwrap(), None);
        assert_eq!(of_pod(&pod(None)).unwrap(), None);
        let two = [mapping(0, 1000, 10), mapping(10, 2000, 10)];
        for bad in [
            options(Pod, &[], &[]),
            options(Pod, &good, &[]),
            options(Pod, &two, &two),
            options(Pod, &[mapping(1, 1000, 10)], &[mapping(1, 1000, 10)]),
            options(Pod, &good, &[mapping(0, 1000, 99)]),
            options(Pod, &[mapping(0, 1000, 0)], &[mapping(0, 1000, 0)]),
            options(Pod, &[mapping(0, u32::MAX, 2)], &[mapping(0, 0, 2)]),
            options(Node, &good, &good),
            options(Container, &[], &[]),
            options(Target, &good, &good),
        ] {
            let error = of_pod(&pod(Some(bad.clone()))).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn the_nodes_other_namespaces_are_refused_beside_it() {
        let good = [mapping(0, 1000, 1000)];
        let node = cri::NamespaceMode::Node;
        for edit in [
            |o: &mut cri::NamespaceOption, m| o.set_network(m),
            |o: &mut cri::NamespaceOption, m| o.set_pid(m),
            |o: &mut cri::NamespaceOption, m| o.set_ipc(m),
        ] {
            let mut config = pod(Some(options(cri::NamespaceMode::Pod, &good, &good)));
            let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).unwrap();
            edit(context.namespace_options.as_mut().unwrap(), node);
            assert!(of_pod(&config).is_err());
            let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).unwrap();
            context.namespace_options.as_mut().unwrap().userns_options = None;
            assert_eq!(of_pod(&config).unwrap(), None);
        }
    }

    #[test]
    fn containers_share_their_pods() {
        let map = |host| options(cri::NamespaceMode::Pod, &[mapping(0, host, 10)], &[mapping(0, host, 10)]);
        let node = options(cri::NamespaceMode::Node, &[], &[]);
        let of = |p: Option<&cri::UserNamespace>, c: Option<&cri::UserNamespace>| {
            check_container(&pod(p.cloned()), &container(c.cloned()))
        };
        assert!(of(Some(&map(7)), Some(&map(7))).is_ok() && of(Some(&map(7)), None).is_ok());
        assert!(of(None, Some(&node)).is_ok() && of(Some(&node), None).is_ok());
        for (p, c) in
            [(Some(map(7)), map(8)), (Some(map(7)), node.clone()), (None, map(7)), (Some(node), map(7))]
        {
            assert!(of(p.as_ref(), Some(&c)).is_err());
        }
    }

    #[test]
    fn users_beyond_the_map_are_refused() {
        let range = IdRange { inside: 0, outside: 5000, length: 1000 };
        let ids = Some(IdMap { uids: range, gids: range });
        assert!(check_user(ids, 999, 0, &[999]).is_ok() && check_user(None, 5000, 5000, &[5000]).is_ok());
        for (uid, gid, group) in [(1000, 0, 0), (0, 1000, 0), (0, 0, 1000)] {
            let error = check_user(ids, uid, gid, &[group]).unwrap_err();
            assert!(error.to_string().contains("1000 is not mapped"), "{error}");
        }
    }
}
