//! Byte paths in JSON and text files: names need not be UTF-8.

use std::fmt::Write as _;

/// `path` as text: a backslash, control characters and what is no UTF-8 become `\xNN`.
pub(crate) fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut bytes = [0; 4];
                for b in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\x{b:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for b in chunk.invalid() {
            let _ = write!(text, "\\x{b:02x}");
        }
    }
    text
}

/// The bytes that [`escape`] made a text of; `None` if it made no such text.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\' {
            let (code, tail) = tail.strip_prefix(b"x")?.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// A list of byte paths as JSON strings.
pub(crate) mod list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(paths: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(paths.iter().map(|p| super::escape(p)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .iter()
            .map(|t| super::unescape(t).ok_or_else(|| D::Error::custom(format!("{t:?} is no escaped path"))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&path);
            prop_assert!(!text.contains(['\n', '\t']));
            prop_assert_eq!(unescape(&text).unwrap(), path);
        }
    }

    #[test]
    fn broken_text_is_told() {
        assert_eq!(escape("a\\é\n".as_bytes()), "a\\x5cé\\x0a");
        for bad in ["\\", "\\x", "\\x1", "\\xgg", "\\n"] {
            assert_eq!(unescape(bad), None);
        }
    }
}
