//! `hosts.toml`, in containerd's form.
//!
//! What containerd would pass over in silence (an unknown key, a file that makes no sense) is an error here: a mirror that
//! is not used is hard to notice otherwise.

use super::{Capabilities, Credentials, Endpoint, Link, certs, own};
use crate::error::{Error, Result};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostsFile {
    server: Option<String>,
    // Spanned: mirrors are tried in the file's order, which a table does not keep.
    host: BTreeMap<String, Spanned<Table>>,
    // No flatten: it would take unknown keys.
    capabilities: Vec<Capability>,
    ca: Option<Paths>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, Texts>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    capabilities: Vec<Capability>,
    ca: Option<Paths>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, Texts>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    Push,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "ca must be a path or a list of paths")]
enum Paths {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "client must be a path, a list of paths, or a list of pairs [\"CERT\", \"KEY\"]"
)]
enum Client {
    One(PathBuf),
    Many(Vec<Pair>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Pair {
    Both(PathBuf),
    Each([PathBuf; 2]),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a header's value must be a text or a list of texts")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers may hold secrets.
        f.write_str("…")
    }
}

/// The endpoints that a file says, the registry itself last.
pub(super) fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Endpoint>> {
    let file: HostsFile = toml::from_str(text).map_err(|e| {
        let (path, at) = (path.display(), line(text, e.span()));
        // The error's own text would quote the line, which may hold a secret.
        Error::precondition(format!("{path}{at}: {}", e.message()))
    })?;
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(_, table)| table.span().start);
    let mut endpoints = Vec::with_capacity(hosts.len() + 1);
    for (key, table) in hosts {
        let table = table.into_inner();
        let base = base(path, "host", &key, table.override_path)?;
        endpoints.push(endpoint(path, base, table, Some(registry))?);
    }
    let itself = match file.server.as_deref() {
        None | Some("") => own(registry)?.base,
        Some(server) => base(path, "server", server, file.override_path)?,
    };
    let table = Table {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    endpoints.push(endpoint(path, itself, table, None)?);
    Ok(endpoints)
}

fn endpoint(path: &Path, base: Url, table: Table, mirror_of: Option<&str>) -> Result<Endpoint> {
    let has = |c| table.capabilities.is_empty() || table.capabilities.contains(&c);
    let capabilities = Capabilities {
        pull: has(Capability::Pull),
        resolve: has(Capability::Resolve),
        // What is pushed belongs to the registry, unless a mirror is said to take it.
        push: if mirror_of.is_some() {
            table.capabilities.contains(&Capability::Push)
        } else {
            has(Capability::Push)
        },
    };
    Ok(Endpoint {
        headers: headers(path, &table.header)?,
        link: link(path, table)?,
        base,
        capabilities,
        mirror_of: mirror_of.map(ToOwned::to_owned),
        credentials: Credentials::Anonymous,
    })
}

fn base(file: &Path, key: &str, text: &str, override_path: bool) -> Result<Url> {
    let bad = |why: &str| {
        let file = file.display();
        Error::precondition(format!("{file}: {key} {text:?}: {why}"))
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&whole).map_err(|e| bad(&format!("{e}; write https://HOST")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("must start with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        let file = file.display();
        // What is not said again here may be a password.
        return Err(Error::precondition(format!(
            "{file}: a {key} must have no user name, password and query; credentials belong into auth_file"
        )));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

fn link(path: &Path, table: Table) -> Result<Link> {
    // As containerd does: relative to the file that names it.
    let at = |p: &PathBuf| path.parent().unwrap_or(path).join(p);
    let named = match table.ca {
        None => Vec::new(),
        Some(Paths::One(one)) => vec![one],
        Some(Paths::Many(many)) => many,
    };
    let mut ca = Vec::new();
    for file in &named {
        ca.extend(certs::authorities(path, &at(file))?);
    }
    let pairs: Vec<_> = match table.client {
        None => Vec::new(),
        Some(Client::One(one)) => vec![(at(&one), at(&one))],
        Some(Client::Many(many)) => many
            .iter()
            .map(|pair| match pair {
                Pair::Both(both) => (at(both), at(both)),
                Pair::Each([cert, key]) if key.as_os_str().is_empty() => (at(cert), at(cert)),
                Pair::Each([cert, key]) => (at(cert), at(key)),
            })
            .collect(),
    };
    let dial_timeout = table.dial_timeout.as_deref().map(|text| {
        duration(text).ok_or_else(|| {
            let why = "must be a time such as \"500ms\", \"10s\" or \"1m\"";
            Error::precondition(format!("{}: dial_timeout {text:?}: {why}", path.display()))
        })
    });
    Ok(Link {
        skip_verify: table.skip_verify.unwrap_or(false),
        ca,
        identity: certs::identity(path, &pairs)?,
        dial_timeout: dial_timeout.transpose()?,
    })
}

/// A time as Go writes it: `1m30s`, `2.5s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    (!time.is_zero()).then_some(time)
}

fn headers(path: &Path, table: &BTreeMap<String, Texts>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, texts) in table {
        let bad = |why: &str| Error::precondition(format!("{}: header {name:?}: {why}", path.display()));
        let key: HeaderName = name.parse().map_err(|_| bad("is no header's name"))?;
        let texts = match texts {
            Texts::One(one) => std::slice::from_ref(one),
            Texts::Many(many) => many,
        };
        for text in texts {
            let mut value = HeaderValue::from_str(text).map_err(|_| bad("no header can have its value"))?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// `, line 3`; nothing where it is not known.
fn line(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|s| text.get(..s.start));
    before.map_or_else(String::new, |t| format!(", line {}", t.matches('\n').count() + 1))
}
