//! The keys that leave a session and let its container go on.

/// What `--detach-keys` has by default.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(crate) struct Filter {
    keys: Vec<u8>,
    /// How many of the keys have been typed and are being held back.
    held: usize,
}

impl Filter {
    /// Looks for these keys; none: never leaves.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, held: 0 }
    }

    /// What of the input goes on to the container, and whether the last of the keys was typed.
    pub(crate) fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.held) == Some(byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    self.held = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend(self.keys.iter().take(self.held));
            self.held = usize::from(self.keys.first() == Some(byte) && self.keys.len() > 1);
            if self.held == 0 {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

/// Reads `ctrl-p,ctrl-q`: characters, or `ctrl-` and a letter or one of `@[\]^_`, with commas between.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let key = |key: &str| {
        let control = key.strip_prefix("ctrl-").map(str::as_bytes);
        match (control, key.as_bytes()) {
            (Some([c @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
                Ok(c.to_ascii_uppercase() & 0x1f)
            }
            (None, [c]) => Ok(*c),
            _ => Err(format!(
                "invalid detach keys ({text}): '{key}' is neither a character nor ctrl- and a letter"
            )),
        }
    };
    text.split(',').map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_across_reads_and_passed_on_otherwise() {
        let mut f = Filter::new(parse(DEFAULT).unwrap());
        assert_eq!(f.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(f.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(f.feed(b"\x10\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(f.feed(b"\x10"), (vec![], false));
        assert_eq!(f.feed(b"\x11rest"), (vec![], true));
        let mut single = Filter::new(b"q".to_vec());
        assert_eq!(single.feed(b"aq"), (b"a".to_vec(), true));
        assert_eq!(Filter::new(vec![]).feed(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn keys_are_read() {
        assert_eq!(parse("ctrl-@,a,ctrl-["), Ok(vec![0, b'a', 0x1b]));
        assert!(parse("ctrl-1").is_err() && parse("abc").is_err());
    }
}
