//! The user's own registry credentials, which go with a pull or push as Docker's client sends them.

use crate::error::{Error, Result};
use crate::names;
use strata_api::debug::RegistryAuth;
use strata_credentials::{DOCKER_HUB, Login, places};

/// What the user's files have for an image's repository; `None` if they have nothing.
///
/// # Errors
/// If a file makes no sense, or a credential helper fails.
pub(crate) async fn for_image(reference: &str) -> Result<Option<RegistryAuth>> {
    let (registry, repository) = registry_of(reference);
    let found = places::login(registry, &repository).await;
    let found = found.map_err(|e| Error::local(format!("credentials for {registry}: {e}")))?;
    Ok(found.map(|login| auth(login, registry)))
}

/// A login as stratad takes it.
pub(crate) fn auth(login: Login, registry: &str) -> RegistryAuth {
    let Login { username, password, identity_token, registry_token } = login;
    let server_address = registry.to_owned();
    RegistryAuth { username, password, auth: String::new(), server_address, identity_token, registry_token }
}

/// Registry and repository of an image's name, defaults filled in; what is no name is left to stratad to refuse.
fn registry_of(reference: &str) -> (&str, String) {
    let name = names::parts(reference).repository;
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if names::is_host(host) => (host, path),
        _ => (DOCKER_HUB, name),
    };
    let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    let official = registry == DOCKER_HUB && !path.contains('/');
    (registry, if official { format!("library/{path}") } else { path.to_owned() })
}

/// A registry as people name it to log in.
#[derive(Debug)]
pub(crate) struct Server {
    /// As images name it: `docker.io`, `registry.example:5000`.
    pub(crate) registry: String,
}

impl Server {
    /// What is named, perhaps as a URL; Docker Hub if nothing is.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let text = text.unwrap_or(DOCKER_HUB);
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        let hub = matches!(host, "index.docker.io" | "registry-1.docker.io");
        Self { registry: if hub { DOCKER_HUB.to_owned() } else { host.to_owned() } }
    }

    /// In Docker's words.
    pub(crate) fn shown(&self) -> &str {
        if self.registry == DOCKER_HUB { "https://index.docker.io/v1/" } else { &self.registry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_registries() {
        for (text, registry) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("https://r.example:5000/v2/"), "r.example:5000"),
            (Some("localhost:5000"), "localhost:5000"),
        ] {
            assert_eq!(Server::parse(text).registry, registry);
        }
        assert_eq!(Server::parse(None).shown(), "https://index.docker.io/v1/");
    }

    #[test]
    fn defaults_are_filled_in() {
        for (reference, registry, repository) in [
            ("busybox", "docker.io", "library/busybox"),
            ("team/app:1", "docker.io", "team/app"),
            ("index.docker.io/busybox@sha256:ab", "docker.io", "library/busybox"),
            ("localhost/app", "localhost", "app"),
            ("r.example:5000/a/b:2", "r.example:5000", "a/b"),
            ("[::1]:5000/x", "[::1]:5000", "x"),
        ] {
            assert_eq!(registry_of(reference), (registry, repository.to_owned()), "{reference}");
        }
    }
}
