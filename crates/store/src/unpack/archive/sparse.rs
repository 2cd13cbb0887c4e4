//! Where a sparse file has data (GNU tar's manual, "Storing Sparse Files"): everything between is a hole.

use super::header::{BLOCK, number};
use super::pax::digits;
use crate::error::{Error, Result};

/// A stretch of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// How many bytes it has.
    pub(crate) length: u64,
}

/// In an old GNU header, and in the blocks that go on with it.
const PAIR: usize = 24;
const IN_HEADER: std::ops::Range<usize> = 386..386 + 4 * PAIR;
const HEADER_GOES_ON: usize = 482;
const REAL_SIZE: std::ops::Range<usize> = 483..495;
const IN_BLOCK: std::ops::Range<usize> = 0..21 * PAIR;
const BLOCK_GOES_ON: usize = 504;

/// Reads an old GNU header's map, which may go on in further blocks; the file's size with its holes, and where data is.
pub(super) fn old_gnu(
    header: &[u8; BLOCK],
    max_blocks: u64,
    mut next: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Result<(u64, Vec<Extent>)> {
    let size = field(&header[REAL_SIZE])?;
    let mut map = Vec::new();
    let mut more = pairs(&header[IN_HEADER], &mut map)? && header[HEADER_GOES_ON] != 0;
    let mut blocks = 0;
    while more {
        blocks += 1;
        if blocks > max_blocks {
            return Err(super::too_long(max_blocks * BLOCK as u64));
        }
        let block = next()?;
        more = pairs(&block[IN_BLOCK], &mut map)? && block[BLOCK_GOES_ON] != 0;
    }
    Ok((size, map))
}

/// Whether all places of a block are taken: the first free one ends the map.
fn pairs(bytes: &[u8], map: &mut Vec<Extent>) -> Result<bool> {
    for pair in bytes.chunks_exact(PAIR) {
        let (offset, length) = pair.split_at(PAIR / 2);
        if offset[0] == 0 || length[0] == 0 {
            return Ok(false);
        }
        map.push(Extent { offset: field(offset)?, length: field(length)? });
    }
    Ok(true)
}

fn field(bytes: &[u8]) -> Result<u64> {
    number(bytes).and_then(|n| u64::try_from(n).ok()).ok_or_else(broken)
}

fn broken() -> Error {
    Error::invalid("broken map of a sparse file")
}

/// Reads the map of PAX format 1.0, which stands in front of the data: lines of numbers, how many pairs first, in whole
/// blocks.
pub(super) fn in_front(max: u64, mut next: impl FnMut() -> Result<[u8; BLOCK]>) -> Result<Vec<Extent>> {
    let (mut text, mut at) = (Vec::new(), 0);
    let mut line = || -> Result<u64> {
        loop {
            let rest: &[u8] = text.get(at..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                at += end + 1;
                return digits(&rest[..end]).ok_or_else(broken);
            }
            // No number is as long.
            if rest.len() >= BLOCK {
                return Err(broken());
            }
            if text.len() as u64 >= max {
                return Err(super::too_long(max));
            }
            text.extend_from_slice(&next()?);
        }
    };
    let mut map = Vec::new();
    for _ in 0..line()? {
        map.push(Extent { offset: line()?, length: line()? });
    }
    Ok(map)
}

/// Checks that a map lies within its file, in order and without overlaps, and that its data is all that is archived.
pub(super) fn check(map: &[Extent], size: u64, archived: u64) -> Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for extent in map {
        let next = extent.offset.checked_add(extent.length).filter(|next| *next <= size);
        let Some(next) = next.filter(|_| extent.offset >= end) else {
            return Err(Error::invalid(format!(
                "its map of a sparse file of {size} bytes overlaps or ends beyond it, at offset {}",
                extent.offset
            )));
        };
        sum += extent.length;
        end = next;
    }
    if sum != archived {
        return Err(Error::invalid(format!(
            "its map of a sparse file names {sum} bytes of data, the archive has {archived}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect()
    }

    #[test]
    fn maps_are_judged() {
        check(&extents(&[(0, 3), (5, 0), (5, 5)]), 10, 8).unwrap();
        check(&[], 10, 0).unwrap();
        for (map, archived) in [
            (&[(5, 5), (0, 3)][..], 8),
            (&[(0, 6), (5, 1)], 7),
            (&[(8, 3)], 3),
            (&[(u64::MAX, 2)], 2),
            (&[(0, 3)], 4),
        ] {
            assert!(check(&extents(map), 10, archived).is_err(), "{map:?}");
        }
    }

    #[test]
    fn a_map_in_front_may_need_several_blocks() {
        let feed = |text: String| {
            let mut blocks = text.into_bytes();
            blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
            let mut blocks: std::collections::VecDeque<_> = blocks.as_chunks().0.to_vec().into();
            move || blocks.pop_front().ok_or_else(broken)
        };
        let many: Vec<_> = (0..200).map(|n| (n * 10_000, 7)).collect();
        let lines: String = many.iter().map(|(o, l)| format!("{o}\n{l}\n")).collect();
        assert_eq!(in_front(1 << 20, feed(format!("200\n{lines}"))).unwrap(), extents(&many));
        assert_eq!(in_front(1 << 20, feed("0\n".into())).unwrap(), []);
        for bad in ["201\n", "-1\n", "x\n", "\n"] {
            assert!(in_front(1 << 20, feed(format!("{bad}{lines}"))).is_err(), "{bad:?}");
        }
        assert!(in_front(1024, feed(format!("200\n{lines}"))).unwrap_err().to_string().contains("1024"));
        assert!(in_front(1 << 20, feed("1".repeat(2000))).is_err());
    }
}
