//! What both programs say alike.

use crate::debug::{FsckProblem, FsckSummary};
use std::fmt;

impl fmt::Display for FsckProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.what, self.id)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if !self.images.is_empty() {
            write!(f, " (needed by {})", self.images.join(", "))?;
        }
        write!(f, "; {}{}", if self.repaired { "repaired: " } else { "" }, self.action)
    }
}

impl FsckSummary {
    /// Whether nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.problems == self.repaired
    }
}

impl fmt::Display for FsckSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        write!(
            f,
            "checked {}, {}, {}, {}, {} of content: ",
            count(self.images, "image"),
            count(self.layers, "layer"),
            count(self.blobs, "blob"),
            count(self.files, "file"),
            count(self.bytes, "byte"),
        )?;
        let left = self.problems.saturating_sub(self.repaired);
        match (self.problems, left) {
            (0, _) => f.write_str("no problems"),
            (n, 0) => write!(f, "{}, all repaired", count(n, "problem")),
            (n, left) => write!(f, "{}, {} repaired, {left} left", count(n, "problem"), self.repaired),
        }
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_where_and_what_was_done() {
        let problem = FsckProblem {
            what: "layer".into(),
            id: "sha256:ab".into(),
            path: "etc/motd".into(),
            problem: "it is missing".into(),
            repaired: true,
            action: "unpacked again".into(),
            images: vec!["a:1".into(), "b:2".into()],
        };
        let text = "layer sha256:ab: etc/motd: it is missing (needed by a:1, b:2); repaired: unpacked again";
        assert_eq!(problem.to_string(), text);
    }

    #[test]
    fn a_summary_counts() {
        let mut summary = FsckSummary {
            images: 1,
            layers: 2,
            files: 3,
            problems: 2,
            repaired: 1,
            ..FsckSummary::default()
        };
        let text =
            "checked 1 image, 2 layers, 0 blobs, 3 files, 0 bytes of content: 2 problems, 1 repaired, 1 left";
        assert_eq!((summary.to_string().as_str(), summary.is_clean()), (text, false));
        summary.repaired = 2;
        assert!(summary.to_string().ends_with("2 problems, all repaired") && summary.is_clean());
    }
}
