//! Names of cgroups: paths of files, and systemd's units, whose names say where they are (systemd.slice(5)).
//!
//! ```text
//!   cgroupfs   /kubepods/burstable/pod7c1e…/<id>
//!   systemd    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7c1e….slice/strata-<id>.scope
//! ```

use crate::config::{CgroupDriver, plain_cgroup};
use crate::error::{Error, Result};

const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";

/// Whether a cgroup is a unit of systemd's, by its name.
pub(crate) fn is_unit(name: &str) -> bool {
    name.ends_with(SLICE) || name.ends_with(SCOPE)
}

/// The last part of a cgroup's name.
pub(crate) fn unit(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Where a slice is: `a-b.slice` is in `a.slice`, as `/a.slice/a-b.slice`. `None` if this is no name of a slice.
pub(crate) fn expand(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(SLICE)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\-".contains(c);
    if stem.is_empty() || slice.len() > 255 || !stem.chars().all(plain) || stem.split('-').any(str::is_empty)
    {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("/{}{SLICE}", &stem[..end])).collect())
}

/// The slice for a cgroup that is configured by a path: `/a/b` is `a-b.slice`. Dashes in the path become `_`, as in the
/// kubelet's names.
fn slice_of_path(path: &str) -> String {
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(|p| p.replace('-', "_")).collect();
    format!("{}{SLICE}", parts.join("-"))
}

/// A slice directly below another one.
fn slice_below(slice: &str, name: &str) -> String {
    let stem = unit(slice).strip_suffix(SLICE).unwrap_or_default();
    format!("{slice}/{stem}-{}{SLICE}", name.replace('-', "_"))
}

/// Below which everything of Strata's own lies.
pub(crate) fn root(driver: CgroupDriver, root: &str) -> String {
    match driver {
        CgroupDriver::Cgroupfs => root.to_owned(),
        CgroupDriver::Systemd => expand(&slice_of_path(root)).unwrap_or_else(|| "/strata.slice".into()),
    }
}

/// A cgroup of Strata's own that only has others in it.
pub(crate) fn inner(parent: &str, name: &str) -> String {
    if parent.ends_with(SLICE) { slice_below(parent, name) } else { format!("{parent}/{name}") }
}

/// A cgroup for processes of a container or a pod with this ID.
pub(crate) fn leaf(parent: &str, id: &str) -> String {
    if parent.ends_with(SLICE) { format!("{parent}/strata-{id}{SCOPE}") } else { format!("{parent}/{id}") }
}

/// The last parts of what [`leaf`] makes for these IDs, whoever the parent is.
pub(crate) fn leaves(ids: &[String]) -> Vec<String> {
    ids.iter().flat_map(|id| [id.clone(), format!("strata-{id}{SCOPE}")]).collect()
}

/// The ID for which [`leaf`] has made this name, which is only the last part here.
pub(crate) fn id_of_leaf(name: &str) -> &str {
    name.strip_prefix("strata-").and_then(|n| n.strip_suffix(SCOPE)).unwrap_or(name)
}

/// Where a pod's containers go that somebody names a parent for.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for what the driver cannot make: the text names the kubelet's setting.
pub(crate) fn parent(driver: CgroupDriver, given: &str) -> Result<String> {
    let given = given.trim_end_matches('/');
    match driver {
        CgroupDriver::Cgroupfs if is_unit(given) => Err(Error::invalid(format!(
            "cgroup_parent {given:?} is a unit of systemd's, but [cgroup] driver is \"cgroupfs\"; set cgroupDriver: cgroupfs in \
             the kubelet, or driver = \"systemd\" here"
        ))),
        CgroupDriver::Cgroupfs if !plain_cgroup(given) => Err(Error::invalid(format!(
            "cgroup_parent {given:?}: must be an absolute path; set cgroupDriver: cgroupfs in the kubelet"
        ))),
        CgroupDriver::Cgroupfs => Ok(given.to_owned()),
        CgroupDriver::Systemd => {
            let Some(path) = expand(unit(given)) else {
                return Err(Error::invalid(format!(
                    "cgroup_parent {given:?}: must be a slice such as \"kubepods-besteffort.slice\", since [cgroup] driver is \
                     \"systemd\"; set cgroupDriver: systemd in the kubelet, or driver = \"cgroupfs\" here"
                )));
            };
            if given.contains('/') && given.trim_start_matches('/') != path.trim_start_matches('/') {
                return Err(Error::invalid(format!(
                    "cgroup_parent {given:?}: a slice's name says where it is, and this one is {path}; name it without a path"
                )));
            }
            Ok(path)
        }
    }
}

/// What is wrong with a cgroup of the configuration's, if anything is.
pub(crate) fn check_configured(driver: CgroupDriver, value: &str) -> std::result::Result<(), &'static str> {
    if driver == CgroupDriver::Cgroupfs {
        return match plain_cgroup(value) {
            true if is_unit(value) => Err("is a unit of systemd's, which needs cgroup.driver = \"systemd\""),
            true => Ok(()),
            false => {
                Err("must be an absolute path such as \"/strata\", without dots, and not the root itself")
            }
        };
    }
    let fits = match value.ends_with(SLICE) {
        true => parent(driver, value).is_ok(),
        false => plain_cgroup(value) && expand(&slice_of_path(value)).is_some(),
    };
    match fits {
        true => Ok(()),
        false => Err(
            "must be a slice such as \"sandboxed.slice\" with cgroup.driver = \"systemd\", or a path of letters, digits, \
                      dashes, dots and _ that can become one",
        ),
    }
}

/// A cgroup of the configuration's, as the driver has it; [`check_configured`] has passed.
pub(crate) fn configured(driver: CgroupDriver, value: &str) -> String {
    match (driver, value.ends_with(SLICE)) {
        (CgroupDriver::Systemd, true) => expand(unit(value)).unwrap_or_else(|| root(driver, "/strata")),
        _ => root(driver, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CgroupDriver::{Cgroupfs, Systemd};

    #[test]
    fn a_slice_is_where_its_name_says() {
        let uid = "kubepods-burstable-pod7c1e_4f.slice";
        let path = format!("/kubepods.slice/kubepods-burstable.slice/{uid}");
        assert_eq!(expand(uid).as_deref(), Some(path.as_str()));
        assert_eq!(expand("a.slice").as_deref(), Some("/a.slice"));
        for bad in [
            "",
            ".slice",
            "-.slice",
            "a",
            "a.scope",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a b.slice",
            "a/b.slice",
        ] {
            assert_eq!(expand(bad), None, "{bad}");
        }
        // NAME_MAX, which a unit's name may not pass either.
        assert_eq!(expand(&format!("{}.slice", "a".repeat(250))), None);
    }

    #[test]
    fn parents_are_taken_as_the_kubelet_writes_them() {
        let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_cd.slice";
        for given in [path, "kubepods-besteffort-podab_cd.slice", &path[1..], &format!("{path}/")] {
            assert_eq!(parent(Systemd, given).unwrap(), path);
        }
        assert_eq!(
            parent(Cgroupfs, "/kubepods/burstable/podab-cd/").unwrap(),
            "/kubepods/burstable/podab-cd"
        );
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused_by_name() {
        let refused = |driver, given: &str| parent(driver, given).unwrap_err().to_string();
        assert!(refused(Systemd, "/kubepods/burstable/podab").contains("cgroupDriver: systemd"));
        assert!(
            refused(Systemd, "/elsewhere/kubepods-besteffort.slice")
                .contains("/kubepods.slice/kubepods-besteffort.slice")
        );
        assert!(refused(Systemd, "../a.slice").contains("without a path"));
        assert!(
            refused(Cgroupfs, "/kubepods.slice/kubepods-besteffort.slice").contains("cgroupDriver: cgroupfs")
        );
        assert!(refused(Cgroupfs, "kubepods-besteffort.slice").contains("driver = \"systemd\""));
        assert!(refused(Cgroupfs, "a/b").contains("absolute path"));
    }

    #[test]
    fn what_is_stratas_own_has_names_of_its_driver() {
        let pods = |driver, own: &str| inner(&inner(&root(driver, own), "pods"), "ab12");
        assert_eq!(pods(Cgroupfs, "/strata"), "/strata/pods/ab12");
        assert_eq!(pods(Systemd, "/strata"), "/strata.slice/strata-pods.slice/strata-pods-ab12.slice");
        assert_eq!(root(Systemd, "/my-node/strata"), "/my_node.slice/my_node-strata.slice");
        assert_eq!(leaf("/a.slice/a-b.slice", "ff"), "/a.slice/a-b.slice/strata-ff.scope");
        assert_eq!(leaf("/a/b", "ff"), "/a/b/ff");
        assert_eq!((id_of_leaf("strata-ff.scope"), id_of_leaf("ff")), ("ff", "ff"));
        for made in [
            pods(Systemd, "/my-node/strata"),
            configured(Systemd, "locked.slice"),
            configured(Systemd, "/locked/x"),
        ] {
            assert_eq!(expand(unit(&made)).as_deref(), Some(made.as_str()));
        }
    }

    #[test]
    fn configured_names_are_checked_for_their_driver() {
        for good in ["/strata", "/a/b-c", "locked.slice", "/a.slice/a-b.slice"] {
            check_configured(Systemd, good).unwrap();
        }
        for bad in ["", "/", "strata", "/a b", "/x/locked.slice", "a-.slice", "/a/../b"] {
            check_configured(Systemd, bad).unwrap_err();
        }
        check_configured(Cgroupfs, "/strata").unwrap();
        for bad in ["", "/", "strata", "locked.slice", "/a.slice"] {
            check_configured(Cgroupfs, bad).unwrap_err();
        }
    }
}
