//! `strata load`

use super::Context;
use crate::bars::{Bars, Look};
use crate::error::{Error, Result};
use crate::output::Output;
use crate::terminal;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use strata_api::debug::layer_progress::State;
use strata_api::debug::load_progress::Event;
use strata_api::debug::{ArchiveChunk, LayerProgress, LoadResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How many bytes of the archive travel at a time.
const CHUNK: usize = 256 << 10;
/// How many chunks lie between the archive and stratad.
const DEPTH: usize = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let source: Box<dyn Read + Send> = match &args.input {
        Some(path) => Box::new(File::open(path).map_err(|e| Error::io(path.display().to_string(), e))?),
        None if terminal::stdin_is_terminal() => {
            return Err(Error::local(
                "requested load from stdin, but stdin is a terminal: use -i or redirect",
            ));
        }
        None => Box::new(io::stdin()),
    };
    let mut client = context.client().await?;
    let (to, chunks) = mpsc::channel(DEPTH);
    let reading = tokio::task::spawn_blocking(move || read(source, to));
    let loading = async {
        let mut stream = client.load_images(ReceiverStream::new(chunks)).await?.into_inner();
        let mut bars = (!args.quiet).then(|| Bars::new(Output::Stderr));
        while let Some(progress) = stream.message().await? {
            match progress.event {
                Some(Event::Layer(layer)) => bars.iter_mut().try_for_each(|b| show(b, &layer))?,
                Some(Event::Image(image)) => {
                    bars = None;
                    say(&image)?;
                }
                None => {}
            }
        }
        Ok(0)
    };
    tokio::pin!(loading);
    // Once all has been read there is only the answer to wait for. A failure to read drops the call: what stratad has got
    // must not look like all there is.
    tokio::select! {
        done = &mut loading => return done,
        read = reading => {
            let (_still_open, read) = read.map_err(|e| Error::local(format!("reading the archive: {e}")))?;
            read.map_err(|e| {
                let name = args.input.as_ref().map_or_else(|| "standard input".into(), |p| p.display().to_string());
                Error::io(name, e)
            })?;
        }
    }
    loading.await
}

type Chunks = mpsc::Sender<ArchiveChunk>;

/// Reads to the end, or until nobody wants more. The sender comes back, so that the end can be told from a failure.
fn read(mut source: Box<dyn Read + Send>, to: Chunks) -> (Option<Chunks>, io::Result<()>) {
    loop {
        let mut data = vec![0; CHUNK];
        match source.read(&mut data) {
            Ok(0) => return (None, Ok(())),
            Ok(n) => data.truncate(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return (Some(to), Err(e)),
        }
        if to.blocking_send(ArchiveChunk { data }).is_err() {
            return (None, Ok(()));
        }
    }
}

/// Layers show on a terminal only, as with Docker: who reads the output wants the names.
fn show(bars: &mut Bars, layer: &LayerProgress) -> Result<()> {
    let look = match layer.state() {
        State::Exists => return Ok(()),
        State::Complete => Look::Done("Loaded"),
        State::Waiting | State::Downloading | State::Extracting => Look::Moving("Loading layer"),
    };
    bars.quiet(&layer.digest, look, layer.current, layer.total);
    Ok(())
}

fn say(image: &LoadResult) -> Result<()> {
    if image.names.is_empty() {
        return Output::Stdout.line(format!("Loaded image ID: {}", image.image_id));
    }
    image.names.iter().try_for_each(|name| Output::Stdout.line(format!("Loaded image: {name}")))
}
