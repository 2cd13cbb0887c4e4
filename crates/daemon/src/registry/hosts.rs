//! Where a registry is: its own host, or what `<config_path>/<registry>/hosts.toml` says (containerd's format).

use crate::error::{Error, Result};
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use strata_oci::reference::DEFAULT_REGISTRY;
use toml::Spanned;

/// What answers for [`DEFAULT_REGISTRY`].
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One place where a registry's content can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Up to and with `/v2`, without a slash at the end.
    pub(super) base: Url,
    /// Whom to trust.
    pub(super) trust: Trust,
    /// What it may be asked for.
    capabilities: Capabilities,
    /// The registry that it stands in for; `None` if it is the registry itself. Mirrors get no credentials.
    pub(super) mirror_of: Option<String>,
}

/// Whom a TLS client trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Trust {
    /// Anybody.
    pub(super) skip_verify: bool,
    /// Certificates in PEM, beside the system's.
    pub(super) ca: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capabilities {
    pull: bool,
    resolve: bool,
}

/// What is wanted from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Content by its digest, which proves it.
    Content,
    /// What a tag means, which has to be believed.
    Tag,
}

impl Endpoint {
    /// Whether it may be asked for this.
    pub(super) fn serves(&self, want: Want) -> bool {
        match want {
            Want::Content => self.capabilities.pull,
            Want::Tag => self.capabilities.pull && self.capabilities.resolve,
        }
    }

    /// Whether it is spoken to without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Host and port, for keys and messages.
    pub(super) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URL of something below the base. `path` is made of checked names only.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&text).map_err(|e| Error::invalid(format!("registry URL {text:?}: {e}")))?;
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostsFile {
    server: Option<String>,
    capabilities: Option<Vec<Capability>>,
    skip_verify: bool,
    ca: Files,
    override_path: bool,
    // Spanned: mirrors are tried in the file's order, which a table does not keep.
    host: BTreeMap<String, Spanned<HostTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostTable {
    capabilities: Option<Vec<Capability>>,
    skip_verify: bool,
    ca: Files,
    override_path: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    Push,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Files {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Default for Files {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Capabilities {
    fn of(list: Option<&[Capability]>) -> Self {
        let has = |c| list.is_none_or(|l| l.contains(&c));
        Self { pull: has(Capability::Pull), resolve: has(Capability::Resolve) }
    }
}

/// The endpoints of a registry, in the order in which they are to be tried; the file is read afresh.
///
/// # Errors
/// [`Kind::FailedPrecondition`](crate::error::Kind::FailedPrecondition) if the file cannot be read or makes no sense.
pub(super) async fn endpoints(config_path: &Path, registry: &str) -> Result<Vec<Endpoint>> {
    // A registry's name holds no slash and no empty label: strata_oci::reference.
    let path = config_path.join(registry).join("hosts.toml");
    let registry = registry.to_owned();
    tokio::task::spawn_blocking(move || read(&path, &registry))
        .await
        .map_err(|e| Error::internal(format!("reading hosts.toml: {e}")))?
}

fn read(path: &Path, registry: &str) -> Result<Vec<Endpoint>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, registry),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![own(registry)?]),
        Err(e) => {
            Err(Error::precondition(format!("{}: {e}; make it readable, or remove it", path.display())))
        }
    }
}

fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Endpoint>> {
    let file: HostsFile =
        toml::from_str(text).map_err(|e| Error::precondition(format!("{}: {e}", path.display())))?;
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(_, table)| table.span().start);
    let mut endpoints = Vec::with_capacity(hosts.len() + 1);
    for (key, table) in hosts {
        let table = table.into_inner();
        endpoints.push(Endpoint {
            base: base(path, "host", &key, table.override_path)?,
            trust: trust(path, table.skip_verify, table.ca)?,
            capabilities: Capabilities::of(table.capabilities.as_deref()),
            mirror_of: Some(registry.to_owned()),
        });
    }
    let itself = match &file.server {
        Some(server) => base(path, "server", server, file.override_path)?,
        None => own(registry)?.base,
    };
    endpoints.push(Endpoint {
        base: itself,
        trust: trust(path, file.skip_verify, file.ca)?,
        capabilities: Capabilities::of(file.capabilities.as_deref()),
        mirror_of: None,
    });
    Ok(endpoints)
}

fn base(file: &Path, key: &str, text: &str, override_path: bool) -> Result<Url> {
    let bad = |why: &str| {
        let file = file.display();
        Error::precondition(format!("{file}: {key} {text:?}: {why}"))
    };
    let mut url = Url::parse(text).map_err(|e| bad(&format!("{e}; write https://HOST")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("must start with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(bad("must have no user name, password and query"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

fn trust(file: &Path, skip_verify: bool, ca: Files) -> Result<Trust> {
    let paths = match ca {
        Files::One(path) => vec![path],
        Files::Many(paths) => paths,
    };
    let mut trust = Trust { skip_verify, ca: Vec::new() };
    for path in paths {
        // As containerd does: relative to the file that names it.
        let at = file.parent().unwrap_or(file).join(path);
        let pem = std::fs::read(&at)
            .map_err(|e| Error::precondition(format!("{}: ca {}: {e}", file.display(), at.display())))?;
        trust.ca.push(pem);
    }
    Ok(trust)
}

/// The registry itself: over TLS, unless it is on this machine.
fn own(registry: &str) -> Result<Endpoint> {
    let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
    let scheme = if is_loopback(host) { "http" } else { "https" };
    let text = format!("{scheme}://{host}/v2");
    let base = Url::parse(&text).map_err(|e| Error::invalid(format!("registry {registry:?}: {e}")))?;
    let capabilities = Capabilities { pull: true, resolve: true };
    Ok(Endpoint { base, trust: Trust::default(), capabilities, mirror_of: None })
}

/// Whether a host, with or without a port, is this machine by its very name: no lookup is asked.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn bases(text: &str) -> Vec<String> {
        let endpoints = parse(Path::new("/c/r/hosts.toml"), text, "example.org").unwrap();
        endpoints.iter().map(|e| e.base.to_string()).collect()
    }

    fn refusal(text: &str) -> String {
        let error = parse(Path::new("/c/r/hosts.toml"), text, "example.org").unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        error.to_string()
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for local in ["localhost", "localhost:5000", "127.0.0.1", "127.8.7.6:80", "[::1]:5000", "[::1]"] {
            assert_eq!(own(local).unwrap().base.scheme(), "http", "{local}");
        }
        for far in [
            "10.0.0.1:5000",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.nip.io",
            "[::2]",
            "128.0.0.1",
        ] {
            assert_eq!(own(far).unwrap().base.scheme(), "https", "{far}");
        }
        assert_eq!(own("docker.io").unwrap().base.as_str(), "https://registry-1.docker.io/v2");
    }

    #[test]
    fn mirrors_keep_the_order_of_the_file() {
        let text = r#"
            server = "https://up.example.org"
            [host."https://z.example.org"]
            capabilities = ["pull"]
            [host."http://a.example.org:8080/cache/"]
            [host."https://m.example.org/exact/"]
            override_path = true
        "#;
        assert_eq!(
            bases(text),
            [
                "https://z.example.org/v2",
                "http://a.example.org:8080/cache/v2",
                "https://m.example.org/exact",
                "https://up.example.org/v2"
            ]
        );
        let endpoints = parse(Path::new("/c/r/hosts.toml"), text, "example.org").unwrap();
        assert!(endpoints[0].serves(Want::Content) && !endpoints[0].serves(Want::Tag));
        assert!(endpoints[1].serves(Want::Tag));
        assert_eq!(
            endpoints[2].url("a/b/blobs/x").unwrap().as_str(),
            "https://m.example.org/exact/a/b/blobs/x?ns=example.org"
        );
        assert_eq!(endpoints[3].url("x").unwrap().as_str(), "https://up.example.org/v2/x");
        assert_eq!(bases(""), ["https://example.org/v2"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let unknown = refusal("[host.\"https://a\"]\nskip_verfy = true\n");
        assert!(unknown.contains("/c/r/hosts.toml") && unknown.contains("skip_verfy"), "{unknown}");
        assert!(refusal("servr = \"x\"").contains("servr"));
        assert!(refusal("server = \"example.org\"").contains("https://"));
        assert!(refusal("server = \"ftp://example.org\"").contains("must start with"));
        assert!(refusal("server = \"https://u:p@example.org\"").contains("user name"));
        assert!(refusal("ca = \"no-such.pem\"").contains("no-such.pem"));
        assert!(refusal("capabilities = [\"pul\"]").contains("pul"));
    }

    #[tokio::test]
    async fn the_file_is_read_for_each_pull() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(endpoints(dir.path(), "example.org").await.unwrap().len(), 1);
        std::fs::create_dir(dir.path().join("example.org")).unwrap();
        let file = dir.path().join("example.org/hosts.toml");
        std::fs::write(&file, "[host.\"http://10.0.0.1\"]\nskip_verify = true\n").unwrap();
        let found = endpoints(dir.path(), "example.org").await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].is_plain() && found[0].trust.skip_verify);
        assert!(!found[1].is_plain() && found[1].mirror_of.is_none());
    }
}
