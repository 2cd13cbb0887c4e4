//! Reading a list back, one entry at a time.

use super::{EntryMeta, Kind, VERSION};
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::escape::unescape;
use std::cmp::Ordering;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longer lines are damage: a path, a symlink's target and the extended attributes of one file, each escaped.
const MAX_LINE: u64 = 1 << 20;

/// The order of a walk: a directory before what is in it, names by their bytes. No name has a zero byte.
pub(crate) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |c: u8| if c == b'/' { 0 } else { c };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some((x, y)) => key(*x).cmp(&key(*y)),
    }
}

/// A list that has been found whole.
pub(crate) struct List {
    from: Source,
    version: u32,
}

enum Source {
    File(BufReader<File>, Vec<u8>),
    /// Of format 1, which had another order.
    Sorted(std::vec::IntoIter<(Vec<u8>, EntryMeta)>),
}

impl List {
    /// Opens a list, and reads it once to see that it is whole.
    ///
    /// # Errors
    /// [`ErrorKind::NewerFormat`] if a newer release wrote it, [`ErrorKind::Damaged`] if it is not whole.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("read {}", path.display());
        let file = || File::open(path).context(what).map(|f| BufReader::with_capacity(128 << 10, f));
        let (mut from, mut line) = (file()?, Vec::new());
        next_line(&mut from, &mut line).context(what)?;
        let version =
            version(&line).ok_or_else(|| Error::damaged("its first line is damaged")).context(what)?;
        match version {
            1 => {
                let entries = read_old(&mut from).context(what)?;
                Ok(Self { from: Source::Sorted(entries.into_iter()), version })
            }
            VERSION => {
                check_whole(file()?).context(what)?;
                Ok(Self { from: Source::File(from, line), version })
            }
            newer => Err(Error::new(
                ErrorKind::NewerFormat,
                format!(
                    "{} has format {newer}; this release reads up to {VERSION}: upgrade stratad",
                    path.display()
                ),
            )),
        }
    }

    /// Whether its entries say all there is to know; format 1 knows no devices, extended attributes and opaque marks, and
    /// of hard links only where they were made.
    pub(crate) fn complete(&self) -> bool {
        self.version >= 2
    }

    /// The next entry.
    ///
    /// # Errors
    /// If it makes no sense, or the disk fails.
    pub(crate) fn next(&mut self) -> Result<Option<(Vec<u8>, EntryMeta)>> {
        match &mut self.from {
            Source::Sorted(entries) => Ok(entries.next()),
            Source::File(from, line) => {
                next_line(from, line)?;
                if line.is_empty() || line.starts_with(b"end ") {
                    return Ok(None);
                }
                parse(line).map(Some).ok_or_else(|| damaged_line(line))
            }
        }
    }
}

fn damaged_line(line: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
    Error::damaged(format!("the line {shown:?} makes no sense"))
}

/// Reads a line without its end; empty at the end of the file.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> Result<()> {
    line.clear();
    from.by_ref().take(MAX_LINE).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(());
    }
    match line.pop() {
        Some(b'\n') => Ok(()),
        _ => Err(Error::damaged("it ends in the middle of a line")),
    }
}

fn version(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.strip_prefix("strata-entries ")?.parse().ok()
}

/// Whether the last line agrees with all before it.
fn check_whole(mut from: BufReader<File>) -> Result<()> {
    let (mut hasher, mut line, mut count) = (xxhash_rust::xxh3::Xxh3::new(), Vec::new(), 0_u64);
    loop {
        next_line(&mut from, &mut line)?;
        if line.is_empty() {
            return Err(Error::damaged("it is truncated"));
        }
        if line.starts_with(b"end ") {
            break;
        }
        hasher.update(&line);
        hasher.update(b"\n");
        count += 1;
    }
    // The first line is no entry.
    let expected = format!("end {} {:016x}", count.saturating_sub(1), hasher.digest());
    let last = line.clone();
    next_line(&mut from, &mut line)?;
    if last != expected.as_bytes() || !line.is_empty() {
        return Err(Error::damaged("its checksum does not match"));
    }
    Ok(())
}

fn read_old(from: &mut impl BufRead) -> Result<Vec<(Vec<u8>, EntryMeta)>> {
    let (mut entries, mut line) = (Vec::new(), Vec::new());
    loop {
        next_line(from, &mut line)?;
        if line.is_empty() {
            break;
        }
        entries.push(parse(&line).ok_or_else(|| damaged_line(&line))?);
    }
    entries.sort_unstable_by(|a, b| order(&a.0, &b.0));
    Ok(entries)
}

fn parse(line: &[u8]) -> Option<(Vec<u8>, EntryMeta)> {
    let line = std::str::from_utf8(line).ok()?;
    let (entry, rest) = line.split_once('\t').map_or((line, None), |(a, b)| (a, Some(b)));
    let mut fields = entry.splitn(9, ' ');
    let kind = fields.next()?;
    let mut meta = EntryMeta {
        mode: u32::from_str_radix(fields.next()?, 8).ok()?,
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
        size: fields.next()?.parse().ok()?,
        ..EntryMeta::default()
    };
    let (seconds, nanos) = fields.next()?.split_once('.')?;
    meta.mtime = (seconds.parse().ok()?, nanos.parse().ok()?);
    meta.checksum = u64::from_str_radix(fields.next()?, 16).ok()?;
    let _blocks: u64 = fields.next()?.parse().ok()?;
    let path = unescape(fields.next()?)?;
    meta.kind = match kind {
        // Format 1 said of a hard link only that it is one, and to what.
        "f" | "h" => Kind::File,
        "d" => Kind::Dir,
        "l" => Kind::Symlink,
        "c" => Kind::Char,
        "b" => Kind::Block,
        "p" => Kind::Fifo,
        "w" => Kind::Whiteout,
        _ => return None,
    };
    for field in rest.into_iter().flat_map(|r| r.split('\t')) {
        match field.split_once('=') {
            Some(("target", target)) => meta.target = unescape(target)?,
            Some(("link", first)) => meta.hard_link = Some(unescape(first)?),
            Some(("dev", numbers)) => {
                let (major, minor) = numbers.split_once(':')?;
                meta = meta.with_device(major.parse().ok()?, minor.parse().ok()?);
            }
            Some((key, value)) if key.starts_with("x.") => {
                let name = CString::new(unescape(&key[2..])?).ok()?;
                let value = hex::decode(value).ok()?;
                meta.extra.get_or_insert_default().xattrs.push((name, value));
            }
            None if field == "opaque" => meta.set_opaque(),
            _ if kind == "h" => meta.hard_link = Some(unescape(field)?),
            _ if kind == "l" => meta.target = unescape(field)?,
            _ => return None,
        }
    }
    Some((path, meta))
}

#[cfg(test)]
mod tests {
    use super::super::{Marks, Packed, list, write, write_entry};
    use super::*;
    use proptest::prelude::*;

    fn component() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'-'), Just(b'a'), Just(1), Just(0xff)], 1..4)
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_components(
            a in proptest::collection::vec(component(), 1..4),
            b in proptest::collection::vec(component(), 1..4),
        ) {
            prop_assert_eq!(order(&a.join(&b'/'), &b.join(&b'/')), a.cmp(&b));
        }

        #[test]
        fn an_entry_is_read_as_it_was_written(
            path in component(),
            target in proptest::collection::vec(any::<u8>(), 0..9),
            numbers in any::<(u32, u32, u32, u64, i64)>(),
            name in "user\\.[=a-z ]{1,5}",
            value in proptest::collection::vec(any::<u8>(), 0..9),
            opaque in any::<bool>(),
        ) {
            let mut meta = EntryMeta {
                kind: Kind::Symlink,
                mode: numbers.0 & 0o7777,
                uid: numbers.1,
                gid: numbers.2,
                size: numbers.3,
                mtime: (numbers.4, 999_999_999),
                checksum: numbers.3,
                target,
                hard_link: Some(path.clone()),
                extra: None,
            }
            .with_xattrs(vec![(CString::new(name).unwrap(), value)]);
            if opaque {
                meta.set_opaque();
            }
            let mut line = String::new();
            write_entry(&mut line, &path, &meta);
            prop_assert_eq!(parse(line.trim_end_matches('\n').as_bytes()).unwrap(), (path, meta));
        }
    }

    #[test]
    fn what_is_not_whole_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries");
        let names = [&b"a-b"[..], b"a/b", b"a"];
        let entry = |name: &&[u8]| Packed::new(name, &EntryMeta::file(3, 4), Marks::default());
        let fs = dir.path().join("fs");
        write(&path, &list(&fs, names.iter().map(entry).collect()).unwrap()).unwrap();
        let read = |list: &mut List| {
            let mut names = Vec::new();
            while let Some((name, _)) = list.next().unwrap() {
                names.push(name);
            }
            names
        };
        assert_eq!(read(&mut List::open(&path).unwrap()), [&b"a"[..], b"a/b", b"a-b"]);
        let good = std::fs::read(&path).unwrap();
        for end in 0..good.len() {
            std::fs::write(&path, &good[..end]).unwrap();
            assert!(List::open(&path).is_err(), "cut at {end}");
        }
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(List::open(&path).is_err(), "byte {n}");
        }
        std::fs::write(&path, "strata-entries 9\n").unwrap();
        let e = List::open(&path).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::NewerFormat);
        assert!(e.to_string().contains("upgrade stratad"), "{e}");
    }

    #[test]
    fn format_1_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries");
        let text = "strata-entries 1\nd 755 0 0 0 1.000000000 0000000000000000 1 a\n\
                    f 644 1 2 3 1600000000.000000005 00000000000000ff 1 a-b\n\
                    h 644 1 2 3 1600000000.000000005 00000000000000ff 1 a/h\ta-b\n\
                    l 777 0 0 4 1.000000000 0000000000000000 0 s\ta\\x09=b\n";
        std::fs::write(&path, text).unwrap();
        let mut list = List::open(&path).unwrap();
        assert!(!list.complete());
        let mut all = Vec::new();
        while let Some(entry) = list.next().unwrap() {
            all.push(entry);
        }
        assert_eq!(
            all.iter().map(|(n, _)| n.as_slice()).collect::<Vec<_>>(),
            [&b"a"[..], b"a/h", b"a-b", b"s"]
        );
        assert_eq!((all[1].1.hard_link.as_deref(), all[1].1.checksum), (Some(&b"a-b"[..]), 255));
        assert_eq!((all[3].1.target.as_slice(), all[2].1.mtime), (&b"a\t=b"[..], (1_600_000_000, 5)));
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert!(List::open(&path).is_err());
    }
}
