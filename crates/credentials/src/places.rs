//! Where a user's credentials are.

use crate::{ConfigFile, Error, Login};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The files in which a user's credentials may be, in the order in which they count: what `REGISTRY_AUTH_FILE` names, and
/// nothing else; otherwise Docker's (`DOCKER_CONFIG`, `~/.docker`), then Podman's (containers-auth.json(5)).
pub fn files() -> Vec<PathBuf> {
    of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

/// Docker's own file: where a login is written.
pub fn docker() -> Option<PathBuf> {
    docker_of(&|name: &str| std::env::var_os(name).filter(|value| !value.is_empty()))
}

/// What a user's files have for a repository; the first that has something counts.
///
/// # Errors
/// If a file that comes before makes no sense, or its helper fails.
pub async fn login(registry: &str, repository: &str) -> Result<Option<Login>, Error> {
    for path in files() {
        if let Some(file) = ConfigFile::read(&path)?
            && let Some(login) = file.login(registry, repository).await?
        {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

fn of(var: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(file) = var("REGISTRY_AUTH_FILE") {
        return vec![file.into()];
    }
    let runtime = var("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    docker_of(&var).into_iter().chain(runtime).collect()
}

fn docker_of(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let dir = match (var("DOCKER_CONFIG"), var("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => Path::new(&home).join(".docker"),
        (None, None) => return None,
    };
    Some(dir.join("config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where() {
        let with = |vars: &[(&str, &str)]| {
            of(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
        };
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            with(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]),
            paths(&["/h/.docker/config.json", "/run/user/1/containers/auth.json"])
        );
        assert_eq!(with(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), paths(&["/d/config.json"]));
        assert_eq!(with(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]), paths(&["/a.json"]));
        assert_eq!(with(&[]), paths(&[]));
    }
}
