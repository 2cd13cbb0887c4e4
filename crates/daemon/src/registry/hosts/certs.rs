//! Certificates and keys, from hosts.toml or from a directory as Docker reads it: `*.crt` are authorities, `NAME.cert` and
//! `NAME.key` are a client's.

use super::{Link, Pem};
use crate::error::{Error, Result};
use crate::regular;
use std::io;
use std::path::{Path, PathBuf};

/// The longest file, in bytes: the authorities of the whole Web are a quarter of a MiB.
const MAX_SIZE: u64 = 4 << 20;

/// What the certificates in a directory say; `None` if there are none.
pub(super) fn of_directory(dir: &Path) -> Result<Option<Link>> {
    let ca = authorities(dir, dir)?;
    let pairs: Vec<_> = files(dir, dir, &["cert"])?
        .into_iter()
        .map(|cert| {
            let key = cert.with_extension("key");
            (cert, key)
        })
        .collect();
    for key in files(dir, dir, &["key"])? {
        if !key.with_extension("cert").exists() {
            let cert = key.with_extension("cert");
            return Err(bad(dir, "client", &key, format!("there is no {} beside it", cert.display())));
        }
    }
    let identity = identity(dir, &pairs)?;
    let any = !ca.is_empty() || identity.is_some();
    Ok(any.then(|| Link { ca, identity, ..Link::default() }))
}

/// The authorities in a file, or in the `*.crt` and `*.pem` of a directory. `from` is the file or directory that names it.
pub(super) fn authorities(from: &Path, path: &Path) -> Result<Vec<Pem>> {
    let found = if path.is_dir() {
        // A registry's own directory may hold a client's PEM too.
        let extensions: &[&str] = if from == path { &["crt"] } else { &["crt", "pem"] };
        files(from, path, extensions)?
    } else {
        vec![path.to_owned()]
    };
    let check = |path: PathBuf| {
        let pem = read(from, "ca", &path)?;
        if !holds(&pem, "CERTIFICATE") {
            return Err(bad(from, "ca", &path, "it holds no certificate in PEM"));
        }
        Ok(Pem(pem))
    };
    found.into_iter().map(check).collect()
}

/// A client's certificate with its key, both of which may be in one file.
pub(super) fn identity(from: &Path, pairs: &[(PathBuf, PathBuf)]) -> Result<Option<Pem>> {
    let (cert, key) = match pairs {
        [] => return Ok(None),
        [pair] => pair,
        [_, (second, _), ..] => {
            let why = "there is another client certificate before it, and one host can have only one; remove what the registry does not ask for";
            return Err(bad(from, "client", second, why));
        }
    };
    let mut pem = read(from, "client", cert)?;
    if !holds(&pem, "CERTIFICATE") {
        return Err(bad(from, "client", cert, "it holds no certificate in PEM"));
    }
    if key != cert {
        pem.push(b'\n');
        pem.extend(read(from, "client", key)?);
    }
    if holds(&pem, "ENCRYPTED PRIVATE KEY") || contains(&pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err(bad(from, "client", key, "the key is encrypted; store it without a passphrase"));
    }
    if !["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"].iter().any(|label| holds(&pem, label)) {
        let why = "it holds no private key in PEM; name the key too: client = [[\"CERT\", \"KEY\"]]";
        return Err(bad(from, "client", key, why));
    }
    Ok(Some(Pem(pem)))
}

fn files(from: &Path, dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let fail = |e: io::Error| bad(from, "certificates", dir, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(from: &Path, key: &str, path: &Path) -> Result<Vec<u8>> {
    regular::read(path, MAX_SIZE).map_err(|e| bad(from, key, path, e))
}

fn holds(pem: &[u8], label: &str) -> bool {
    contains(pem, format!("-----BEGIN {label}-----").as_bytes())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn bad(from: &Path, key: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::precondition(format!("{}: {key} {}: {why}", from.display(), path.display()))
}
