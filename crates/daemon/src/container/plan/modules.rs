//! The security modules: which AppArmor profile and SELinux label confine a container, and what this kernel cannot do.

use super::security::profile_type;
use crate::apparmor::{AppArmor, DEFAULT};
use crate::error::{Error, Result};
use crate::pod::record::PodRecord;
use crate::selinux::{Asked as AskedLabels, Labels, SeLinux};
use strata_api::cri;
use strata_api::cri::security_profile::ProfileType;

/// What [`ContainerRecord::apparmor`](crate::container::record::ContainerRecord) says of a container that nothing confines.
pub(crate) const UNCONFINED: &str = "unconfined";

/// Which AppArmor profile is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// It is not said.
    Nothing,
    /// Strata's own.
    Default,
    /// None.
    Unconfined,
    /// One that the node's administrator has loaded.
    Named(String),
}

/// `old` is what CRI said before it had a profile's type.
fn asked(profile: Option<&cri::SecurityProfile>, old: &str) -> Result<Asked> {
    let named = |name: &str| match name.strip_prefix("localhost/").unwrap_or(name) {
        "" => Err(Error::invalid(
            "AppArmor profile: localhost_ref is empty; name a profile that is loaded on this node",
        )),
        name => Ok(Asked::Named(name.to_owned())),
    };
    match (profile.map(profile_type).transpose()?, old) {
        (Some(ProfileType::Unconfined), _) | (None, UNCONFINED) => Ok(Asked::Unconfined),
        (Some(ProfileType::RuntimeDefault), _) | (None, "runtime/default") => Ok(Asked::Default),
        (Some(ProfileType::Localhost), _) => named(profile.map_or("", |p| &p.localhost_ref)),
        (None, "") => Ok(Asked::Nothing),
        (None, other) if other.starts_with("localhost/") => named(other),
        (None, other) => Err(Error::invalid(format!(
            "AppArmor profile {other:?}: use runtime/default, unconfined or localhost/<name>"
        ))),
    }
}

fn lacking(what: &str, instead: &str) -> Error {
    Error::precondition(format!("{what} was asked for, but this kernel does not run it; {instead}"))
}

/// The profile that is to be loaded for what is asked for, if any.
fn profile(enabled: bool, asked: Asked) -> Result<Option<String>> {
    match asked {
        Asked::Unconfined => Ok(None),
        Asked::Nothing => Ok(enabled.then(|| DEFAULT.to_owned())),
        _ if !enabled => {
            Err(lacking("an AppArmor profile", "boot with apparmor=1, or leave the profile out"))
        }
        Asked::Default => Ok(Some(DEFAULT.to_owned())),
        Asked::Named(name) => Ok(Some(name)),
    }
}

/// What a security context that is not privileged leads to: the profile that is to be loaded, if any, and whether it was asked
/// for.
fn wanted(
    enabled: bool,
    apparmor: Option<&cri::SecurityProfile>,
    old: &str,
) -> Result<Option<(String, bool)>> {
    let asked = asked(apparmor, old)?;
    let named = asked != Asked::Nothing;
    Ok(profile(enabled, asked)?.map(|name| (name, named)))
}

/// The AppArmor profile that a container runs under, loaded; `None` where the kernel runs no AppArmor. A privileged one is
/// confined by none. A container that asks for nothing on a node where Strata's own profile cannot be loaded goes without,
/// after a warning.
///
/// # Errors
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) for a profile that is not loaded, or that no AppArmor is there
/// for.
pub(crate) fn confine(
    apparmor: &AppArmor,
    context: &cri::LinuxContainerSecurityContext,
    warn: impl FnOnce(&str),
) -> Result<Option<String>> {
    let nothing = || apparmor.enabled().then(|| UNCONFINED.to_owned());
    if context.privileged {
        return Ok(nothing());
    }
    #[allow(deprecated)]
    let old = &context.apparmor_profile;
    let Some((name, asked)) = wanted(apparmor.enabled(), context.apparmor.as_ref(), old)? else {
        return Ok(nothing());
    };
    match apparmor.need(&name) {
        Ok(()) => Ok(Some(name)),
        Err(e) if !asked => {
            warn(&format!("containers that name no AppArmor profile run without one: {e}"));
            Ok(nothing())
        }
        Err(e) => Err(e),
    }
}

/// The SELinux labels of a container; `None` if it gets none.
///
/// # Errors
/// As [`SeLinux::labels`].
pub(crate) fn label(
    selinux: &SeLinux,
    pod: &PodRecord,
    context: &cri::LinuxContainerSecurityContext,
    unlabelled: bool,
) -> Result<Option<Labels>> {
    let node = |mode| mode == cri::NamespaceMode::Node;
    let of_pod = pod.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    selinux.labels(&AskedLabels {
        own: context.selinux_options.as_ref(),
        pod: of_pod.and_then(|c| c.selinux_options.as_ref()),
        level: pod.selinux_level.as_deref(),
        free: context.privileged || unlabelled,
        with_node: context.namespace_options.as_ref().is_some_and(|n| node(n.pid()) || node(n.ipc())),
    })
}

/// Refuses a pod whose containers would be refused one by one.
///
/// # Errors
/// As [`confine`].
pub(crate) fn check_pod(
    apparmor: &AppArmor,
    selinux: &SeLinux,
    config: &cri::PodSandboxConfig,
) -> Result<()> {
    let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let Some(context) = context else { return Ok(()) };
    selinux.check_pod(context.selinux_options.as_ref(), context.privileged)?;
    if context.privileged {
        return Ok(());
    }
    match wanted(apparmor.enabled(), context.apparmor.as_ref(), "")? {
        Some((name, true)) if name != DEFAULT => apparmor.need(&name),
        // The first container loads it.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn of(kind: ProfileType, name: &str) -> cri::SecurityProfile {
        cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() }
    }

    #[test]
    fn profiles_are_chosen() {
        let (own, mine) = (|| Ok(Some(DEFAULT.to_owned())), || Ok(Some("mine".to_owned())));
        let lacks = || Err(Kind::FailedPrecondition);
        let cases = [
            (None, "", Ok(None), own()),
            (None, "unconfined", Ok(None), Ok(None)),
            (None, "runtime/default", lacks(), own()),
            (None, "localhost/mine", lacks(), mine()),
            (Some(of(ProfileType::Unconfined, "")), "localhost/x", Ok(None), Ok(None)),
            (Some(of(ProfileType::RuntimeDefault, "")), "unconfined", lacks(), own()),
            (Some(of(ProfileType::Localhost, "mine")), "", lacks(), mine()),
            (Some(of(ProfileType::Localhost, "localhost/mine")), "", lacks(), mine()),
        ];
        for (new, old, without, with) in cases {
            let chosen = |enabled| profile(enabled, asked(new.as_ref(), old).unwrap()).map_err(|e| e.kind());
            assert_eq!(chosen(false), without, "{new:?} {old}");
            assert_eq!(chosen(true), with, "{new:?} {old}");
        }
        for (new, old) in [
            (None, "odd"),
            (None, "localhost/"),
            (Some(of(ProfileType::Localhost, "")), "unconfined"),
            (Some(of(ProfileType::Localhost, "localhost/")), ""),
        ] {
            assert_eq!(asked(new.as_ref(), old).unwrap_err().kind(), Kind::InvalidArgument, "{new:?} {old}");
        }
    }
}
