//! A pull, shown as it goes.

use crate::client::Client;
use crate::credentials;
use crate::error::{Error, Result};
use crate::names;
use crate::output::Output;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use strata_api::debug::layer_progress::State;
use strata_api::debug::pull_progress::Event;
use strata_api::debug::{LayerProgress, PullImageRequest, PullResolved, PullResult};

/// Pulls an image, telling `to` (nobody, if `None`) how it goes.
pub(crate) async fn pull(
    client: &mut Client,
    reference: &str,
    platform: &str,
    to: Option<Output>,
) -> Result<PullResult> {
    let auth = credentials::for_image(reference).await?;
    let request = PullImageRequest { r#ref: reference.to_owned(), platform: platform.to_owned(), auth };
    let mut stream = client.pull_image(request).await?.into_inner();
    let mut view = to.map(|to| View::new(to, reference));
    let mut result = None;
    while let Some(progress) = stream.message().await? {
        match progress.event {
            Some(Event::Resolved(resolved)) => view.iter_mut().try_for_each(|v| v.resolved(&resolved))?,
            Some(Event::Layer(layer)) => view.iter_mut().try_for_each(|v| v.layer(&layer))?,
            Some(Event::Result(r)) => result = Some(r),
            None => {}
        }
    }
    let result =
        result.ok_or_else(|| Error::Broken("stratad ended the pull without saying how it went".into()))?;
    if let Some(view) = view {
        view.done(&result)?;
    }
    Ok(result)
}

struct View {
    out: Output,
    reference: String,
    /// On a terminal, a line per layer that is redrawn.
    bars: Option<MultiProgress>,
    layers: HashMap<String, (State, Option<ProgressBar>)>,
}

impl View {
    fn new(out: Output, reference: &str) -> Self {
        let target = match out {
            Output::Stdout => ProgressDrawTarget::stdout(),
            Output::Stderr => ProgressDrawTarget::stderr(),
        };
        let bars = out.is_terminal().then(|| MultiProgress::with_draw_target(target));
        Self { out, reference: reference.to_owned(), bars, layers: HashMap::new() }
    }

    fn resolved(&mut self, resolved: &PullResolved) -> Result<()> {
        let parts = names::parts(&resolved.name);
        let what = parts.tag.unwrap_or_else(|| names::familiar(&resolved.name));
        self.out.line(format!("{what}: Pulling from {}", names::path(parts.repository)))?;
        resolved.layers.iter().try_for_each(|l| self.layer(l))
    }

    fn layer(&mut self, layer: &LayerProgress) -> Result<()> {
        let state = layer.state();
        let id = names::short_id(&layer.digest);
        let first = !self.layers.contains_key(&layer.digest);
        let (before, bar) = self
            .layers
            .entry(layer.digest.clone())
            .or_insert_with(|| (state, self.bars.as_ref().map(|bars| bars.add(bar(&id)))));
        let changed = first || *before != state;
        *before = state;
        let Some(bar) = bar else {
            return if changed { line(self.out, &id, state) } else { Ok(()) };
        };
        if changed {
            bar.set_style(style(state));
            bar.set_message(words(state));
        }
        bar.set_length(u64::try_from(layer.total).unwrap_or(0));
        bar.set_position(u64::try_from(layer.current).unwrap_or(0));
        if changed && matches!(state, State::Complete | State::Exists) {
            bar.abandon();
        }
        Ok(())
    }

    fn done(self, result: &PullResult) -> Result<()> {
        for (_, bar) in self.layers.into_values() {
            bar.iter().for_each(ProgressBar::abandon);
        }
        let name = names::familiar(&names::with_default_tag(&self.reference)).to_owned();
        let status = if result.up_to_date { "Image is up to date" } else { "Downloaded newer image" };
        self.out.line(format!("Digest: {}", result.digest))?;
        self.out.line(format!("Status: {status} for {name}"))
    }
}

fn line(out: Output, id: &str, state: State) -> Result<()> {
    match state {
        // On a terminal only: a log needs no word for every step.
        State::Downloading => Ok(()),
        State::Extracting => out.line(format!("{id}: Download complete")),
        other => out.line(format!("{id}: {}", words(other))),
    }
}

fn words(state: State) -> &'static str {
    match state {
        State::Waiting => "Pulling fs layer",
        State::Downloading => "Downloading",
        State::Extracting => "Extracting",
        State::Complete => "Pull complete",
        State::Exists => "Already exists",
    }
}

fn bar(id: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_prefix(id.to_owned());
    bar.set_style(style(State::Waiting));
    bar
}

fn style(state: State) -> ProgressStyle {
    let template = match state {
        State::Downloading | State::Extracting => {
            "{prefix}: {msg:<12} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}"
        }
        _ => "{prefix}: {msg}",
    };
    // The templates above are well formed; the default is a bar too.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
