//! `config.json` and what it has for a repository.

use crate::{DOCKER_HUB, Error, Login, helper};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The name under which Docker keeps the credentials of [`DOCKER_HUB`].
pub(crate) const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Docker's user name for what is an identity token in the password's place.
const TOKEN_USER: &str = "<token>";

/// Credentials of several registries.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(skip)]
    path: PathBuf,
}

/// One registry's, as it is written.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// User name, if it is not in `auth`.
    pub username: String,
    /// Password, if it is not in `auth`.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// An OAuth2 refresh token.
    #[serde(rename = "identitytoken", alias = "identity_token")]
    pub identity_token: String,
    /// A token for the registry itself.
    #[serde(rename = "registrytoken", alias = "registry_token")]
    pub registry_token: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(…)")
    }
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registries: Vec<_> = self.auths.keys().collect();
        f.debug_struct("ConfigFile")
            .field("path", &self.path)
            .field("auths", &registries)
            .finish_non_exhaustive()
    }
}

/// How well a key fits: the longer its path the better, then as it is written rather than as a URL.
type Fit = (usize, bool);

impl ConfigFile {
    /// Reads a file; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read or makes no sense.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::read(path) {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(Error::Read { path: path.into(), why: e.to_string() }),
        }
    }

    /// Reads the text of a file. What has nothing to do with credentials is passed over.
    ///
    /// # Errors
    /// [`Error::Parse`]
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let file: Self = serde_json::from_slice(text).map_err(|e| {
            // The parser's own text may quote a value.
            let why = format!("line {}, column {}", e.line(), e.column());
            Error::Parse { path: path.into(), why }
        })?;
        Ok(Self { path: path.into(), ..file })
    }

    /// Entries that are written somewhere else. `path` is named in errors.
    pub fn of(path: &Path, auths: BTreeMap<String, Entry>) -> Self {
        Self { auths, path: path.into(), ..Self::default() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.auths.is_empty() && self.helpers.is_empty() && self.store.is_empty()
    }

    /// What there is for a repository of a registry (`docker.io`, `localhost:5000`, as image references name it): from its
    /// own helper, the store, or the file. A helper that knows nothing of it leaves the word to the next.
    ///
    /// # Errors
    /// If a helper fails, or an entry is damaged.
    pub async fn login(&self, registry: &str, repository: &str) -> Result<Option<Login>, Error> {
        let own = best(&self.helpers, registry, repository).map(|(_, name)| name.as_str());
        // An empty name takes a registry out of the store.
        let store = Some(self.store.as_str()).filter(|_| own != Some(""));
        for name in own.into_iter().chain(store).filter(|name| !name.is_empty()) {
            let server = if registry == DOCKER_HUB { HUB_KEY } else { registry };
            if let Some((username, secret)) = helper::get(name, server).await? {
                return Ok(Some(of_pair(username, secret)));
            }
        }
        // A store leaves empty entries in the file, to say which registries it knows.
        let known = self.auths.iter().filter(|(_, entry)| **entry != Entry::default());
        match best(known, registry, repository) {
            Some((key, entry)) => {
                let bad = || Error::Auth { path: self.path.clone(), key: key.clone() };
                entry.login().ok_or_else(bad).map(Some)
            }
            None => Ok(None),
        }
    }
}

impl ConfigFile {
    /// The helper that keeps a registry's logins.
    pub(crate) fn helper_of(&self, registry: &str) -> Option<&str> {
        let own = best(&self.helpers, registry, "").map(|(_, name)| name.as_str());
        // An empty name takes a registry out of the store.
        Some(own.unwrap_or(&self.store)).filter(|name| !name.is_empty())
    }

    /// The keys that are about a whole registry.
    pub(crate) fn keys_of(&self, registry: &str) -> Vec<String> {
        self.auths.keys().filter(|key| fit(key, registry, "").is_some()).cloned().collect()
    }
}

impl Entry {
    /// Whether its `auth` is undamaged, or not there.
    pub fn is_readable(&self) -> bool {
        self.login().is_some()
    }

    /// The entry read; `None` if its `auth` is damaged.
    fn login(&self) -> Option<Login> {
        let (username, password) = if self.username.is_empty() && !self.auth.is_empty() {
            decode(&self.auth)?
        } else {
            (self.username.clone(), self.password.clone())
        };
        let mut login = of_pair(username, password);
        if !self.identity_token.is_empty() {
            login.identity_token.clone_from(&self.identity_token);
        }
        login.registry_token.clone_from(&self.registry_token);
        Some(login)
    }
}

/// The best of the keys that are about a repository.
fn best<'a, T>(
    all: impl IntoIterator<Item = (&'a String, &'a T)>,
    registry: &str,
    repository: &str,
) -> Option<(&'a String, &'a T)> {
    let fitting =
        all.into_iter().filter_map(|(key, value)| Some((fit(key, registry, repository)?, (key, value))));
    fitting.max_by_key(|(fit, _)| *fit).map(|(_, found)| found)
}

/// Whether a key is about a repository: a host, a URL as Docker wrote them once, or a host and the beginning of a path as
/// Podman has it (containers-auth.json(5)).
fn fit(key: &str, registry: &str, repository: &str) -> Option<Fit> {
    let (plain, rest) = match key.split_once("://") {
        Some((_, rest)) => (false, rest),
        None => (true, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !canonical(host).eq_ignore_ascii_case(canonical(registry)) {
        return None;
    }
    let path = path.trim_end_matches('/');
    if !plain || matches!(path, "" | "v1" | "v2") {
        return Some((0, plain));
    }
    let below = repository.strip_prefix(path)?;
    (below.is_empty() || below.starts_with('/')).then_some((path.len(), plain))
}

fn canonical(host: &str) -> &str {
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { DOCKER_HUB } else { host }
}

fn of_pair(username: String, secret: String) -> Login {
    if username == TOKEN_USER {
        return Login { identity_token: secret, ..Login::default() };
    }
    Login { username, password: secret, ..Login::default() }
}

/// User name and password of an `auth`.
fn decode(auth: &str) -> Option<(String, String)> {
    let auth = auth.trim();
    let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads passwords with NUL bytes.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ConfigFile {
        ConfigFile::parse(Path::new("/x/config.json"), text.as_bytes()).unwrap()
    }

    async fn user(file: &ConfigFile, registry: &str, repository: &str) -> String {
        file.login(registry, repository).await.unwrap().unwrap_or_default().username
    }

    #[tokio::test]
    async fn keys_are_dockers_and_podmans() {
        let entry = |user: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:p:w")));
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{},"https://a.example/v1/":{},"b.example:5000":{},
                "b.example:5000/team":{},"b.example:5000/team/app":{},"c.example":{{}},"http://d.example":{}}},"HttpHeaders":{{}}}}"#,
            entry("hub"),
            entry("a"),
            entry("b"),
            entry("team"),
            entry("app"),
            entry("d"),
        );
        let file = file(&text);
        assert_eq!(user(&file, "docker.io", "library/busybox").await, "hub");
        assert_eq!(user(&file, "a.example", "x").await, "a");
        assert_eq!(user(&file, "A.example", "x").await, "a");
        assert_eq!(user(&file, "b.example:5000", "x").await, "b");
        assert_eq!(user(&file, "b.example:5000", "teams/x").await, "b");
        assert_eq!(user(&file, "b.example:5000", "team/x").await, "team");
        assert_eq!(user(&file, "b.example:5000", "team/app").await, "app");
        assert_eq!(user(&file, "d.example", "x").await, "d");
        for stranger in ["b.example", "c.example", "example", "xa.example"] {
            assert_eq!(file.login(stranger, "x").await.unwrap(), None, "{stranger}");
        }
        assert_eq!(file.login("a.example", "x").await.unwrap().unwrap().password, "p:w");
    }

    #[tokio::test]
    async fn tokens_and_plain_fields() {
        let text = r#"{"auths":{"a":{"auth":"","identitytoken":"id"},"b":{"username":"u","password":"hidden"},
            "c":{"registrytoken":"reg"},"d":{"auth":"PHRva2VuPjppZA=="},"e":{"auth":"!"}}}"#;
        let file = file(text);
        let login = async |r: &str| file.login(r, "x").await.unwrap().unwrap();
        assert_eq!(login("a").await.identity_token, "id");
        assert_eq!(
            login("b").await,
            Login { username: "u".into(), password: "hidden".into(), ..Login::default() }
        );
        assert_eq!(login("c").await.registry_token, "reg");
        assert_eq!(login("d").await, Login { identity_token: "id".into(), ..Login::default() });
        let error = file.login("e", "x").await.unwrap_err().to_string();
        assert!(error.contains("/x/config.json") && error.contains("\"e\""), "{error}");
        let readable: Vec<_> = file.auths.values().map(Entry::is_readable).collect();
        assert_eq!(readable, [true, true, true, true, false]);
        assert!(!format!("{file:?} {:?}", login("b").await).contains("hidden"));
    }

    #[test]
    fn what_is_no_config_says_where() {
        let error = ConfigFile::parse(Path::new("/x/c.json"), b"{\"auths\":{\"a\":\"hidden\"}}").unwrap_err();
        assert!(error.to_string().contains("/x/c.json") && !error.to_string().contains("hidden"), "{error}");
        assert!(file("{}").is_empty());
        assert!(ConfigFile::read(Path::new("/nonexistent/config.json")).unwrap().is_none());
        assert!(matches!(ConfigFile::read(Path::new("/")), Err(Error::Read { .. })));
    }
}
