//! From a stream of the async world to a reader on a blocking thread.

use bytes::Bytes;
use std::io::{Error, Read, Result};
use tokio::sync::mpsc;

/// How many chunks, of some 16 KiB each, lie between the two.
const DEPTH: usize = 32;

/// What travels: bytes, or the news that all of them have been sent. Without the latter, the end is a cancellation.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// The async side. Dropping it makes the reader fail at once.
#[derive(Debug)]
pub(super) struct Feed(mpsc::Sender<Piece>);

/// The blocking side.
#[derive(Debug)]
pub(super) struct Reader {
    from: mpsc::Receiver<Piece>,
    chunk: Bytes,
    ended: bool,
}

/// Both sides.
pub(super) fn bridge() -> (Feed, Reader) {
    let (to, from) = mpsc::channel(DEPTH);
    (Feed(to), Reader { from, chunk: Bytes::new(), ended: false })
}

impl Feed {
    /// Hands bytes over; waits while the reader is behind. False once nobody reads any more.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Says that all bytes have been sent.
    pub(super) async fn end(self) {
        // A reader that is gone has failed, and says so itself.
        let _ = self.0.send(Piece::End).await;
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.chunk = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(Error::other("the transfer was given up")),
            }
        }
        let n = out.len().min(self.chunk.len());
        let bytes = self.chunk.split_to(n);
        if let Some(out) = out.get_mut(..n) {
            out.copy_from_slice(&bytes);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_and_the_end_is_told_from_a_cancellation() {
        let (feed, mut reader) = bridge();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for n in 0..100_u8 {
            assert!(feed.send(Bytes::from(vec![n; 3])).await);
        }
        feed.end().await;
        assert_eq!(reading.await.unwrap().unwrap().len(), 300);

        let (feed, mut reader) = bridge();
        let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        assert!(feed.send(Bytes::from_static(b"half")).await);
        drop(feed);
        assert!(reading.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_noticed() {
        let (feed, reader) = bridge();
        drop(reader);
        assert!(!feed.send(Bytes::from_static(b"x")).await);
    }
}
