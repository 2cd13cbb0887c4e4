//! The server's certificate.

use crate::error::{Error, Result};
use crate::regular;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// Of a certificate chain or a key: far more than the longest.
const MAX_SIZE: u64 = 1 << 20;

/// Begins TLS on accepted connections.
#[derive(Clone)]
pub(super) struct Acceptor(pub(super) tokio_rustls::TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// An acceptor with a certificate chain and its key, both in PEM.
pub(super) fn acceptor(cert: &Path, key: &Path) -> Result<Acceptor> {
    let bad = |key: &str, path: &Path, e: &dyn std::fmt::Display| {
        Error::invalid(format!("[streaming] {key} = \"{}\": {e}", path.display()))
    };
    let pem = regular::read(cert, MAX_SIZE).map_err(|e| bad("tls_cert", cert, &e))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| bad("tls_cert", cert, &e))?;
    if chain.is_empty() {
        return Err(bad("tls_cert", cert, &"it holds no certificate in PEM"));
    }
    let pem = regular::read(key, MAX_SIZE).map_err(|e| bad("tls_key", key, &e))?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| bad("tls_key", key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(format!("TLS: {e}")))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| bad("tls_key", key, &format!("it does not go with tls_cert: {e}")))?;
    // SPDY and WebSocket are upgrades of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Acceptor(tokio_rustls::TlsAcceptor::from(Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode};

    #[test]
    fn what_is_no_certificate_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("text"), "no PEM").unwrap();
        std::fs::File::create(at("long")).unwrap().set_len(MAX_SIZE + 1).unwrap();
        rustix::fs::mkfifoat(CWD, at("pipe"), Mode::RUSR).unwrap();
        for (name, why) in
            [("none", "No such file"), ("text", "no certificate"), ("long", "longer"), ("pipe", "regular")]
        {
            let said = acceptor(&at(name), &at(name)).unwrap_err().to_string();
            assert!(said.contains("tls_cert") && said.contains(name) && said.contains(why), "{said}");
        }
    }
}
