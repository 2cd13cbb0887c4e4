//! Log files in the CRI format: `TIME STREAM TAG CONTENT`, one line each (kubernetes/design-proposals, "CRI logging").
//!
//! A line longer than the limit is split: all parts but the last have the tag `P`. A disk without space never stops the
//! container: what cannot be written is counted and a line says so once there is space again.

use crate::clock;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use strata_sys::CallExt;

/// The kubelet's own limit for the parts of a line.
const DEFAULT_MAX_LINE: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// One container's log file.
#[derive(Debug)]
pub(crate) struct Log {
    path: String,
    file: OwnedFd,
    max_line: usize,
    /// Begun lines of standard output and standard error.
    pending: [Vec<u8>; 2],
    /// Bytes that could not be written since the last line that could.
    dropped: u64,
    /// All such bytes.
    lost: u64,
    /// A line was cut off by a failed write: the next one must not continue it.
    torn: bool,
    /// The file is this one's making, and goes with it unless [`Log::keep`] is said.
    passing: bool,
}

/// Opens the file, and says whether it had to be made.
fn open(path: &str) -> strata_sys::Result<(OwnedFd, bool)> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o640);
    match rustix::fs::open(path, flags | OFlags::EXCL, mode) {
        Err(Errno::EXIST) => rustix::fs::open(path, flags, mode).map(|file| (file, false)),
        made => made.map(|file| (file, true)),
    }
    .call(|| format!("open({path:?}, O_CREAT|O_APPEND)"))
}

impl Log {
    /// Opens a container's log. A file that was not there goes again when this is dropped, until the container is there to be
    /// kept: the kubelet takes each log for a start.
    pub(crate) fn open(path: &str, max_line: u32) -> strata_sys::Result<Self> {
        let max_line = match usize::try_from(max_line) {
            Ok(0) | Err(_) => DEFAULT_MAX_LINE,
            Ok(n) => n,
        };
        let (file, passing) = open(path)?;
        let pending = [Vec::new(), Vec::new()];
        Ok(Self { path: path.to_owned(), file, max_line, pending, dropped: 0, lost: 0, torn: false, passing })
    }

    /// The container is there: its log stays, whatever becomes of it.
    pub(crate) fn keep(&mut self) {
        self.passing = false;
    }

    /// Opens the file anew: after a rotation the old name is another file.
    pub(crate) fn reopen(&mut self) -> strata_sys::Result<()> {
        let (file, made) = open(&self.path)?;
        self.file = file;
        // What was cut off is in the other one.
        self.torn &= !made;
        Ok(())
    }

    /// Takes output as it was read.
    pub(crate) fn write(&mut self, stream: Stream, mut data: &[u8]) {
        let mut out = Vec::with_capacity(data.len() + 256);
        let now = clock::now();
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        while let Some(first) = data.first() {
            // Only now that more of it has come: a line of just this length is whole.
            if pending.len() >= self.max_line && *first != b'\n' {
                line(&mut out, now, stream, b"P ", &pending);
                pending.clear();
            }
            let newline = data.iter().position(|b| *b == b'\n');
            let room = self.max_line - pending.len();
            let take = newline.unwrap_or(data.len()).min(room);
            pending.extend_from_slice(&data[..take]);
            data = &data[take..];
            if newline == Some(take) {
                line(&mut out, now, stream, b"F ", &pending);
                pending.clear();
                data = &data[1..];
            }
        }
        self.pending[stream as usize] = pending;
        self.append(&out);
    }

    /// The streams have ended: a line without an end is a line.
    pub(crate) fn finish(&mut self) {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                line(&mut out, clock::now(), stream, b"F ", &pending);
            }
        }
        self.append(&out);
    }

    /// Bytes that could not be written so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.dropped > 0 || self.torn {
            let mut mark = Vec::new();
            if self.torn {
                mark.push(b'\n');
            }
            let text = format!("[strata: {} bytes of log could not be written here]", self.dropped);
            line(&mut mark, clock::now(), Stream::Stderr, b"F ", text.as_bytes());
            if self.write_all(&mark).is_err() {
                self.count(lines.len());
                return;
            }
            (self.dropped, self.torn) = (0, false);
        }
        if let Err(written) = self.write_all(lines) {
            self.torn = written > 0 && lines[written - 1] != b'\n';
            self.count(lines.len() - written);
        }
    }

    fn count(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.dropped = self.dropped.saturating_add(bytes);
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Writes everything, or says how much was written before it failed.
    fn write_all(&self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            match rustix::io::write(&self.file, &bytes[at..]) {
                Ok(0) => return Err(at),
                Ok(n) => at += n,
                Err(Errno::INTR) => {}
                Err(_) => return Err(at),
            }
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.passing {
            let _ = rustix::fs::unlink(self.path.as_str());
        }
    }
}

fn line(out: &mut Vec<u8>, now: i64, stream: Stream, tag: &[u8], content: &[u8]) {
    clock::rfc3339(now, out);
    out.extend_from_slice(stream.name());
    out.extend_from_slice(tag);
    out.extend_from_slice(content);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(dir: &tempfile::TempDir) -> Vec<String> {
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn log(dir: &tempfile::TempDir, max_line: u32) -> Log {
        let mut log = Log::open(dir.path().join("log").to_str().unwrap(), max_line).unwrap();
        log.keep();
        log
    }

    #[test]
    fn lines_are_whole_whatever_the_reads_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, 0);
        log.write(Stream::Stdout, b"a");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"b\n\nlast");
        log.finish();
        assert_eq!(contents(&dir), ["stderr F err", "stdout F ab", "stdout F ", "stdout F last"]);
    }

    #[test]
    fn long_lines_are_split() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, 4);
        log.write(Stream::Stdout, b"12345678\nab\n1234");
        log.write(Stream::Stdout, b"\nlast");
        log.finish();
        let expected = ["stdout P 1234", "stdout F 5678", "stdout F ab", "stdout F 1234", "stdout F last"];
        assert_eq!(contents(&dir), expected);
    }

    #[test]
    fn only_a_file_that_was_made_goes_with_a_failed_creation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        drop(Log::open(path.to_str().unwrap(), 0).unwrap());
        assert!(!path.exists());
        drop(log(&dir, 0));
        drop(Log::open(path.to_str().unwrap(), 0).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_line_that_was_cut_off_is_none_of_the_next_file_s() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&dir, 0);
        (log.torn, log.dropped) = (true, 7);
        std::fs::rename(&path, dir.path().join("rotated")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"kept\n");
        let lines = contents(&dir);
        assert!(lines[0].contains("7 bytes of log") && lines[1] == "stdout F kept", "{lines:?}");
        // In the file that it was cut off in, it is ended.
        log.torn = true;
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"more\n");
        assert!(std::fs::read_to_string(path).unwrap().contains("kept\n\n"));
    }

    #[test]
    fn what_a_full_disk_lost_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(&dir, 0);
        let good = std::mem::replace(&mut log.file, open_full());
        log.write(Stream::Stdout, b"lost\n");
        assert!(log.lost() > 4);
        log.file = good;
        log.write(Stream::Stdout, b"kept\n");
        let lines = contents(&dir);
        assert!(lines[0].contains("bytes of log could not be written here"), "{lines:?}");
        assert_eq!(lines[1], "stdout F kept");
    }

    fn open_full() -> OwnedFd {
        rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap()
    }
}
