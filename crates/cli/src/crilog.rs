//! Log files in the CRI format: `TIME STREAM TAG CONTENT`, one line each.

use crate::error::{Error, Result};
use jiff::Timestamp;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) time: &'a str,
    pub(crate) stderr: bool,
    /// The container's line ends here.
    pub(crate) full: bool,
    pub(crate) content: &'a [u8],
}

/// Reads one line, without its newline; `None`: it is not in this format.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is whole.
    let full = match tags.split(|b| *b == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        time: std::str::from_utf8(time).ok()?,
        stderr,
        full,
        content: fields.next().unwrap_or_default(),
    })
}

/// A log file that may be rotated while it is read.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Read and not yet taken as lines.
    buffer: Vec<u8>,
}

/// How much is read at once.
const BLOCK: u64 = 64 << 10;

impl Log {
    /// Opens it at its beginning.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| failed(path, e))?;
        Ok(Self { path: path.to_owned(), file, buffer: Vec::new() })
    }

    /// Goes to where the last `count` lines of the container begin.
    pub(crate) fn seek_to_last(&mut self, count: usize) -> Result<()> {
        seek_to_last(&mut self.file, count).map_err(|e| failed(&self.path, e))
    }

    /// Hands every whole line there is now to `each`, which says whether to go on. Returns whether it did.
    pub(crate) fn lines(&mut self, mut each: impl FnMut(&Line<'_>) -> Result<bool>) -> Result<bool> {
        loop {
            let before = self.buffer.len();
            let got = Read::by_ref(&mut self.file).take(BLOCK).read_to_end(&mut self.buffer);
            if got.map_err(|e| failed(&self.path, e))? == 0 {
                return Ok(true);
            }
            let fresh = self.buffer.get(before..).unwrap_or_default();
            let Some(last) = fresh.iter().rposition(|b| *b == b'\n') else { continue };
            let whole: Vec<u8> = self.buffer.drain(..=before + last).collect();
            for line in whole.split_inclusive(|b| *b == b'\n') {
                // What is not in the format was not written by a runtime.
                let Some(line) = parse(line.strip_suffix(b"\n").unwrap_or(line)) else { continue };
                if !each(&line)? {
                    return Ok(false);
                }
            }
        }
    }

    /// The file that has taken this one's place, at its beginning; `None`: none has.
    pub(crate) fn successor(&self) -> Result<Option<Self>> {
        let ours = self.file.metadata().map_err(|e| failed(&self.path, e))?;
        // Between the renaming and the reopening there is no file.
        let Ok(file) = File::open(&self.path) else { return Ok(None) };
        let theirs = file.metadata().map_err(|e| failed(&self.path, e))?;
        let same = (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino());
        Ok((!same).then(|| Self { path: self.path.clone(), file, buffer: Vec::new() }))
    }
}

fn seek_to_last(file: &mut File, count: usize) -> std::io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut size = BLOCK;
    loop {
        let start = end.saturating_sub(size);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.by_ref().take(end - start).read_to_end(&mut tail)?;
        if let Some(at) = last_lines(&tail, count, start == 0) {
            file.seek(SeekFrom::Start(start + at as u64))?;
            return Ok(());
        }
        size = size.saturating_mul(2);
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(path.display().to_string(), error)
}

/// Where the last `count` whole lines of the container begin in a file's tail; `None`: further ahead. If the tail is
/// not the whole file, its first line may be cut and does not count.
fn last_lines(tail: &[u8], count: usize, whole_file: bool) -> Option<usize> {
    // Whether the line that begins at `at` is the container's line's last part, for each line from the end.
    let mut at = tail.len();
    let mut seen = 0;
    // A last line without a newline is still being written.
    let end = tail.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut stop = end;
    while stop > 0 {
        let start = tail.get(..stop - 1)?.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if start == 0 && !whole_file {
            return None;
        }
        if parse(tail.get(start..stop - 1)?).is_none_or(|l| l.full) {
            if seen == count {
                return Some(at.min(end));
            }
            seen += 1;
        }
        at = start;
        stop = start;
    }
    whole_file.then_some(if count == 0 { end } else { 0 })
}

/// A line's time, if it is one.
pub(crate) fn time(line: &Line<'_>) -> Option<Timestamp> {
    line.time.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const T: &str = "2026-11-21T10:00:00.123456789Z";

    #[test]
    fn lines_are_read() {
        let line = format!("{T} stderr P some text ");
        let got = parse(line.as_bytes()).unwrap();
        assert_eq!(got, Line { time: T, stderr: true, full: false, content: b"some text " });
        assert_eq!(parse(format!("{T} stdout F ").as_bytes()).unwrap().content, b"");
        assert!(parse(b"nonsense").is_none() && parse(format!("{T} other F x").as_bytes()).is_none());
        assert!(time(&got).is_some());
    }

    fn content(log: &mut Log) -> Vec<String> {
        let mut got = Vec::new();
        log.lines(|l| {
            got.push(String::from_utf8_lossy(l.content).into_owned());
            Ok(true)
        })
        .unwrap();
        got
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut text = String::new();
        for i in 0..5000 {
            text.push_str(&format!("{T} stdout P {i}a\n{T} stdout F {i}b\n"));
        }
        std::fs::write(&path, &text).unwrap();
        let tail = |n| {
            let mut log = Log::open(&path).unwrap();
            log.seek_to_last(n).unwrap();
            content(&mut log)
        };
        assert_eq!(tail(2), ["4998a", "4998b", "4999a", "4999b"]);
        assert_eq!(tail(0), Vec::<String>::new());
        assert_eq!(tail(5000).len(), 10000);
        assert_eq!(tail(9999).len(), 10000);
        assert_eq!(tail(4000).first().map(String::as_str), Some("1000a"));
    }

    #[test]
    fn a_rotated_log_goes_on_in_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut file = File::create(&path).unwrap();
        write!(file, "{T} stdout F one\n{T} stdout F tw").unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!(content(&mut log), ["one"]);
        assert!(log.successor().unwrap().is_none());
        writeln!(file, "o").unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        assert!(log.successor().unwrap().is_none());
        std::fs::write(&path, format!("{T} stdout F three\n")).unwrap();
        assert_eq!(content(&mut log), ["two"]);
        log = log.successor().unwrap().unwrap();
        assert_eq!(content(&mut log), ["three"]);
    }
}
