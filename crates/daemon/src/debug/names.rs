//! Names for containers that were given none: an adjective and a surname, as with Docker. The people have something to do
//! with how layers, kernels and machines came to be.

use crate::error::{Error, Result};
use crate::ids::new_id;

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "apt", "autumn", "bold", "brave", "breezy", "bright", "brisk", "calm",
    "candid", "careful", "cheerful", "civil", "clear", "clever", "cosy", "crisp", "curious", "deft", "dewy",
    "early", "earnest", "even", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden",
    "grand", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow",
    "merry", "mild", "neat", "nimble", "patient", "plain", "polite", "proud", "quick", "quiet", "ready",
    "serene", "silver", "steady", "sunny", "swift", "tidy", "vivid", "warm", "wise",
];

const SURNAMES: [&str; 64] = [
    "abel",
    "allen",
    "antonelli",
    "ardern",
    "backus",
    "banach",
    "bartik",
    "blackwell",
    "boole",
    "borg",
    "brahe",
    "cantor",
    "carson",
    "cauchy",
    "cerf",
    "church",
    "conway",
    "crick",
    "dahl",
    "desargues",
    "diffie",
    "earhart",
    "eckert",
    "emeagwali",
    "erdos",
    "feynman",
    "floyd",
    "fourier",
    "frege",
    "godel",
    "granville",
    "hamming",
    "haskell",
    "hilbert",
    "holberton",
    "huffman",
    "iverson",
    "jacquard",
    "karp",
    "kay",
    "kepler",
    "knuth",
    "kolmogorov",
    "lagrange",
    "lamport",
    "liskov",
    "mccarthy",
    "meitner",
    "milner",
    "moore",
    "naur",
    "nygaard",
    "papert",
    "perlis",
    "ritchie",
    "shannon",
    "shaw",
    "sifakis",
    "strachey",
    "tarjan",
    "thompson",
    "turing",
    "wirth",
    "zuse",
];

/// A name that `taken` does not know; with a number if the plain ones tried were all taken.
///
/// # Errors
/// As [`new_id`].
pub(super) fn generate(taken: impl Fn(&str) -> bool) -> Result<String> {
    let mut name = String::new();
    for attempt in 0..16_u32 {
        // An ID is 32 random bytes, in hexadecimal.
        let id = new_id()?;
        let number = |from: usize| -> usize {
            id.get(from..from + 4).and_then(|h| usize::from_str_radix(h, 16).ok()).unwrap_or(0)
        };
        name = plain(number(0), number(4));
        if attempt >= 4 {
            name.push_str(&(number(8) % 1000).to_string());
        }
        if !taken(&name) {
            break;
        }
    }
    Ok(name)
}

fn plain(a: usize, b: usize) -> String {
    let pick = |list: &[&'static str], n: usize| list.get(n % list.len().max(1)).copied().unwrap_or_default();
    format!("{}_{}", pick(&ADJECTIVES, a), pick(&SURNAMES, b))
}

/// The name that was given, if one was.
///
/// # Errors
/// As [`check`].
pub(super) fn check_given(name: &str) -> Result<Option<&str>> {
    if name.is_empty() { Ok(None) } else { check(name).map(Some) }
}

/// Checks a name that was given.
///
/// # Errors
/// In Docker's words, if it has other characters than Docker's names have.
fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.len() > 0 && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && bare.len() <= 255 {
        return Ok(bare);
    }
    Err(Error::invalid(format!(
        "Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        name.chars().take(260).collect::<String>()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_free_and_valid() {
        let mut used = BTreeSet::new();
        for _ in 0..200 {
            let name = generate(|n| used.contains(n)).unwrap();
            assert!(name.contains('_') && check(&name).is_ok(), "{name}");
            used.insert(name);
        }
        let numbered = generate(|n| !n.ends_with(|c: char| c.is_ascii_digit())).unwrap();
        assert!(numbered.ends_with(|c: char| c.is_ascii_digit()), "{numbered}");
        let unique = |list: &[&str]| list.iter().collect::<BTreeSet<_>>().len();
        assert_eq!((unique(&ADJECTIVES), unique(&SURNAMES)), (64, 64));
    }

    #[test]
    fn given_names_are_checked() {
        assert_eq!(check("/web-1.a_b").unwrap(), "web-1.a_b");
        for bad in ["", "a", "-ab", "a b", "a/b", "ä1", ".ab"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.starts_with("Invalid container name ("), "{error}");
        }
    }
}
