//! Credentials as they come over the wire: whoever prints a request prints none of them.

use crate::{cri::AuthConfig, debug::RegistryAuth};
use std::fmt;

/// Of both messages, which have the same fields.
macro_rules! prints_its_address_only {
    ($($message:ident)*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = stringify!($message);
                f.debug_struct(name).field("server_address", &self.server_address).finish_non_exhaustive()
            }
        }
    )*};
}

prints_its_address_only!(AuthConfig RegistryAuth);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cri, debug};

    macro_rules! filled {
        ($message:ident) => {
            $message {
                username: "hidden".into(),
                password: "hidden".into(),
                auth: "hidden".into(),
                server_address: "registry.example".into(),
                identity_token: "hidden".into(),
                registry_token: "hidden".into(),
            }
        };
    }

    #[test]
    fn requests_are_printed_without_their_secrets() {
        let pull = cri::PullImageRequest { auth: Some(filled!(AuthConfig)), ..Default::default() };
        let login = debug::LoginRequest { auth: Some(filled!(RegistryAuth)) };
        for text in [format!("{pull:?}"), format!("{pull:#?}"), format!("{login:?}"), format!("{login:#?}")] {
            assert!(text.contains("registry.example") && !text.contains("hidden"), "{text}");
        }
    }
}
