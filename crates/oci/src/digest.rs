//! Content digests (OCI image spec, descriptor.md "Digests").

use ring::digest::{Context, SHA256, SHA512};
use std::fmt;
use std::io;
use std::str::FromStr;

/// A digest's algorithm: the two that the OCI image spec registers and that content is addressed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which nearly everything uses.
    Sha256,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// As it is written before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits follow the colon.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked digest, such as `sha256:` and 64 lower-case hexadecimal digits. Safe as a file name by its [`hex`](Self::hex).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Box<str>,
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("invalid digest {0:?}: expected algorithm:hex, such as sha256:… with 64 hexadecimal digits")]
    Format(String),
    /// An algorithm that is not known.
    #[error("invalid digest {0:?}: the algorithm is not supported; sha256 and sha512 are")]
    Algorithm(String),
    /// Too short or too long, or not lower-case hexadecimal.
    #[error("invalid digest {text:?}: {algorithm} takes {} lower-case hexadecimal digits", algorithm.hex_len())]
    Hex {
        /// The text.
        text: String,
        /// Its algorithm.
        algorithm: Algorithm,
    },
}

/// Error texts quote at most this much of a hostile input.
const QUOTED: usize = 160;

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Digest {
    /// Reads `sha256:…` or `sha512:…`.
    ///
    /// # Errors
    /// If it is not of that form.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let Some((name, hex)) = text.split_once(':') else {
            return Err(DigestError::Format(quoted(text)));
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm(quoted(text))),
        };
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Hex { text: quoted(text), algorithm });
        }
        Ok(Self { algorithm, text: text.into() })
    }

    /// The SHA-256 digest of some bytes.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of some bytes by the algorithm of this one equals it.
    pub fn verifies(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits after the colon.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The first twelve hexadecimal digits, as command lines show it.
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or("")
    }

    /// The whole digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Digests a stream piece by piece.
///
/// ring's assembly is chosen when the program runs: for CPUs with SHA instructions, and for those with vector
/// instructions only, where it does not halve the speed as code from a compiler does.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    state: Context,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm)
    }
}

impl Hasher {
    /// A digest of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, state }
    }

    /// SHA-256 of nothing yet.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        let hex = hex::encode(self.state.finish());
        Digest { algorithm: self.algorithm, text: format!("{}:{hex}", self.algorithm).into() }
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_digests() {
        assert_eq!(Digest::sha256_of(b"").as_str(), EMPTY);
        assert!(Digest::parse(EMPTY).unwrap().verifies(b""));
        assert!(!Digest::parse(EMPTY).unwrap().verifies(b"x"));
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"a");
        hasher.update(b"bc");
        let digest = hasher.finish();
        assert!(digest.as_str().starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{digest}");
        assert_eq!(Digest::parse(digest.as_str()).unwrap(), digest);
        assert!(digest.verifies(b"abc"));
        assert_eq!(Digest::parse(EMPTY).unwrap().short(), "e3b0c44298fc");
    }

    #[test]
    fn what_is_no_digest() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(matches!(Digest::parse(""), Err(DigestError::Format(_))));
        assert!(matches!(Digest::parse(hex), Err(DigestError::Format(_))));
        assert!(matches!(Digest::parse(&format!("md5:{hex}")), Err(DigestError::Algorithm(_))));
        assert!(matches!(Digest::parse(&format!("SHA256:{hex}")), Err(DigestError::Algorithm(_))));
        for bad in [&hex[1..], &format!("{hex}0"), &hex.to_uppercase(), "../../../../etc/passwd", ""] {
            assert!(matches!(Digest::parse(&format!("sha256:{bad}")), Err(DigestError::Hex { .. })), "{bad}");
        }
        let long = Digest::parse(&"x:".repeat(1 << 20)).unwrap_err().to_string();
        assert!(long.len() < 1000);
    }

    proptest! {
        #[test]
        fn round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let digest = Digest::sha256_of(&bytes);
            prop_assert_eq!(&Digest::parse(&digest.to_string()).unwrap(), &digest);
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = Digest::parse(&text);
        }

        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(bytes.len());
            let mut hasher = Hasher::sha256();
            hasher.update(&bytes[..cut]);
            hasher.update(&bytes[cut..]);
            prop_assert_eq!(hasher.finish(), Digest::sha256_of(&bytes));
        }
    }
}
