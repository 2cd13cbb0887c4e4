//! Where tracing goes: standard error, as text or JSON.
//!
//! An event is one line, whatever programs, registries and kernels have said in it: nothing in it can pass for another event, or
//! steer a terminal. A line for the journal begins with its priority (sd-daemon(3)), and each is an entry of its own there.

use crate::config::{Log, LogFormat};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Installs the subscriber. `RUST_LOG` wins over the configuration.
pub(crate) fn init(log: &Log) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = is_journal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let text = format::format().with_ansi(false).with_target(false);
    let installed = match log.format {
        LogFormat::Text if journal => {
            builder.event_format(OneLine { inner: text.without_time(), journal }).try_init()
        }
        LogFormat::Text => builder.event_format(OneLine { inner: text, journal }).try_init(),
        LogFormat::Json => {
            let inner = format::json().flatten_event(true);
            builder.fmt_fields(JsonFields::new()).event_format(OneLine { inner, journal }).try_init()
        }
    };
    if installed.is_err() {
        tracing::debug!("logging was set up before");
    }
    if journal {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            // "panicked at FILE:LINE:COLUMN:" and the message, on lines of their own.
            let what = panic.to_string().replacen(":\n", ": ", 1);
            complain(&format_args!("thread {:?} {what}", thread.name().unwrap_or("without a name")));
            let trace = Backtrace::capture();
            if trace.status() == BacktraceStatus::Captured {
                trace.to_string().lines().for_each(|line| complain(&line));
            }
        }));
    }
}

/// Tells on standard error what stratad ends for.
#[allow(clippy::print_stderr)]
pub(crate) fn complain(what: &dyn fmt::Display) {
    if is_journal() {
        let mut line = String::new();
        // A String takes everything.
        let _ = put_line(&mut line, &format!("stratad: {what}"));
        eprintln!("<{}>{line}", priority(Level::ERROR));
    } else {
        eprintln!("stratad: {what}");
    }
}

/// Whether standard error is the journal's (systemd.exec(5), `$JOURNAL_STREAM`): it knows the time, and takes a priority.
fn is_journal() -> bool {
    let Ok(stderr) = rustix::fs::fstat(std::io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Events of one line each, for the journal with their priority.
struct OneLine<F> {
    inner: F,
    journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.inner.format_event(context, Writer::new(&mut text), event)?;
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        put_line(&mut writer, text.trim_end_matches('\n'))?;
        writer.write_char('\n')
    }
}

/// Writes a text as part of one line: control characters, line feeds among them, as Rust writes them in strings. journalctl(1) shows
/// entries with others than tabs and line feeds as "blob data" only.
fn put_line(to: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for piece in text.split_inclusive(|c: char| c.is_control() && c != '\t') {
        match piece.chars().next_back().filter(|c| c.is_control() && *c != '\t') {
            Some(last) => {
                to.write_str(piece.strip_suffix(last).unwrap_or(piece))?;
                write!(to, "{}", last.escape_default())?;
            }
            None => to.write_str(piece)?,
        }
    }
    Ok(())
}

/// As in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[test]
    fn what_is_worse_weighs_more() {
        let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(all.map(priority), [3, 4, 6, 7, 7]);
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn hostile() {
        let said = "one\ntwo\r\n<0>three \u{1b}[31mred\u{7f}";
        tracing::warn!(error = %said, by = "a\tb", "first\nsecond");
    }

    fn written(journal: bool) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let inner = format::format().with_ansi(false).with_target(false).without_time();
        let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone());
        let subscriber = builder.event_format(OneLine { inner, journal }).finish();
        tracing::subscriber::with_default(subscriber, hostile);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let line = r#" WARN first\nsecond error=one\ntwo\r\n<0>three \u{1b}[31mred\u{7f} by="a\tb""#;
        assert_eq!(written(true), format!("<4>{line}\n"));
        assert_eq!(written(false), format!("{line}\n"));
    }

    #[test]
    fn other_characters_stay_as_they_are() {
        let put = |text: &str| {
            let mut line = String::new();
            put_line(&mut line, text).unwrap();
            line
        };
        assert_eq!(put("a\tb – ü ☃"), "a\tb – ü ☃");
        assert_eq!(put("\n\nx\u{85}y\0"), r"\n\nx\u{85}y\u{0}");
        assert_eq!(put(""), "");
    }
}
