//! Capabilities (capabilities(7)): the default set, what is added and dropped, and what this node has.

use crate::error::{Error, Result};
use strata_api::cri;
use strata_oci::caps as names;
use strata_wire::plan::Capabilities;

/// The sets of a container's process on a node whose bounding set is `node`.
///
/// `ALL` is taken first, single names after it, drops last. Defaults and `ALL` are cut to what the node has.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for an unknown name,
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) for an added one that the node does not have.
pub(crate) fn capabilities(wanted: &cri::Capability, privileged: bool, node: u64) -> Result<Capabilities> {
    let mut set = if privileged { node } else { names::default_mask() & node };
    if wanted.add_capabilities.iter().any(|n| is_all(n)) {
        set = node;
    }
    if wanted.drop_capabilities.iter().any(|n| is_all(n)) && !privileged {
        set = 0;
    }
    set |= named(&wanted.add_capabilities, Some(node))?;
    let ambient = named(&wanted.add_ambient_capabilities, Some(node))?;
    set |= ambient;
    let dropped = named(&wanted.drop_capabilities, None)?;
    if !privileged {
        set &= !dropped;
    }
    let ambient = ambient & set;
    // The inheritable set stays empty but for what is ambient: a set one leaks rights into files with inheritable
    // capabilities (CVE-2022-24769).
    Ok(Capabilities { bounding: set, effective: set, permitted: set, inheritable: ambient, ambient })
}

fn is_all(name: &str) -> bool {
    let name = name.trim();
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

/// The union of these names but for `ALL`; of those that the node must have, each one that it lacks is an error.
fn named(names: &[String], node: Option<u64>) -> Result<u64> {
    let mut set = 0;
    for name in names.iter().filter(|n| !is_all(n)) {
        let bit = names::by_name(name.trim()).ok_or_else(|| {
            Error::invalid(format!(
                "unknown capability {name:?}; capabilities(7) lists them, CAP_ may be left out"
            ))
        })?;
        if node.is_some_and(|node| bit & !node != 0) {
            return Err(Error::precondition(format!(
                "capability {name} cannot be added: stratad itself does not have it in its bounding set on this node"
            )));
        }
        set |= bit;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use strata_sys::caps;

    fn wanted(add: &[&str], drop: &[&str]) -> cri::Capability {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        cri::Capability { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Default::default() }
    }

    fn bit(name: &str) -> u64 {
        names::by_name(name).unwrap()
    }

    fn set(add: &[&str], drop: &[&str]) -> u64 {
        capabilities(&wanted(add, drop), false, caps::all()).unwrap().effective
    }

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        assert_eq!(set(&[], &[]).count_ones(), 14);
        for name in ["SYS_ADMIN", "CAP_SYS_ADMIN", "sys_admin", "cap_sys_admin"] {
            assert_eq!(set(&[name], &[]), names::default_mask() | bit("CAP_SYS_ADMIN"), "{name}");
        }
        assert_eq!(set(&[], &["chown"]), names::default_mask() & !bit("CAP_CHOWN"));
    }

    #[test]
    fn all_comes_first_and_drops_come_last() {
        assert_eq!(set(&["ALL"], &[]), caps::all());
        assert_eq!(set(&[], &["ALL"]), 0);
        assert_eq!(set(&["NET_ADMIN"], &["all"]), bit("CAP_NET_ADMIN"));
        assert_eq!(set(&["ALL"], &["NET_ADMIN"]), caps::all() & !bit("CAP_NET_ADMIN"));
        assert_eq!(set(&["CHOWN"], &["CHOWN"]), names::default_mask() & !bit("CAP_CHOWN"));
    }

    #[test]
    fn what_the_node_lacks_is_an_error_only_if_it_was_asked_for() {
        let node = caps::all() & !bit("CAP_SYS_RESOURCE") & !bit("CAP_CHOWN");
        let of = |add: &[&str]| capabilities(&wanted(add, &[]), false, node);
        assert_eq!(of(&[]).unwrap().bounding, names::default_mask() & !bit("CAP_CHOWN"));
        assert_eq!(of(&["ALL"]).unwrap().bounding, node);
        let error = of(&["SYS_RESOURCE"]).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("SYS_RESOURCE"));
        assert_eq!(of(&["NOPE"]).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(capabilities(&wanted(&[], &["ALL"]), true, node).unwrap().effective, node);
    }

    #[test]
    fn only_ambient_ones_are_inheritable() {
        let mut w = wanted(&[], &[]);
        w.add_ambient_capabilities = vec!["NET_BIND_SERVICE".into()];
        let sets = capabilities(&w, false, caps::all()).unwrap();
        assert_eq!(
            (sets.ambient, sets.inheritable),
            (bit("CAP_NET_BIND_SERVICE"), bit("CAP_NET_BIND_SERVICE"))
        );
        assert_eq!(set(&[], &[]), capabilities(&wanted(&[], &[]), false, caps::all()).unwrap().permitted);
    }
}
