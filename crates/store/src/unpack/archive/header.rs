//! One block that says what follows it (pax(1) "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format").

use crate::error::{Error, Result};
use tar::EntryType;

/// What archives are made of.
pub(super) const BLOCK: usize = 512;

/// The fields of one header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    /// Major and minor number; 0 for what is no device.
    pub(super) device: (u32, u32),
}

impl Header {
    /// Reads a block that is not all zeros.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self> {
        check_sum(block)?;
        let header = tar::Header::from_byte_slice(block);
        let old = header.as_old();
        let kind = header.entry_type();
        let is_device = kind.is_block_special() || kind.is_character_special();
        let device = if is_device { device(header)? } else { (0, 0) };
        Ok(Self {
            kind,
            path: path(header),
            link: text(&old.linkname).to_vec(),
            mode: u32::try_from(required("mode", &old.mode)? & 0o7777).unwrap_or(0),
            uid: required("uid", &old.uid)?,
            gid: required("gid", &old.gid)?,
            size: required("size", &old.size)?,
            mtime: required("mtime", &old.mtime)?,
            device,
        })
    }
}

/// Of a character or block device. Before ustar, there was no place for the numbers.
fn device(header: &tar::Header) -> Result<(u32, u32)> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(h), _) => (&h.dev_major, &h.dev_minor),
        (_, Some(h)) => (&h.dev_major, &h.dev_minor),
        _ => return Ok((0, 0)),
    };
    let part = |what: &str, field: &[u8], bits: u32| {
        let number = required(what, field)?;
        let fits = u32::try_from(number).ok().filter(|n| *n < 1 << bits);
        fits.ok_or_else(|| {
            Error::invalid(format!("{what} {number} is more than the {bits} bits that Linux has"))
        })
    };
    Ok((part("device major number", major, 12)?, part("device minor number", minor, 20)?))
}

/// The name, with ustar's prefix, or star's, which is shorter.
fn path(header: &tar::Header) -> Vec<u8> {
    let name = text(&header.as_old().name);
    let prefix = match header.as_ustar() {
        Some(h) if h.pad.ends_with(b"tar\0") => text(&h.prefix[..131]),
        Some(h) => text(&h.prefix),
        None => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A field's text: it may be as long as the field, without a zero at its end.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn required(what: &str, field: &[u8]) -> Result<i64> {
    number(field).ok_or_else(|| Error::invalid(format!("broken tar header: {what} is no number")))
}

/// A number: octal digits, among spaces and zeros, or in two's complement after a byte with its highest bit set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        let blank = |b: &u8| matches!(b, 0 | b' ');
        // Some archivers leave empty what is zero.
        let mut digits = field.iter().skip_while(|b| blank(b)).take_while(|b| !blank(b));
        return digits.try_fold(0_i64, |n, digit| match digit {
            b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        });
    }
    let negative = first & 0x40 != 0;
    let mut bytes = field.iter().enumerate().map(|(i, b)| if i == 0 && !negative { b & 0x7f } else { *b });
    bytes.try_fold(if negative { -1_i64 } else { 0 }, |n, byte| {
        n.checked_mul(256)?.checked_add(i64::from(byte))
    })
}

/// The sum of all bytes, that of the sum's own field taken for spaces; some archivers add signed ones.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let counted = || block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: i64 = counted().map(i64::from).sum();
    let signed: i64 = counted().map(|b| i64::from(b.cast_signed())).sum();
    match number(&block[148..156]) {
        Some(sum) if sum == unsigned || sum == signed => Ok(()),
        _ => Err(Error::invalid("broken tar archive: a header's checksum is wrong")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"77777777777 "), Some(0o77_777_777_777));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"       \0"), Some(0));
        assert_eq!(number(b"12x4567\0"), None);
        assert_eq!(number(b"-000001\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        let mut far = [0_u8; 12];
        (far[0], far[4]) = (0x80, 0x7f);
        assert_eq!(number(&far), Some(0x7f << 56));
        far[4] = 0x80;
        assert_eq!(number(&far), None);
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_header_is_believed_only_with_its_sum() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(EntryType::Char);
        header.set_device_major(5).unwrap();
        header.set_device_minor(1).unwrap();
        header.as_old_mut().name[..3].copy_from_slice(b"abc");
        header.as_ustar_mut().unwrap().prefix[..2].copy_from_slice(b"xy");
        header.set_mode(0o100_644);
        header.set_cksum();
        let good = Header::parse(header.as_bytes()).unwrap();
        assert_eq!((good.path.as_slice(), good.mode, good.device), (&b"xy/abc"[..], 0o644, (5, 1)));
        header.as_old_mut().name[0] = b'b';
        assert!(Header::parse(header.as_bytes()).unwrap_err().to_string().contains("checksum"));
        header.set_device_major(1 << 12).unwrap();
        header.set_cksum();
        assert!(Header::parse(header.as_bytes()).unwrap_err().to_string().contains("12 bits"));
    }
}
