//! `strata logs`

use super::Context;
use crate::client::Client;
use crate::crilog::{self, Line, Log};
use crate::error::{Error, Result};
use crate::foreground::exit_code;
use crate::output::Output;
use crate::when;
use jiff::Timestamp;
use std::path::Path;
use std::time::Duration;
use strata_api::debug::{ContainerLogRequest, ContainerLogResponse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Show times
    #[arg(short, long)]
    timestamps: bool,
    /// Lines from the end, or all
    #[arg(short = 'n', long, default_value = "all", value_name = "N", allow_hyphen_values = true)]
    tail: String,
    /// Lines since a time (2026-11-21T10:00:00Z) or a duration ago (42m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Lines before a time or a duration ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container
    container: String,
}

/// How often a followed file is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// How much is written at once.
const BATCH: usize = 64 << 10;

/// Which lines are shown, and how.
#[derive(Debug, Default)]
struct Show {
    timestamps: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Whether a line of standard output or of standard error has begun and not ended.
    begun: [bool; 2],
    batch: Vec<u8>,
    batch_is_stderr: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let now = Timestamp::now();
    let time =
        |t: &Option<String>| t.as_deref().map(|t| when::parse(t, now)).transpose().map_err(Error::Local);
    let show = Show {
        timestamps: args.timestamps,
        since: time(&args.since)?,
        until: time(&args.until)?,
        ..Show::default()
    };
    let mut client = context.client().await?;
    let answer = locate(&mut client, &args.container).await?;
    let mut log = Log::open(Path::new(&answer.path))?;
    // Docker takes a number that is none for all.
    if let Ok(count) = args.tail.parse() {
        log.seek_to_last(count)?;
    }
    if args.follow && answer.running {
        follow(&mut client, &answer.container_id, log, show).await?;
    } else {
        let mut show = show;
        log.lines(|line| show.line(line))?;
        show.flush()?;
    }
    Ok(0)
}

async fn locate(client: &mut Client, container: &str) -> Result<ContainerLogResponse> {
    let request = ContainerLogRequest { r#ref: container.to_owned() };
    let answer = client.container_log(request).await?.into_inner();
    if answer.path.is_empty() {
        return Err(Error::local(format!("container {container} has no log file")));
    }
    Ok(answer)
}

/// Shows what is written until the container has ended, over rotations.
async fn follow(client: &mut Client, container: &str, mut log: Log, mut show: Show) -> Result<()> {
    let end = exit_code(client, container);
    tokio::pin!(end);
    let mut ended = false;
    loop {
        if !log.lines(|line| show.line(line))? {
            break;
        }
        show.flush()?;
        if let Some(next) = log.successor()? {
            // What was written between the last look and the rotation is in the old file.
            if !log.lines(|line| show.line(line))? {
                break;
            }
            log = next;
            continue;
        }
        if ended {
            break;
        }
        // A failure to wait ends the following: nothing else would say when the container has ended.
        ended = tokio::select! {
            code = &mut end => code.map(|_| true)?,
            () = tokio::time::sleep(PERIOD) => false,
        };
    }
    show.flush()
}

impl Show {
    /// Takes a line; `false`: no later one will be shown.
    fn line(&mut self, line: &Line<'_>) -> Result<bool> {
        if self.since.is_some() || self.until.is_some() {
            let time = crilog::time(line);
            if self.until.is_some_and(|until| time.is_some_and(|t| t > until)) {
                return Ok(false);
            }
            if self.since.is_some_and(|since| time.is_some_and(|t| t < since)) {
                return Ok(true);
            }
        }
        if self.batch_is_stderr != line.stderr || self.batch.len() > BATCH {
            self.flush()?;
            self.batch_is_stderr = line.stderr;
        }
        let [out, err] = &mut self.begun;
        let begun = if line.stderr { err } else { out };
        if self.timestamps && !*begun {
            self.batch.extend_from_slice(line.time.as_bytes());
            self.batch.push(b' ');
        }
        self.batch.extend_from_slice(line.content);
        if line.full {
            self.batch.push(b'\n');
        }
        *begun = !line.full;
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let to = if self.batch_is_stderr { Output::Stderr } else { Output::Stdout };
        let written = to.bytes(&self.batch);
        self.batch.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(time: &'a str, full: bool, content: &'a [u8]) -> Line<'a> {
        Line { time, stderr: false, full, content }
    }

    #[test]
    fn parts_make_one_line_with_one_time() {
        let mut show = Show { timestamps: true, ..Show::default() };
        let (early, late) = ("2026-11-21T10:00:00Z", "2026-11-21T10:00:01Z");
        show.line(&line(early, false, b"one ")).unwrap();
        show.line(&line(late, true, b"line")).unwrap();
        show.line(&line(late, true, b"")).unwrap();
        assert_eq!(show.batch, b"2026-11-21T10:00:00Z one line\n2026-11-21T10:00:01Z \n");
    }

    #[test]
    fn times_choose_lines() {
        let at = |s: &str| Some(s.parse().unwrap());
        let mut show =
            Show { since: at("2026-11-21T10:00:00Z"), until: at("2026-11-21T11:00:00Z"), ..Show::default() };
        assert!(show.line(&line("2026-11-21T09:59:59Z", true, b"before")).unwrap());
        assert!(show.line(&line("2026-11-21T10:30:00.5Z", true, b"within")).unwrap());
        assert!(!show.line(&line("2026-11-21T11:00:00.1Z", true, b"after")).unwrap());
        assert_eq!(show.batch, b"within\n");
    }
}
