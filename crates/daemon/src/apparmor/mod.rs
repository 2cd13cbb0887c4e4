//! AppArmor: whether this kernel runs it, which profiles are loaded, and Strata's own, which is loaded when a container needs
//! it.
//!
//! A `strata-default` that is there already is left alone: an administrator's own one counts.

use crate::error::{Error, Result};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The name of Strata's own profile.
pub(crate) const DEFAULT: &str = "strata-default";

/// Its text.
const PROFILE: &str = include_str!("strata-default");

/// `Y` if the module runs (Documentation/admin-guide/LSM/apparmor.rst).
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// A line for each loaded profile, `NAME (MODE)`; for root only.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// What the kernel could mediate at the time of AppArmor 3.0. A profile that names no such file is compiled for whatever this
/// kernel mediates, which takes from containers what a later one learns to refuse.
const ABI: &str = "/etc/apparmor.d/abi/3.0";

/// The compiler and loader of profiles; services are not always started with directories for administrators in PATH.
const PARSERS: [&str; 3] = ["apparmor_parser", "/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// The AppArmor of this kernel.
#[derive(Debug)]
pub(crate) struct AppArmor {
    enabled: bool,
    /// Held while Strata's own profile is looked for and loaded: once is enough.
    loading: Mutex<()>,
}

impl AppArmor {
    /// Looks whether this kernel runs it, which does not change before the next boot.
    pub(crate) fn of_kernel() -> Self {
        let enabled = std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'));
        Self { enabled, loading: Mutex::default() }
    }

    /// Whether this kernel runs it.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// Makes sure that a profile is loaded; Strata's own is loaded if it is not.
    ///
    /// # Errors
    /// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) if it is not loaded, and cannot be.
    pub(crate) fn need(&self, name: &str) -> Result<()> {
        if name != DEFAULT {
            return match loaded(name)? {
                true => Ok(()),
                false => Err(Error::precondition(format!(
                    "AppArmor profile {name:?} is not loaded on this node; load it with apparmor_parser --replace FILE, or \
                     name another profile"
                ))),
            };
        }
        let _once = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded(DEFAULT)? { Ok(()) } else { load() }
    }
}

fn loaded(name: &str) -> Result<bool> {
    let text = std::fs::read_to_string(PROFILES).map_err(|e| {
        Error::precondition(format!(
            "which AppArmor profiles are loaded cannot be read from {PROFILES}: {e}; is securityfs mounted?"
        ))
    })?;
    Ok(lists(&text, name))
}

/// Whether a list of loaded profiles has this name, which may hold blanks and parentheses.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name))
}

fn load() -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::precondition(format!(
            "AppArmor profile {DEFAULT} cannot be loaded: {why}; install AppArmor's apparmor_parser (Debian's package \
             apparmor), or have the profile unconfined"
        ))
    };
    // From its standard input: no file of the node's is needed, and none is left.
    let start = |program: &str| {
        let mut command = Command::new(program);
        command.args(["--replace", "--skip-cache"]).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn()
    };
    let mut started = Err(ErrorKind::NotFound.into());
    for parser in PARSERS {
        started = start(parser);
        if !started.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    let mut child = started.map_err(|e| failed(&format!("{}: {e}", PARSERS[0])))?;
    let text = text(Path::new(ABI).exists());
    // One that ends before it has read everything says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!("{} ended with {}: {}", PARSERS[0], output.status, said.trim())));
    }
    written.map_err(|e| failed(&e))?;
    tracing::info!(profile = DEFAULT, "AppArmor profile loaded");
    Ok(())
}

fn text(abi: bool) -> String {
    let first = if abi { "abi <abi/3.0>,\n" } else { "" };
    format!("{first}{PROFILE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_profiles_are_found_by_their_whole_name() {
        let list =
            "strata-default (enforce)\n/usr/bin/man (complain)\nman_filter//x (enforce)\nodd (one) (kill)\n";
        for name in ["strata-default", "/usr/bin/man", "man_filter//x", "odd (one)"] {
            assert!(lists(list, name), "{name}");
        }
        for name in ["strata", "strata-default (enforce)", "odd", "", "unconfined", "man_filter"] {
            assert!(!lists(list, name), "{name}");
        }
    }

    #[test]
    fn the_profile_has_the_name_that_is_looked_for() {
        assert!(PROFILE.contains(&format!("\nprofile {DEFAULT} ")));
        // Peers are of the same name, or containers could not signal one another.
        assert!(PROFILE.contains(&format!("signal (send, receive) peer={DEFAULT},")));
        assert!(text(true).starts_with("abi <abi/3.0>,\n#") && text(false).starts_with('#'));
    }
}
