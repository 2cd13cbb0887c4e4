//! Image references, by the grammar of the distribution project's `reference` package.
//!
//! ```text
//!   reference  = name [ ":" tag ] [ "@" digest ]
//!   name       = [ domain "/" ] path
//!   domain     = host [ ":" port ]           host: a DNS name, an IPv4 address, or "[" IPv6 "]"
//!   path       = component *( "/" component )
//!   component  = alnum *( separator alnum )  alnum: [a-z0-9]+   separator: "." | "_" | "__" | "-"+
//!   tag        = [A-Za-z0-9_] *127[A-Za-z0-9_.-]
//! ```
//! The first component is a domain if it holds a `.`, a `:` or an upper-case letter, or is `localhost`; otherwise the
//! domain is `docker.io`, where a path of one component stands for `library/` and it.

use crate::digest::{Digest, DigestError};
use std::fmt;
use std::str::FromStr;

/// The registry of references that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of references with neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_REGISTRY: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;
/// Longer than any valid one: 255 of domain and path each, a tag and a SHA-512 digest.
const MAX_TEXT: usize = 1024;

/// A whole image reference: every default is filled in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("invalid reference format: it is empty; name an image such as busybox:latest")]
    Empty,
    /// Longer than any reference.
    #[error("invalid reference format: it has more than {MAX_TEXT} bytes")]
    TooLong,
    /// Upper-case letters in the path.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The path is over its limit.
    #[error("invalid reference format: repository name must not be more than {MAX_PATH} characters")]
    PathTooLong,
    /// It would be taken for an image ID.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// A path that the grammar does not allow.
    #[error("invalid reference format: {0:?} is no repository name")]
    Path(String),
    /// A domain that the grammar does not allow.
    #[error("invalid reference format: {0:?} is no registry host")]
    Domain(String),
    /// A tag that the grammar does not allow.
    #[error(
        "invalid reference format: {0:?} is no tag; a tag has at most {MAX_TAG} letters, digits, '_', '.' and '-', and starts with none of the last two"
    )]
    Tag(String),
    /// What follows `@` is no digest.
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Reads a reference as people write it: `busybox` is `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    /// If the grammar does not allow it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(ReferenceError::TooLong);
        }
        if is_id(text) {
            return Err(ReferenceError::LooksLikeId(text.into()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (registry, rest) = split_domain(rest);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        check_domain(registry)?;
        check_path(path)?;
        let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > MAX_PATH {
            return Err(ReferenceError::PathTooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry's host, with its port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path on the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and path: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Registry and path as people write them: `busybox`.
    ///
    /// Parsing it gives the same name again, which keeps `docker.io/` before a path that would be taken for a host.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = match self.repository.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.repository,
        };
        let (domain, path) = split_domain(short);
        if domain == DEFAULT_REGISTRY && path == short && !is_id(short) {
            short.to_owned()
        } else {
            self.name()
        }
    }

    /// The reference as people write it, always with its tag: `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same name with this tag and no digest.
    ///
    /// # Errors
    /// If it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if good { Ok(()) } else { Err(ReferenceError::Tag(tag.into())) }
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Domain(domain.into());
    if domain.len() > MAX_PATH {
        return Err(bad());
    }
    let (host, port) = if domain.starts_with('[') {
        let end = domain.find(']').ok_or_else(bad)?;
        let (host, rest) = domain.split_at(end + 1);
        let inner = host.trim_start_matches('[').trim_end_matches(']');
        // The grammar is [a-fA-F0-9:]+; an address that is none would only fail later, with less to say.
        if host.len() != inner.len() + 2 || inner.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad());
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return Err(bad()),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || port.parse::<u16>().is_err() {
            return Err(bad());
        }
    }
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_none_or(|h| h.split('.').all(label)) { Ok(()) } else { Err(bad()) }
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(path.into()));
    }
    if path.len() > MAX_PATH {
        return Err(ReferenceError::PathTooLong);
    }
    if path.split('/').all(is_component) { Ok(()) } else { Err(ReferenceError::Path(path.into())) }
}

fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(alnum) && text.bytes().next_back().is_some_and(alnum);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.with_suffix(self.name()))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
