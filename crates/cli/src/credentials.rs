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

fn auth(login: Login, registry: &str) -> RegistryAuth {
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

#[cfg(test)]
mod tests {
    use super::*;

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
