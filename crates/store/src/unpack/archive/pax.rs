//! Extended headers (pax(1), "pax Extended Header"): `length key=value` lines before an entry.

use super::sparse::Extent;
use crate::error::{Error, Result};
use crate::xattr;
use std::collections::BTreeMap;
use std::ffi::CString;

/// The records that carry extended attributes, as GNU tar, star and Go write them.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What one extended header says.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: BTreeMap<CString, Vec<u8>>,
    pub(super) sparse: Sparse,
}

/// `GNU.sparse.*` (GNU tar's manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// The file's size with its holes: `size` before 1.0, `realsize` since.
    pub(super) size: Option<u64>,
    /// Of 0.0, a record for each number, and 0.1, one for all.
    pub(super) map: Option<Vec<Extent>>,
    /// An offset whose length has not come.
    offset: Option<u64>,
}

impl Pax {
    /// Reads a header's body. What has no value says nothing; of what is said twice, the last counts.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !body.is_empty() {
            let (key, value, rest) = record(body)
                .ok_or_else(|| Error::invalid("broken PAX header: a record is not of its length"))?;
            pax.set(key, value)?;
            body = rest;
        }
        if pax.sparse.offset.is_some() {
            return Err(Error::invalid("broken PAX header: a sparse file's offset without a length"));
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            if xattr::kept(name) {
                let name = CString::new(name)
                    .map_err(|_| Error::invalid("broken PAX header: an xattr's name has a zero byte"))?;
                self.xattrs.insert(name, value.to_vec());
            }
            return Ok(());
        }
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(natural(key, value)?),
            b"uid" => self.uid = Some(integer(key, value)?),
            b"gid" => self.gid = Some(integer(key, value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| nonsense(key, value))?),
            _ => {
                if let Some(what) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(what, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match (key, self.offset) {
            (b"major", _) => self.major = Some(natural(key, value)?),
            (b"minor", _) => self.minor = Some(natural(key, value)?),
            (b"name", _) => self.name = Some(value.to_vec()),
            (b"size" | b"realsize", _) => self.size = Some(natural(key, value)?),
            (b"map", _) => self.map = Some(map(value)?),
            (b"offset", None) => self.offset = Some(natural(key, value)?),
            (b"numbytes", Some(offset)) => {
                let extent = Extent { offset, length: natural(key, value)? };
                self.map.get_or_insert_default().push(extent);
                self.offset = None;
            }
            (b"offset" | b"numbytes", _) => {
                return Err(Error::invalid(
                    "broken PAX header: a sparse file's offsets and lengths do not alternate",
                ));
            }
            // How many there are is seen.
            _ => {}
        }
        Ok(())
    }
}

/// Of 0.1: offsets and lengths with commas between them. An empty file has none, which is written as an empty value or `0,0`.
fn map(value: &[u8]) -> Result<Vec<Extent>> {
    let numbers = value.split(|b| *b == b',').map(|n| natural(b"map", n)).collect::<Result<Vec<_>>>()?;
    let (pairs, []) = numbers.as_chunks() else {
        return Err(Error::invalid("broken PAX header: a sparse file's map ends with an offset"));
    };
    Ok(pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length }).collect())
}

/// Key, value, and what comes after the first record.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(digits(body.get(..space)?)?).ok()?;
    let (record, rest) = body.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
    // Go's reader refuses such keys too: others would see the name end there.
    (!key.contains(&0)).then_some((key, value, rest))
}

fn natural(key: &[u8], value: &[u8]) -> Result<u64> {
    let number = digits(value).filter(|n| i64::try_from(*n).is_ok());
    number.ok_or_else(|| nonsense(key, value))
}

fn integer(key: &[u8], value: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|t| t.parse().ok()).ok_or_else(|| nonsense(key, value))
}

fn nonsense(key: &[u8], value: &[u8]) -> Error {
    let value = crate::escape::escape(&value[..value.len().min(40)]);
    Error::invalid(format!("broken PAX header: {} cannot be {value:?}", String::from_utf8_lossy(key)))
}

/// A number without sign.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `1700000000.25` (pax(1)); nothing finer than nanoseconds, and before 1970 with a minus.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = if whole == "-" || whole.is_empty() { 0 } else { whole.parse().ok()? };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || text.len() == text.matches(['-', '.']).count() {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12."), Some((12, 0)));
        assert_eq!(time(b".5"), Some((0, 500_000_000)));
        assert_eq!(time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        for bad in
            [&b"x"[..], b"NaN", b"inf", b"1e9", b"1.x", b"1.-5", b".", b"-", b"", b"9223372036854775808"]
        {
            assert_eq!(time(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn records_have_the_length_that_they_say() {
        let pax = Pax::parse(b"11 path=ab\n8 path=\n19 unknown=a=b\nc=d\n9 uid=-1\n").unwrap();
        assert_eq!((pax.path.as_deref(), pax.uid), (Some(&b"ab"[..]), Some(-1)));
        for bad in [
            "11 path=ab",
            "12 path=ab\n",
            "10 path=ab\n",
            "5 =b\n",
            "x",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "-6 a=b\n",
            "6 ab\n",
        ] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Pax::parse(b"8 a\0=bc\n").is_err());
    }

    #[test]
    fn maps_come_in_two_forms() {
        let extents = [Extent { offset: 1, length: 2 }, Extent { offset: 5, length: 0 }];
        let long = b"23 GNU.sparse.offset=1\n25 GNU.sparse.numbytes=2\n23 GNU.sparse.offset=5\n25 GNU.sparse.numbytes=0\n";
        assert_eq!(Pax::parse(long).unwrap().sparse.map.as_deref(), Some(&extents[..]));
        assert_eq!(
            Pax::parse(b"26 GNU.sparse.map=1,2,5,0\n").unwrap().sparse.map.as_deref(),
            Some(&extents[..])
        );
        assert!(Pax::parse(b"24 GNU.sparse.map=1,2,5\n").is_err());
        assert!(Pax::parse(b"23 GNU.sparse.offset=1\n").is_err());
        assert!(Pax::parse(b"25 GNU.sparse.numbytes=1\n").is_err());
    }
}
