//! Credentials, challenges (RFC 9110, "WWW-Authenticate") and the tokens of the distribution spec's token servers.

use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use strata_api::cri::AuthConfig;
use strata_oci::Digest;
use strata_oci::digest::Hasher;
use strata_oci::reference::DEFAULT_REGISTRY;

/// How long a token is good for if the server does not say (distribution spec, "Token Authentication").
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// Beyond these, tokens are forgotten early.
const MAX_TOKENS: usize = 4096;
/// Docker's user name for what is an identity token in the password's place.
const TOKEN_USER: &str = "<token>";

/// What proves who pulls.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// User name and password.
    Password(String, String),
    /// Exchanged for access tokens at the token server.
    Identity(String),
    /// Sent to the registry as it is.
    Registry(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must not reach a log.
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password(..) => "Password(…)",
            Self::Identity(_) => "Identity(…)",
            Self::Registry(_) => "Registry(…)",
        })
    }
}

impl Credentials {
    /// The credentials in a request that are meant for this registry.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`](crate::error::Kind::InvalidArgument) if `auth` is no base64 of `user:password`.
    pub(super) fn of(auth: Option<&AuthConfig>, registry: &str) -> Result<Self> {
        let Some(auth) = auth else { return Ok(Self::Anonymous) };
        if !auth.server_address.is_empty() && server_of(&auth.server_address) != registry {
            return Ok(Self::Anonymous);
        }
        if !auth.registry_token.is_empty() {
            return Ok(Self::Registry(auth.registry_token.clone()));
        }
        if !auth.identity_token.is_empty() {
            return Ok(Self::Identity(auth.identity_token.clone()));
        }
        let (user, password) = if auth.username.is_empty() && !auth.auth.is_empty() {
            decode(&auth.auth).ok_or_else(|| {
                Error::invalid(format!(
                    "credentials for {registry}: auth must be base64 of user:password; check the pull secret"
                ))
            })?
        } else {
            (auth.username.clone(), auth.password.clone())
        };
        Ok(match user.as_str() {
            "" => Self::Anonymous,
            TOKEN_USER => Self::Identity(password),
            _ => Self::Password(user, password),
        })
    }

    /// Tells one pod's tokens from another's without keeping the secret.
    pub(super) fn fingerprint(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        let (tag, parts): (u8, [&str; 2]) = match self {
            Self::Anonymous => (0, ["", ""]),
            Self::Password(user, password) => (1, [user, password]),
            Self::Identity(token) => (2, [token, ""]),
            Self::Registry(token) => (3, [token, ""]),
        };
        hasher.update(&[tag]);
        for part in parts {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finish()
    }

    /// As an `Authorization: Basic` header, if there is a password.
    pub(super) fn basic(&self) -> Result<Option<HeaderValue>> {
        match self {
            Self::Password(user, password) => {
                secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// A header that is not shown in logs.
pub(super) fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::invalid("credentials hold bytes that no HTTP header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `https://index.docker.io/v1/` is docker.io; others are their host and port.
fn server_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        host => host,
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads passwords with NUL bytes.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `bearer` or `basic`, in lower case.
    pub(super) scheme: String,
    params: HashMap<String, String>,
}

impl Challenge {
    /// A parameter, by its name in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    /// Every challenge of an answer. What cannot be parsed is left out.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut found = Vec::new();
        for text in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()) {
            parse_challenges(text, &mut found);
        }
        found
    }
}

fn parse_challenges(text: &str, found: &mut Vec<Challenge>) {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            found.push(Challenge { scheme: word.to_ascii_lowercase(), params: HashMap::new() });
            rest = after;
            continue;
        };
        let (value, after) = parse_value(value.trim_start());
        if let Some(challenge) = found.last_mut() {
            challenge.params.insert(word.to_ascii_lowercase(), value);
        }
        rest = after;
    }
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or("")),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    issued_at: Option<String>,
}

/// An `Authorization` header, and how long it is good for.
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    pub(super) life: Duration,
}

/// Reads the answer of a token server.
pub(super) fn read_token(body: &[u8]) -> Result<Grant> {
    let answer: TokenAnswer = serde_json::from_slice(body)
        .map_err(|e| Error::new(crate::error::Kind::Unavailable, format!("the answer is no token: {e}")))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(Error::new(crate::error::Kind::Unavailable, "the answer holds no token"));
    }
    let life = answer.expires_in.map_or(TOKEN_LIFE, |s| Duration::from_secs(s.clamp(1, 24 * 3600)));
    // A server may hand out a token that it has handed out before. Its clock may differ from ours: a token is never taken
    // for good longer than it says.
    let age = answer.issued_at.and_then(|at| {
        let at: jiff::Timestamp = at.parse().ok()?;
        SystemTime::now().duration_since(at.into()).ok()
    });
    let life = life.saturating_sub(age.unwrap_or_default());
    Ok(Grant { header: secret(&format!("Bearer {token}"))?, life })
}

/// Whom a token is for: endpoint, repository, credentials. One pod's token never serves another's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) base: String,
    pub(super) scope: String,
    pub(super) credentials: Digest,
}

/// Tokens in memory.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<TokenKey, (HeaderValue, Instant)>>);

impl Tokens {
    /// A token that is still good.
    pub(super) fn get(&self, key: &TokenKey) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    /// Keeps a token.
    pub(super) fn put(&self, key: TokenKey, grant: &Grant) {
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, until)| *until > now);
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(key, (grant.header.clone(), now + grant.life.saturating_sub(TOKEN_MARGIN)));
    }

    /// Forgets a token that was refused.
    pub(super) fn forget(&self, key: &TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Challenge> {
        let mut found = Vec::new();
        parse_challenges(text, &mut found);
        found
    }

    #[test]
    fn challenges() {
        let all = parse(
            r#"Basic realm="a, b=c", Bearer realm="https://x/token?y=1",service=reg, scope="repository:a/b:pull,push""#,
        );
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].scheme.as_str(), all[0].get("realm")), ("basic", Some("a, b=c")));
        assert_eq!(all[1].get("realm"), Some("https://x/token?y=1"));
        assert_eq!(all[1].get("service"), Some("reg"));
        assert_eq!(all[1].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(parse(r#"Bearer realm="a\"b"#)[0].get("realm"), Some("a\"b"));
        for odd in
            ["", ",,,", "=", "Bearer", "Bearer =", "a=b", "\"", "Bearer realm=\"", "Bearer \\", "é=é é"]
        {
            let _ = parse(odd);
        }
    }

    #[test]
    fn credentials_go_to_their_server_only() {
        let auth = |f: &dyn Fn(&mut AuthConfig)| {
            let mut auth = AuthConfig::default();
            f(&mut auth);
            auth
        };
        let of = |a: &AuthConfig, registry: &str| Credentials::of(Some(a), registry).unwrap();
        let both = auth(&|a| {
            a.username = "u".into();
            a.password = "p".into();
            a.server_address = "https://index.docker.io/v1/".into();
        });
        assert!(of(&both, "docker.io") == Credentials::Password("u".into(), "p".into()));
        assert!(of(&both, "example.org") == Credentials::Anonymous);
        let encoded = auth(&|a| a.auth = STANDARD.encode("u:p:q\0\0"));
        assert!(of(&encoded, "x:5000") == Credentials::Password("u".into(), "p:q".into()));
        assert!(Credentials::of(Some(&auth(&|a| a.auth = "%%%".into())), "x").is_err());
        assert!(of(&auth(&|a| a.identity_token = "t".into()), "x") == Credentials::Identity("t".into()));
        assert!(of(&auth(&|a| a.registry_token = "t".into()), "x") == Credentials::Registry("t".into()));
        assert!(Credentials::of(None, "x").unwrap() == Credentials::Anonymous);
        let header = of(&encoded, "x").basic().unwrap().unwrap();
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn tokens_are_kept_apart_and_expire() {
        let key = |who: &Credentials| TokenKey {
            base: "https://x/v2".into(),
            scope: "repository:a:pull".into(),
            credentials: who.fingerprint(),
        };
        let one = Credentials::Password("u".into(), "p".into());
        let tokens = Tokens::default();
        tokens.put(key(&one), &read_token(br#"{"token":"abc","expires_in":300}"#).unwrap());
        assert_eq!(tokens.get(&key(&one)).unwrap().as_bytes(), b"Bearer abc");
        assert!(tokens.get(&key(&Credentials::Anonymous)).is_none());
        assert!(tokens.get(&key(&Credentials::Password("up".into(), String::new()))).is_none());
        tokens.forget(&key(&one));
        assert!(tokens.get(&key(&one)).is_none());
        tokens.put(key(&one), &read_token(br#"{"access_token":"abc","expires_in":2}"#).unwrap());
        assert!(tokens.get(&key(&one)).is_none(), "within its last seconds");
        assert!(read_token(b"{}").is_err() && read_token(b"<html>").is_err());
    }
}
