//! Layers on their way: a bar for each on a terminal, a line for each step elsewhere.

use crate::error::Result;
use crate::names;
use crate::output::Output;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;

/// How a layer shows, with the word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing happens to it yet.
    Waiting(&'static str),
    /// On its way: with a bar.
    Moving(&'static str),
    /// There.
    Done(&'static str),
}

/// Several layers, by digest.
#[derive(Debug)]
pub(crate) struct Bars {
    out: Output,
    /// On a terminal, a line per layer that is redrawn.
    multi: Option<MultiProgress>,
    layers: HashMap<String, (Look, Option<ProgressBar>)>,
}

impl Bars {
    /// None yet.
    pub(crate) fn new(out: Output) -> Self {
        let target = match out {
            Output::Stdout => ProgressDrawTarget::stdout(),
            Output::Stderr => ProgressDrawTarget::stderr(),
        };
        let multi = out.is_terminal().then(|| MultiProgress::with_draw_target(target));
        Self { out, multi, layers: HashMap::new() }
    }

    /// How far a layer is; where there is no terminal, a line if its look is another than before.
    pub(crate) fn layer(&mut self, digest: &str, look: Look, current: i64, total: i64) -> Result<()> {
        let changed = self.quiet(digest, look, current, total);
        match look {
            // A log needs no word for every step.
            Look::Waiting(word) | Look::Done(word) if changed && self.multi.is_none() => {
                self.out.line(format!("{}: {word}", names::short_id(digest)))
            }
            _ => Ok(()),
        }
    }

    /// The same without lines; whether its look is another than before.
    pub(crate) fn quiet(&mut self, digest: &str, look: Look, current: i64, total: i64) -> bool {
        let first = !self.layers.contains_key(digest);
        let id = names::short_id(digest);
        let multi = self.multi.as_ref();
        let (before, bar) = self
            .layers
            .entry(digest.to_owned())
            .or_insert_with(|| (look, multi.map(|m| m.add(ProgressBar::new(0).with_prefix(id.to_string())))));
        let changed = first || *before != look;
        *before = look;
        let Some(bar) = bar else { return changed };
        let (word, template) = match look {
            Look::Moving(word) => {
                (word, "{prefix}: {msg:<12} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}")
            }
            Look::Waiting(word) | Look::Done(word) => (word, "{prefix}: {msg}"),
        };
        if changed {
            // The templates above are well formed; the default is a bar too.
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(word);
        }
        bar.set_length(u64::try_from(total).unwrap_or(0));
        bar.set_position(u64::try_from(current).unwrap_or(0));
        if changed && matches!(look, Look::Done(_)) {
            bar.abandon();
        }
        changed
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for (_, bar) in self.layers.values() {
            bar.iter().for_each(ProgressBar::abandon);
        }
    }
}
