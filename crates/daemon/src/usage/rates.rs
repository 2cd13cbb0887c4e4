//! How fast CPU time is used: the difference between two readings.
//!
//! Nobody reads in the background. A reading is compared with one from before that is old enough to make sense, and the first
//! one with the moment in which there was nothing to count yet. So every answer has a rate, however often and however seldom
//! it is asked for, and by however many.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How old a reading must be, in nanoseconds, before others are compared with it.
const WINDOW: i64 = 5_000_000_000;
/// What is too short to be divided by.
const MOMENT: i64 = 1_000_000;
/// How many that nobody looks after are kept.
const SPARE: usize = 256;

/// How much CPU time had been used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    /// In nanoseconds.
    pub(crate) used: u64,
}

/// The readings of each container and pod.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    /// What is compared with.
    base: Reading,
    /// What will be, once it is old enough.
    next: Reading,
}

impl Rates {
    /// CPU time per time, in nanoseconds per second, of what has existed `since` then (in nanoseconds since 1970).
    pub(crate) fn nano_cores(&self, id: &str, since: i64, now: Reading) -> Option<u64> {
        let mut all = self.lock();
        let first = || Window { base: Reading { at: since, used: 0 }, next: now };
        let window = all.entry(id.to_owned()).or_insert_with(first);
        // Counters begin anew where a container does, and clocks are set.
        if now.used < window.base.used || now.at < window.next.at || window.base.at < since {
            *window = first();
        }
        if now.at.saturating_sub(window.next.at) >= WINDOW {
            *window = Window { base: window.next, next: now };
        }
        let time = now.at.saturating_sub(window.base.at);
        let used = now.used.saturating_sub(window.base.used);
        let time = u128::try_from(time).ok().filter(|_| time >= MOMENT)?;
        u64::try_from(u128::from(used) * 1_000_000_000 / time).ok()
    }

    /// Keeps only what is wanted, once there is much that may not be.
    pub(crate) fn keep(&self, wanted: impl Fn(&str) -> bool) {
        let mut all = self.lock();
        if all.len() > SPARE {
            all.retain(|id, _| wanted(id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(seconds: i64, used_ms: u64) -> Reading {
        Reading { at: seconds * SECOND, used: used_ms * 1_000_000 }
    }

    #[test]
    fn the_first_rate_is_since_the_start() {
        let rates = Rates::default();
        assert_eq!(rates.nano_cores("a", 100 * SECOND, at(110, 5000)), Some(500_000_000));
        assert_eq!(rates.nano_cores("b", 100 * SECOND, at(100, 0)), None);
    }

    #[test]
    fn later_ones_are_since_a_reading_that_is_old_enough() {
        let rates = Rates::default();
        rates.nano_cores("a", 0, at(100, 1000));
        // Asked twice in a second, nobody gets the rate of a moment.
        assert_eq!(rates.nano_cores("a", 0, at(101, 1010)), Some(10_000_000));
        assert_eq!(rates.nano_cores("a", 0, at(110, 3000)), Some(200_000_000));
        assert_eq!(rates.nano_cores("a", 0, at(111, 4000)), Some(3_000_000_000 / 11));
        assert_eq!(rates.nano_cores("a", 0, at(120, 4000)), Some(100_000_000));
        assert_eq!(rates.nano_cores("a", 0, at(130, 4000)), Some(0));
    }

    #[test]
    fn counters_that_begin_anew_and_clocks_that_are_set_back_do_no_harm() {
        let rates = Rates::default();
        rates.nano_cores("a", 0, at(100, 90_000));
        rates.nano_cores("a", 0, at(110, 95_000));
        // Started again at 120.
        assert_eq!(rates.nano_cores("a", 120 * SECOND, at(121, 100)), Some(100_000_000));
        assert_eq!(rates.nano_cores("a", 120 * SECOND, at(119, 200)), None);
    }

    #[test]
    fn what_is_gone_is_let_go() {
        let rates = Rates::default();
        for n in 0..=SPARE {
            rates.nano_cores(&n.to_string(), 0, at(1, 0));
        }
        rates.keep(|id| id == "7");
        assert_eq!(rates.lock().keys().collect::<Vec<_>>(), ["7"]);
    }
}
