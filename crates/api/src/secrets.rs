//! Credentials as they come over the wire: whoever prints a request prints none of them.

use crate::{cri::AuthConfig, debug::RegistryAuth};
use std::fmt;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cri, debug};

    #[test]
    fn requests_are_printed_without_their_secrets() {
        let secret = || "hidden".to_owned();
        let auth = AuthConfig {
            username: secret(),
            password: secret(),
            auth: secret(),
            server_address: "registry.example".into(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let pull = cri::PullImageRequest { auth: Some(auth), ..Default::default() };
        let auth = RegistryAuth {
            username: secret(),
            password: secret(),
            auth: secret(),
            server_address: "registry.example".into(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let login = debug::LoginRequest { auth: Some(auth) };
        for text in [format!("{pull:?}"), format!("{pull:#?}"), format!("{login:?}"), format!("{login:#?}")] {
            assert!(text.contains("registry.example") && !text.contains("hidden"), "{text}");
        }
    }
}
