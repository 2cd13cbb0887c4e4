//! This process's own standard streams, moved by threads of their own: a slow reader or a silent terminal stops nothing
//! else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc};

/// How much output waits in memory for a slow reader, in bytes, where its source waits too. Little, or a terminal would
/// go on for long after its user has ended a talkative program.
pub(crate) const LITTLE: usize = 256 << 10;

/// The same where the source cuts off a reader that falls behind.
pub(crate) const MUCH: usize = 64 << 20;

/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// Standard output or standard error.
#[derive(Debug)]
pub(crate) struct Sink {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    room: Arc<Semaphore>,
    size: usize,
    thread: JoinHandle<()>,
}

impl Sink {
    /// This process's standard output.
    pub(crate) fn stdout(size: usize) -> Self {
        Self::start(io::stdout(), size)
    }

    /// This process's standard error.
    pub(crate) fn stderr(size: usize) -> Self {
        Self::start(io::stderr(), size)
    }

    fn start(to: impl AsFd + Send + 'static, size: usize) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
        let room = Arc::new(Semaphore::new(size));
        let freed = Arc::clone(&room);
        let thread = std::thread::spawn(move || {
            while let Some(data) = queued.blocking_recv() {
                if write_all(to.as_fd(), &data).is_err() {
                    // Closing tells the writers.
                    freed.close();
                    return;
                }
                freed.add_permits(data.len().min(size));
            }
        });
        Self { queue, room, size, thread }
    }

    /// Queues output, waiting while too much is queued; `false`: nobody reads it any more.
    pub(crate) async fn write(&self, data: Vec<u8>) -> bool {
        let want = u32::try_from(data.len().min(self.size)).unwrap_or(u32::MAX);
        match self.room.acquire_many(want).await {
            Ok(permits) => {
                permits.forget();
                self.queue.send(data).is_ok()
            }
            Err(_) => false,
        }
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        // A panicked writer has nothing more to write.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

fn write_all(to: BorrowedFd<'_>, mut data: &[u8]) -> rustix::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    while !data.is_empty() {
        match rustix::io::write(to, data) {
            Ok(n) => data = data.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Whoever shares the descriptor made it non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads standard input in a thread; the channel closes at its end.
pub(crate) fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    let (send, receive) = mpsc::channel(4);
    std::thread::spawn(move || {
        let stdin = io::stdin();
        let mut buffer = vec![0; CHUNK];
        loop {
            match rustix::io::read(&stdin, &mut buffer[..]) {
                Ok(0) => return,
                Ok(n) => {
                    let data = buffer.get(..n).unwrap_or_default().to_vec();
                    if send.blocking_send(data).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None);
                }
                Err(_) => return,
            }
        }
    });
    receive
}
