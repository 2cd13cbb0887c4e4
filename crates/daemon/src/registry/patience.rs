//! How long registries are waited for.

use crate::config;
use http::header::{HeaderMap, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// The longest that a server may ask to wait: one that wants more is busy for longer than a pull can hang.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// Times and counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// For a connection.
    pub(super) connect: Duration,
    /// For the next byte, or an answer's head.
    pub(super) stall: Duration,
    /// Before the second try; doubled before each further one.
    pub(super) first_pause: Duration,
    /// The longest of these pauses.
    pub(super) longest_pause: Duration,
    /// The longest that a server may ask to wait; if it wants more, the pull fails instead.
    pub(super) longest_wish: Duration,
    /// How often something is tried.
    pub(super) tries: u32,
}

impl Timing {
    /// What the configuration says.
    pub(super) fn of(config: &config::Registry) -> Self {
        let first_pause = config.retry_pause.0;
        Self {
            connect: config.connect_timeout.0,
            stall: config.stall_timeout.0,
            first_pause,
            longest_pause: first_pause.saturating_mul(32),
            longest_wish: LONGEST_WISH,
            tries: config.tries,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::of(&config::Registry::default())
    }
}

/// The pauses between tries of one thing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    timing: Timing,
    failures: u32,
    hurried: bool,
}

impl Pauses {
    /// Before the first try.
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, failures: 0, hurried: false }
    }

    /// There is little hope: one more try, soon, is enough.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
        self.failures = self.failures.max(self.timing.tries.saturating_sub(2));
    }

    /// Waits after a failure, at least as long as the server asked for; `false` if it should not be tried again.
    pub(super) async fn wait(&mut self, wish: Option<Duration>) -> bool {
        self.failures += 1;
        if self.failures >= self.timing.tries || wish.is_some_and(|w| w > self.timing.longest_wish) {
            return false;
        }
        let doublings = if self.hurried { 0 } else { (self.failures - 1).min(16) };
        let doubled = self.timing.first_pause.saturating_mul(1 << doublings).min(self.timing.longest_pause);
        tokio::time::sleep(jittered(doubled).max(wish.unwrap_or_default())).await;
        true
    }
}

/// Between half of a pause and all of it: those who were turned away together shall not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// What a server asks to wait: seconds, or a date (RFC 9110, "Retry-After").
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
    SystemTime::from(at).duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn wishes() {
        assert_eq!(wish("7"), Some(Duration::from_secs(7)));
        assert!(wish("Fri, 31 Dec 2199 23:59:59 GMT").unwrap() > Duration::from_secs(3600));
        assert_eq!(wish("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert_eq!(wish("soon"), None);
    }

    #[test]
    fn pauses_are_spread() {
        let all: Vec<_> = (0..50).map(|_| jittered(Duration::from_secs(8))).collect();
        assert!(all.iter().all(|p| (Duration::from_secs(4)..=Duration::from_secs(8)).contains(p)));
        assert!(all.iter().any(|p| p != &all[0]));
    }

    #[tokio::test]
    async fn pauses_end() {
        let timing = Timing { first_pause: Duration::ZERO, ..Timing::default() };
        let mut pauses = Pauses::new(timing);
        let mut tries = 1;
        while pauses.wait(None).await {
            tries += 1;
        }
        assert_eq!(tries, timing.tries);
        assert!(!Pauses::new(timing).wait(Some(Duration::from_secs(3600))).await);
        let mut hurried = Pauses::new(timing);
        hurried.hurry();
        assert!(hurried.wait(None).await);
        hurried.hurry();
        assert!(!hurried.wait(None).await);
    }
}
