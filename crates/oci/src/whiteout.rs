//! Whiteouts as layer tars write them (OCI image spec, layer.md "Whiteouts").

/// What a whiteout's name starts with.
pub const PREFIX: &[u8] = b".wh.";
/// The entry that hides everything which lower layers have in its directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's last path component means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A file, directory or anything else of this name.
    Plain(&'a [u8]),
    /// The name in lower layers is hidden.
    Whiteout(&'a [u8]),
    /// All names of lower layers in this directory are hidden.
    Opaque,
    /// Bookkeeping of AUFS (`.wh..wh.plnk`, `.wh..wh.aufs`), which old layers carry: no file.
    Ignored,
    /// A whiteout of nothing, or one whose name cannot be: `.wh.`, `.wh..`, `.wh...`.
    Invalid,
}

/// Tells whiteouts from files by an entry's last path component.
pub fn classify(name: &[u8]) -> Entry<'_> {
    if name == OPAQUE {
        return Entry::Opaque;
    }
    match name.strip_prefix(PREFIX) {
        None => Entry::Plain(name),
        Some(b"" | b"." | b"..") => Entry::Invalid,
        Some(rest) if rest.starts_with(PREFIX) => Entry::Ignored,
        Some(rest) => Entry::Whiteout(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(classify(b"a"), Entry::Plain(b"a"));
        assert_eq!(classify(b".whatever"), Entry::Plain(b".whatever"));
        assert_eq!(classify(b".wh.a"), Entry::Whiteout(b"a"));
        assert_eq!(classify(b".wh..wh..opq"), Entry::Opaque);
        assert_eq!(classify(b".wh..wh.plnk"), Entry::Ignored);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(classify(bad), Entry::Invalid);
        }
    }
}
