//! From a stream of the async world to a reader on a blocking thread.

use bytes::Bytes;
use std::io::{Error, Read, Result};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How many chunks lie between the two.
const DEPTH: usize = 64;
/// How many bytes: a fast network makes chunks of some hundred KiB.
const BYTES: u32 = 1 << 20;

/// What travels: bytes, or the news that all of them have been sent. Without the latter, the end is a cancellation.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes, OwnedSemaphorePermit),
    End,
}

/// The async side. Dropping it makes the reader fail at once.
#[derive(Debug)]
pub(super) struct Feed {
    to: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
}

/// The blocking side.
#[derive(Debug)]
pub(super) struct Reader {
    from: mpsc::Receiver<Piece>,
    chunk: Bytes,
    /// The room that the chunk takes.
    taken: Option<OwnedSemaphorePermit>,
    ended: bool,
}

/// Both sides.
pub(super) fn bridge() -> (Feed, Reader) {
    let (to, from) = mpsc::channel(DEPTH);
    let room = Arc::new(Semaphore::new(BYTES as usize));
    (Feed { to, room }, Reader { from, chunk: Bytes::new(), taken: None, ended: false })
}

impl Feed {
    /// Hands bytes over; waits while the reader is behind. False once nobody reads any more.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        let most = u32::try_from(bytes.len()).map_or(BYTES, |n| n.min(BYTES));
        // A reader that goes away gives its room back, and is noticed below.
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(most).await else { return false };
        self.to.send(Piece::Bytes(bytes, room)).await.is_ok()
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.to.closed().await;
    }

    /// Says that all bytes have been sent.
    pub(super) async fn end(self) {
        // A reader that is gone has failed, and says so itself.
        let _ = self.to.send(Piece::End).await;
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            self.taken = None;
            match self.from.blocking_recv() {
                Some(Piece::Bytes(bytes, room)) => (self.chunk, self.taken) = (bytes, Some(room)),
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

    async fn waits(sending: impl Future<Output = bool>) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), sending).await.is_err()
    }

    #[tokio::test]
    async fn a_reader_that_is_behind_is_waited_for() {
        let (feed, mut reader) = bridge();
        let half = Bytes::from(vec![7; BYTES as usize / 2]);
        assert!(feed.send(half.clone()).await && feed.send(half.clone()).await);
        let late = feed.send(half.clone());
        tokio::pin!(late);
        assert!(waits(&mut late).await);
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; BYTES as usize / 2 + 1];
            reader.read_exact(&mut bytes).map(|()| reader)
        });
        let reader = reading.await.unwrap().unwrap();
        assert!(late.await);
        let last = feed.send(half);
        tokio::pin!(last);
        assert!(waits(&mut last).await);
        drop(reader);
        assert!(!last.await);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_noticed() {
        let (feed, reader) = bridge();
        drop(reader);
        assert!(!feed.send(Bytes::from_static(b"x")).await);
    }
}
