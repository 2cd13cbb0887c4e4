//! Decompressing what images and archives are compressed with, in bounded memory.
//!
//! gzip needs 32 KiB. A frame of zstd needs the window that its header asks for (RFC 8878, section 3.1.1.1.2), up to
//! `limits.zstd_window_log`; so that many layers at once do not take that many times, there is a budget for all of them
//! ([`Windows`]). A frame waits for its window before it begins, with nothing in its hands that another one could wait for.

use crate::error::Error;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use strata_oci::Compression;
use zstd::stream::raw::{DParameter, Decoder, Operation};

/// Bytes of all windows together. A wider one is opened when there is no other.
const ALL: u64 = 96 << 20;
/// How often one that waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(50);
/// `ZSTD_WINDOWLOG_MAX_64`: the widest window that there is, as the logarithm of bytes.
pub(crate) const WINDOW_LOG_MAX: u32 = 31;

/// Makes a reader of what `source` is when it is decompressed, with windows up to 2^`window_log` bytes. If `stop` comes to be
/// set while it waits for one, it ends as if the source did.
///
/// The reader's errors become [`Invalid`](crate::Kind::Invalid), or [`Limit`](crate::Kind::Limit) for a wider window.
pub(crate) fn inflate<'a>(
    compression: Compression,
    source: impl BufRead + 'a,
    windows: &'a Windows,
    window_log: u32,
    stop: Option<&'a AtomicBool>,
) -> Box<dyn Read + 'a> {
    match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(Zstd {
            source: Peeked { head: Vec::new(), at: 0, source },
            windows,
            window_log,
            stop,
            open: None,
            in_frame: false,
        }),
    }
}

/// The memory that decoders of zstd may take for their windows, all together.
#[derive(Debug)]
pub(crate) struct Windows {
    budget: Mutex<Budget>,
    changed: Condvar,
}

#[derive(Debug)]
struct Budget {
    free: u64,
    /// Those that wait, in the order in which they came: so the wide ones have their turn.
    waiting: VecDeque<u64>,
    next: u64,
}

/// A part of the budget, given back when it is dropped.
struct Window<'a> {
    windows: &'a Windows,
    bytes: u64,
}

impl Default for Windows {
    fn default() -> Self {
        let budget = Budget { free: ALL, waiting: VecDeque::new(), next: 0 };
        Self { budget: Mutex::new(budget), changed: Condvar::new() }
    }
}

impl Windows {
    /// Waits for so many bytes, or all that there are; `None` if it should stop.
    fn open(&self, bytes: u64, stop: Option<&AtomicBool>) -> Option<Window<'_>> {
        let bytes = bytes.min(ALL);
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let own = budget.next;
        budget.next += 1;
        budget.waiting.push_back(own);
        let stopped = loop {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                break true;
            }
            if budget.waiting.front() == Some(&own) && budget.free >= bytes {
                budget.free -= bytes;
                break false;
            }
            let waited = self.changed.wait_timeout(budget, LOOK);
            budget = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        budget.waiting.retain(|ticket| *ticket != own);
        self.changed.notify_all();
        (!stopped).then(|| Window { windows: self, bytes })
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.windows.budget.lock().unwrap_or_else(PoisonError::into_inner).free += self.bytes;
        self.windows.changed.notify_all();
    }
}

/// Frames of zstd, one after the other.
struct Zstd<'a, R> {
    source: Peeked<R>,
    windows: &'a Windows,
    window_log: u32,
    stop: Option<&'a AtomicBool>,
    /// The decoder and what it has of the budget: dropped in this order, memory first.
    open: Option<(Decoder<'static>, Window<'a>)>,
    in_frame: bool,
}

impl<R: BufRead> Zstd<'_, R> {
    /// Makes ready for the next frame; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        let head = self.source.peek(HEADER_MAX)?;
        if head.is_empty() {
            return Ok(false);
        }
        let window = window_of(head);
        if window > 1 << self.window_log {
            let (most, log) = (1_u64 << self.window_log, self.window_log);
            return Err(Error::limit(format!(
                "a zstd frame needs a window of {window} bytes in memory; limits.zstd_window_log allows {log}, which is {most}"
            ))
            .into());
        }
        match &mut self.open {
            Some((decoder, open)) if window.min(ALL) <= open.bytes => decoder.reinit()?,
            open => {
                *open = None;
                let Some(window) = self.windows.open(window, self.stop) else { return Ok(false) };
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(self.window_log))?;
                *open = Some((decoder, window));
            }
        }
        self.in_frame = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Zstd<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            let Some((decoder, _)) = &mut self.open else { return Ok(0) };
            let data = self.source.fill_buf()?;
            let ended = data.is_empty();
            let status = decoder.run_on_buffers(data, out)?;
            self.source.consume(status.bytes_read);
            self.in_frame = status.remaining > 0;
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if ended && self.in_frame {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete zstd frame"));
            }
        }
    }
}

/// The longest header of a frame, its magic number included (RFC 8878, section 3.1.1.1).
const HEADER_MAX: usize = 18;
/// The first bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many bytes of memory a frame asks for with its header; 0 if it is none, or cut off, of which the decoder says more.
fn window_of(head: &[u8]) -> u64 {
    let Some([descriptor, rest @ ..]) = head.strip_prefix(&MAGIC) else { return 0 };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(window) = rest.first() else { return 0 };
        let base = 1_u64 << (10 + (window >> 3));
        return base + (base / 8) * u64::from(window & 7);
    }
    // The window is the content, whose size comes after the dictionary's number.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (bytes, more) = match descriptor >> 6 {
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let Some(size) = rest.get(dictionary..dictionary + bytes) else { return 0 };
    size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)).saturating_add(more)
}

/// A reader whose next bytes can be looked at, even if they come in two parts.
struct Peeked<R> {
    head: Vec<u8>,
    at: usize,
    source: R,
}

impl<R: BufRead> Peeked<R> {
    /// The next `n` bytes, fewer at the end.
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        self.head.drain(..self.at);
        self.at = 0;
        while self.head.len() < n {
            let data = self.source.fill_buf()?;
            let more = data.len().min(n - self.head.len());
            if more == 0 {
                break;
            }
            self.head.extend_from_slice(&data[..more]);
            self.source.consume(more);
        }
        Ok(&self.head)
    }
}

impl<R: BufRead> BufRead for Peeked<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at < self.head.len() { Ok(&self.head[self.at..]) } else { self.source.fill_buf() }
    }

    fn consume(&mut self, n: usize) {
        if self.at < self.head.len() {
            self.at += n;
        } else {
            self.source.consume(n);
        }
    }
}

impl<R: BufRead> Read for Peeked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Write};

    /// A frame that says it needs so wide a window.
    fn frame(content: &[u8], log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(data: &[u8], windows: &Windows, log: u32, pieces: usize) -> io::Result<Vec<u8>> {
        let source = BufReader::with_capacity(pieces, data);
        let mut all = Vec::new();
        inflate(Compression::Zstd, source, windows, log, None).read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn frames_follow_each_other_in_pieces_of_any_size() {
        let long: Vec<u8> = (0..1_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let whole = zstd::bulk::compress(b"single segment", 3).unwrap();
        let packed =
            [frame(&long, 20), skippable, frame(b"", 10), whole, frame(b"wider", 23), frame(b"x", 12)]
                .concat();
        let expected = [&long[..], b"single segmentwiderx"].concat();
        let windows = Windows::default();
        for pieces in [1, 5, 17, 4096, 1 << 20] {
            assert!(read(&packed, &windows, 27, pieces).unwrap() == expected);
        }
        for cut in [3, 9, 1000, packed.len() - 1] {
            assert!(read(&packed[..cut], &windows, 27, 4096).is_err(), "cut at {cut}");
        }
        assert!(read(b"not zstd at all", &windows, 27, 4096).is_err());
        assert_eq!(read(b"", &windows, 27, 4096).unwrap(), b"");
        assert_eq!(windows.budget.lock().unwrap().free, ALL);
    }

    #[test]
    fn the_window_is_what_the_header_says() {
        for log in 10..=31 {
            assert_eq!(window_of(&frame(b"stream", log)), 1 << log);
        }
        // The decoder is asked what it makes of the same headers.
        for size in [0_usize, 1, 255, 256, 300, 65_791, 65_792, 70_000, 1 << 20] {
            let packed = zstd::bulk::compress(&vec![1; size], 3).unwrap();
            let said = zstd::zstd_safe::get_frame_content_size(&packed).unwrap().unwrap();
            assert_eq!(window_of(&packed), said, "{size}");
        }
        for cut in 0..9 {
            assert_eq!(window_of(&frame(b"stream", 27)[..cut.min(5)]), 0);
        }
        let error = read(&frame(b"x", 27), &Windows::default(), 20, 4096).unwrap_err().to_string();
        assert!(error.contains("134217728") && error.contains("limits.zstd_window_log"), "{error}");
    }

    #[test]
    fn windows_wait_for_each_other_in_turn() {
        let windows = Windows::default();
        let small = windows.open(8 << 20, None).unwrap();
        let (order, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let queued = |n: usize| {
                while windows.budget.lock().unwrap().waiting.len() < n {
                    std::thread::yield_now();
                }
            };
            let wide = scope.spawn(|| {
                let window = windows.open(1 << 31, None).unwrap();
                order.lock().unwrap().push("wide");
                assert_eq!(windows.budget.lock().unwrap().free, 0);
                drop(window);
            });
            queued(1);
            let given_up = scope.spawn(|| windows.open(1, Some(&stop)).is_none());
            queued(2);
            // There is room for it, and yet it does not overtake.
            let late = scope.spawn(|| {
                let _window = windows.open(1, None).unwrap();
                order.lock().unwrap().push("late");
            });
            queued(3);
            stop.store(true, Ordering::Relaxed);
            assert!(given_up.join().unwrap());
            assert!(order.lock().unwrap().is_empty());
            drop(small);
            wide.join().unwrap();
            late.join().unwrap();
        });
        assert_eq!(order.into_inner().unwrap(), ["wide", "late"]);
        assert_eq!(windows.budget.lock().unwrap().free, ALL);
    }
}
