//! The list of specs that do not run, and why.

use crate::Result;
use std::collections::BTreeSet;

/// The list, as this was built with it.
pub const LIST: &str = include_str!("../../cri-tools/skips.txt");

/// Whether a listed spec is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is never run.
    Exclude,
    /// It is run, and skips itself where something is lacking.
    Lacking,
}

/// A line of the list with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Whether it is run.
    pub how: How,
    /// The spec's full name; one that ends in `*` stands for all that begin so.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Skip {
    /// Whether this speaks of a spec.
    pub fn matches(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.name,
        }
    }
}

/// Reads a list.
///
/// # Errors
/// A line that is neither, or an entry without a reason.
pub fn parse(text: &str) -> Result<Vec<Skip>> {
    let mut all: Vec<Skip> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            let last = all.last_mut().ok_or_else(|| format!("skips.txt: a reason without a spec: {line}"))?;
            let gap = if last.reason.is_empty() { "" } else { " " };
            last.reason = format!("{}{gap}{}", last.reason, line.trim());
            continue;
        }
        let how = match line.split_once(' ') {
            Some(("exclude", name)) => (How::Exclude, name),
            Some(("lacking", name)) => (How::Lacking, name),
            _ => return Err(format!("skips.txt: neither exclude nor lacking: {line}").into()),
        };
        all.push(Skip { how: how.0, name: how.1.trim().into(), reason: String::new() });
    }
    match all.iter().find(|skip| skip.reason.is_empty()) {
        Some(skip) => Err(format!("skips.txt: no reason for {}", skip.name).into()),
        None => Ok(all),
    }
}

/// What the list lacks, given specs' names and whether they were skipped.
pub fn unlisted(list: &[Skip], specs: &[(String, bool)]) -> Vec<String> {
    specs
        .iter()
        .filter(|(name, skipped)| *skipped && !list.iter().any(|skip| skip.matches(name)))
        .map(|(name, _)| format!("skipped, but not listed in e2e/cri-tools/skips.txt: {name}"))
        .collect()
}

/// What the list has too much, given every spec.
pub fn stale(list: &[Skip], specs: &[(String, bool)]) -> Vec<String> {
    list.iter()
        .filter(|skip| !specs.iter().any(|(name, _)| skip.matches(name)))
        .map(|skip| {
            format!("listed in e2e/cri-tools/skips.txt, but the suite has no such spec: {}", skip.name)
        })
        .collect()
}

/// The reasons of what was skipped, a line for each spec.
pub fn reasons(list: &[Skip], skipped: &BTreeSet<String>) -> Vec<String> {
    skipped
        .iter()
        .filter_map(|name| list.iter().find(|skip| skip.matches(name)))
        .map(|skip| skip.reason.clone())
        .collect()
}

/// The names that are never run, as regular expressions of Go's. ginkgo puts the suite's own name before them.
pub fn excluded(list: &[Skip]) -> Vec<String> {
    list.iter()
        .filter(|skip| skip.how == How::Exclude)
        .map(|skip| match skip.name.strip_suffix('*') {
            Some(beginning) => quote(beginning),
            None => format!("{}$", quote(&skip.name)),
        })
        .collect()
}

/// A text as a regular expression that matches it.
fn quote(text: &str) -> String {
    text.chars().fold(String::new(), |mut quoted, c| {
        if c.is_ascii_punctuation() {
            quoted.push('\\');
        }
        quoted.push(c);
        quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_tree_is_well_formed() {
        assert!(!parse(LIST).unwrap().is_empty());
    }

    #[test]
    fn entries_have_a_reason_of_one_or_more_lines() {
        let list =
            parse("# why\nexclude a [b]\n\tfor one\n  and another\n\nlacking c *\n\treason\n").unwrap();
        assert_eq!(
            list[0],
            Skip { how: How::Exclude, name: "a [b]".into(), reason: "for one and another".into() }
        );
        assert_eq!(excluded(&list), ["a \\[b\\]$"]);
        assert!(list[1].matches("c d") && !list[1].matches("cd"));
        for broken in ["exclude a\n", "\treason\n", "sometimes a\n\treason\n"] {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn an_unlisted_skip_and_a_stale_entry_are_told() {
        let list = parse("lacking a *\n\twhy\nexclude gone\n\twhy\n").unwrap();
        let specs = [("a b".to_owned(), true), ("a c".to_owned(), false), ("d".to_owned(), true)];
        let (unlisted, stale) = (unlisted(&list, &specs).join("\n"), stale(&list, &specs).join("\n"));
        assert!(unlisted.ends_with(": d") && !unlisted.contains("a b"), "{unlisted}");
        assert!(stale.ends_with(": gone") && !stale.contains("a *"), "{stale}");
    }
}
