//! Names and IDs as people read them.

/// The first twelve digits of an ID or digest.
pub(crate) fn short_id(id: &str) -> String {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

/// A reference without what is understood: `docker.io/library/busybox:latest` is `busybox:latest`.
pub(crate) fn familiar(reference: &str) -> &str {
    let Some(rest) = reference.strip_prefix("docker.io/") else { return reference };
    rest.strip_prefix("library/").unwrap_or(rest)
}

/// Repository, tag and digest of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) repository: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<&'a str>,
}

/// Takes a reference apart. A colon before the last slash is a port.
pub(crate) fn parts(reference: &str) -> Parts<'_> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    match name.rfind(':').filter(|colon| *colon >= slash) {
        Some(colon) => {
            Parts { repository: name.get(..colon).unwrap_or(name), tag: name.get(colon + 1..), digest }
        }
        None => Parts { repository: name, tag: None, digest },
    }
}

/// The reference with the tag that is understood.
pub(crate) fn with_default_tag(reference: &str) -> String {
    let Parts { tag, digest, .. } = parts(reference);
    if tag.is_none() && digest.is_none() { format!("{reference}:latest") } else { reference.to_owned() }
}

/// The repository's path without its registry, as a registry knows it.
pub(crate) fn path(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((host, rest)) if is_host(host) => rest,
        _ => repository,
    }
}

/// Whether the first part of a repository is a registry.
pub(crate) fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|b| b.is_ascii_uppercase())
}

/// Cuts a text to `width` characters, the last of which then is `…`.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A text in double quotes, as Go's `strconv.Quote` has it.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_shown_as_docker_shows_them() {
        assert_eq!(familiar("docker.io/library/busybox:latest"), "busybox:latest");
        assert_eq!(familiar("docker.io/grafana/grafana:1"), "grafana/grafana:1");
        assert_eq!(familiar("quay.io/a/b:1"), "quay.io/a/b:1");
        assert_eq!(path("docker.io/library/busybox"), "library/busybox");
        assert_eq!(path("localhost:5000/x"), "x");
        assert_eq!(path("library/x"), "library/x");
    }

    #[test]
    fn a_port_is_no_tag() {
        let p = parts("localhost:5000/a/b");
        assert_eq!((p.repository, p.tag, p.digest), ("localhost:5000/a/b", None, None));
        let p = parts("localhost:5000/a:2@sha256:ab");
        assert_eq!((p.repository, p.tag, p.digest), ("localhost:5000/a", Some("2"), Some("sha256:ab")));
        assert_eq!(with_default_tag("x"), "x:latest");
        assert_eq!(with_default_tag("x@sha256:ab"), "x@sha256:ab");
    }

    #[test]
    fn texts_are_cut_and_quoted() {
        assert_eq!(ellipsis("sleep infinity and more", 20), "sleep infinity and …");
        assert_eq!(ellipsis("sh", 20), "sh");
        assert_eq!(quote("a \"b\"\t\u{1}"), r#""a \"b\"\t\x01""#);
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
