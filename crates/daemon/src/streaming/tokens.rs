//! One-time tokens: the only right to a session, and what it is a right to.

use super::Ticket;
use crate::error::{Error, Kind, Result};
use crate::ids::new_id;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a token waits for its client.
pub(super) const VALID: Duration = Duration::from_secs(60);

/// How many tokens may wait at once.
const MAX_WAITING: usize = 1000;

/// What all that wait may take up, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// What one may take up: more than execve(2) takes as arguments, three quarters of 8 MiB.
const MAX_TICKET: usize = 6 << 20;

/// Tokens that wait for their client.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (Instant, Ticket)>>);

/// What a ticket takes up, in bytes: an argument costs more than its text.
fn size(ticket: &Ticket) -> usize {
    match ticket {
        Ticket::Exec { command, .. } => command.iter().map(|a| a.len() + size_of::<String>()).sum(),
        Ticket::Attach { .. } => 0,
        Ticket::Forward { ports, .. } => size_of_val(ports.as_slice()),
    }
}

impl Tokens {
    /// A new token: 256 bits of the kernel's randomness, in hex.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] if too many wait, [`Kind::InvalidArgument`] for a command that is too long to be run.
    pub(super) fn issue(&self, ticket: Ticket, now: Instant) -> Result<String> {
        let bytes = size(&ticket);
        if bytes > MAX_TICKET {
            let text = format!("the command takes up {bytes} bytes: the kernel takes at most {MAX_TICKET}");
            return Err(Error::invalid(text));
        }
        let token = new_id()?;
        let mut waiting = self.lock();
        waiting.retain(|_, (issued, _)| now.duration_since(*issued) < VALID);
        let held: usize = waiting.values().map(|(_, ticket)| size(ticket)).sum();
        if waiting.len() >= MAX_WAITING || held + bytes > MAX_BYTES {
            let (count, limit) = (waiting.len(), MAX_WAITING);
            let text = format!(
                "{count} streaming sessions wait for their clients, with {held} bytes of commands (at most {limit}, with \
                 {MAX_BYTES}); connect to their URLs, or try again in a minute"
            );
            return Err(Error::new(Kind::ResourceExhausted, text));
        }
        waiting.insert(token.clone(), (now, ticket));
        Ok(token)
    }

    /// What a token is for, once.
    pub(super) fn take(&self, token: &str, now: Instant) -> Option<Ticket> {
        let (issued, ticket) = self.lock().remove(token)?;
        (now.duration_since(issued) < VALID).then_some(ticket)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Ticket)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(pod: &str) -> Ticket {
        Ticket::Forward { pod: pod.into(), ports: Vec::new() }
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        let [a, b, c] = ["a", "b", "c"].map(|pod| tokens.issue(ticket(pod), start).unwrap());
        assert!(a.len() == 64 && a != b);
        assert_eq!(tokens.take(&a, start), Some(ticket("a")));
        assert_eq!(tokens.take(&a, start), None);
        assert_eq!(tokens.take(&b, start + VALID - Duration::from_millis(1)), Some(ticket("b")));
        assert_eq!(tokens.take(&c, start + VALID), None);
        assert_eq!(tokens.take("", start), None);
    }

    #[test]
    fn tokens_that_nobody_takes_make_room() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        for _ in 0..MAX_WAITING {
            tokens.issue(ticket("a"), start).unwrap();
        }
        assert_eq!(tokens.issue(ticket("a"), start).unwrap_err().kind(), Kind::ResourceExhausted);
        tokens.issue(ticket("a"), start + VALID).unwrap();
        assert_eq!(tokens.lock().len(), 1);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let (tokens, start) = (Tokens::default(), Instant::now());
        let exec = |command: Vec<String>| Ticket::Exec {
            container: "c".into(),
            command,
            wanted: crate::streaming::Wanted::default(),
        };
        let kind = |ticket, now| tokens.issue(ticket, now).map(drop).map_err(|e| e.kind());
        assert_eq!(kind(exec(vec!["x".repeat(7 << 20)]), start), Err(Kind::InvalidArgument));
        // Many that have no text take up as much.
        assert_eq!(kind(exec(vec![String::new(); 1 << 20]), start), Err(Kind::InvalidArgument));
        for _ in 0..3 {
            tokens.issue(exec(vec!["x".repeat(5 << 20)]), start).unwrap();
        }
        assert_eq!(kind(exec(vec!["x".repeat(5 << 20)]), start), Err(Kind::ResourceExhausted));
        assert_eq!(kind(exec(vec!["true".into()]), start), Ok(()));
        assert_eq!(kind(exec(vec!["x".repeat(5 << 20)]), start + VALID), Ok(()));
    }
}
