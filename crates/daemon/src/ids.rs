//! IDs of pods and containers: 64 hex digits, as everywhere in this field.

use crate::error::{Error, Result};

/// A new random ID.
///
/// # Errors
/// The kernel's random source fails, which getrandom(2) rules out once it is seeded.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::internal(format!("getrandom(32 bytes): {e}"))),
        }
    }
    Ok(hex::encode(bytes))
}

/// Whether a directory's name is an ID: what else lies there is not ours to touch.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_recognised() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(a, b);
        assert!(is_id(&a) && is_id(&b));
        assert!(!is_id("abc") && !is_id(&"A".repeat(64)) && !is_id(&"../".repeat(22)[..64]));
        assert!(now() > 1_600_000_000_000_000_000);
    }
}
