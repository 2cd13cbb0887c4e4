//! seccomp: which profile, compiled once for each set of capabilities.

use crate::error::{Error, Result};
use crate::regular;
use crate::request::known;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use strata_api::cri;
use strata_api::cri::security_profile::ProfileType;
use strata_oci::Digest;
use strata_oci::seccomp::{self, Arch, Profile};
use strata_wire::plan::Seccomp;

/// The most bytes of a profile that are read.
const MAX_PROFILE: u64 = 4 << 20;

/// A profile (`None`: Strata's own) and a bounding set.
type Key = (Option<Digest>, u64);

/// Filters that were compiled.
#[derive(Debug, Default)]
pub(crate) struct Filters(Mutex<HashMap<Key, Arc<Seccomp>>>);

/// Which seccomp profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// None.
    Unconfined,
    /// Strata's own.
    Default,
    /// A file of the node.
    File(PathBuf),
}

/// The profile that a container asks for, if it says; none ([`Choice::Unconfined`]) if it is privileged.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a name that is no profile, or leads out of the directory.
pub(crate) fn choose(
    context: &cri::LinuxContainerSecurityContext,
    directory: &Path,
) -> Result<Option<Choice>> {
    if context.privileged {
        return Ok(Some(Choice::Unconfined));
    }
    if let Some(profile) = &context.seccomp {
        return match profile_type(profile)? {
            ProfileType::RuntimeDefault => Ok(Some(Choice::Default)),
            ProfileType::Unconfined => Ok(Some(Choice::Unconfined)),
            ProfileType::Localhost => file(&profile.localhost_ref, directory).map(Some),
        };
    }
    #[allow(deprecated)]
    let old = context.seccomp_profile_path.as_str();
    match old {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(Choice::Default)),
        "unconfined" => Ok(Some(Choice::Unconfined)),
        other => match other.strip_prefix("localhost/") {
            Some(path) => file(path, directory).map(Some),
            None => Err(Error::invalid(format!(
                "seccomp profile {other:?}: use runtime/default, unconfined or localhost/<file>"
            ))),
        },
    }
}

/// The type of a profile. One that is not known must not become the default one, which may be less strict.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a number that CRI v1 has not got.
pub(super) fn profile_type(profile: &cri::SecurityProfile) -> Result<ProfileType> {
    known(profile.profile_type, "profile_type")
}

fn file(name: &str, directory: &Path) -> Result<Choice> {
    let path = Path::new(name.strip_prefix("localhost/").unwrap_or(name));
    let leaves = path.components().any(|c| c == std::path::Component::ParentDir);
    if name.is_empty() || leaves {
        return Err(Error::invalid(format!("seccomp profile {name:?}: must be a file, without \"..\"")));
    }
    Ok(Choice::File(directory.join(path)))
}

impl Filters {
    /// The filter of a choice for a process with this bounding set.
    ///
    /// # Errors
    /// If the file cannot be read, or is no profile.
    pub(crate) fn filter(&self, choice: &Choice, caps: u64) -> Result<Option<Seccomp>> {
        let (profile, digest) = match choice {
            Choice::Unconfined => return Ok(None),
            Choice::Default => (None, None),
            Choice::File(path) => {
                let bytes = read(path)?;
                let digest = Digest::sha256_of(&bytes);
                (Some(bytes), Some(digest))
            }
        };
        let key = (digest, caps);
        if let Some(known) = self.lock().get(&key) {
            return Ok(Some((**known).clone()));
        }
        let bad = |e: &dyn std::fmt::Display| Error::invalid(format!("seccomp profile {choice:?}: {e}"));
        let from_file = profile.map(|bytes| Profile::parse(&bytes)).transpose().map_err(|e| bad(&e))?;
        let parsed = from_file.as_ref().unwrap_or_else(|| Profile::default_profile());
        let arch = Arch::native().ok_or_else(|| bad(&"this architecture has no seccomp compiler"))?;
        let code = seccomp::compile(parsed, arch, caps, kernel_version()).map_err(|e| bad(&e))?;
        let filter = Seccomp::new(&code, parsed.flag_bits().map_err(|e| bad(&e))?);
        self.lock().insert(key, Arc::new(filter.clone()));
        Ok(Some(filter))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Seccomp>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::invalid(format!("seccomp profile {}: {e}; put the file on this node", path.display()))
    };
    regular::read(path, MAX_PROFILE).map_err(|e| fail(&e))
}

/// The running kernel's major and minor version.
fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: ProfileType, localhost: &str) -> cri::LinuxContainerSecurityContext {
        let profile = cri::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost.into() };
        cri::LinuxContainerSecurityContext { seccomp: Some(profile), ..Default::default() }
    }

    #[test]
    fn profiles_are_chosen() {
        let dir = Path::new("/profiles");
        let of = |c: &cri::LinuxContainerSecurityContext| choose(c, dir);
        assert_eq!(of(&Default::default()).unwrap(), None);
        assert_eq!(of(&with(ProfileType::RuntimeDefault, "")).unwrap(), Some(Choice::Default));
        assert_eq!(of(&with(ProfileType::Unconfined, "")).unwrap(), Some(Choice::Unconfined));
        assert_eq!(
            of(&with(ProfileType::Localhost, "a.json")).unwrap(),
            Some(Choice::File("/profiles/a.json".into()))
        );
        assert_eq!(
            of(&with(ProfileType::Localhost, "/x/a.json")).unwrap(),
            Some(Choice::File("/x/a.json".into()))
        );
        assert!(of(&with(ProfileType::Localhost, "../../etc/shadow")).is_err());
        assert!(of(&with(ProfileType::Localhost, "")).is_err());
        let privileged = cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        assert_eq!(of(&privileged).unwrap(), Some(Choice::Unconfined));
    }

    #[test]
    fn filters_are_compiled_once() {
        let filters = Filters::default();
        assert!(filters.filter(&Choice::Unconfined, 0).unwrap().is_none());
        let one = filters.filter(&Choice::Default, 0).unwrap().unwrap();
        assert_eq!(filters.filter(&Choice::Default, 0).unwrap().unwrap(), one);
        assert_eq!(filters.lock().len(), 1);
        let error = filters.filter(&Choice::File("/nonexistent.json".into()), 0).unwrap_err().to_string();
        assert!(error.contains("/nonexistent.json"), "{error}");
    }
}
