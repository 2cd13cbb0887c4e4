//! The frames of an attached connection: one byte of kind, a little-endian `u32` length, the payload.
//!
//! ```text
//!   client ─▶ shim   Stdin(bytes) · StdinEof · Resize{rows, cols}
//!   shim ─▶ client   Stdout(bytes) · Stderr(bytes) · Exit(code) · Lagged
//! ```
//!
//! Output and log never wait for an attached client that did not ask for it (`wait` in [`crate::Request::Attach`]): one
//! that is more than [`MAX_LAG`] behind gets `Lagged` and is cut off.

/// How far an attached client may fall behind, in bytes.
pub const MAX_LAG: usize = 1 << 20;

/// The longest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachFrame {
    /// Input.
    Stdin(Vec<u8>),
    /// The input's end.
    StdinEof,
    /// The client's terminal has a new size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Output, or the terminal's.
    Stdout(Vec<u8>),
    /// Error output.
    Stderr(Vec<u8>),
    /// The container has ended; the last frame.
    Exit(i32),
    /// The client was too slow and is cut off; the last frame.
    Lagged,
}

/// Why bytes are not an attach frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Unknown kind.
    #[error("attach frame: unknown kind {0}")]
    Kind(u8),
    /// Longer than [`MAX_PAYLOAD`], or not as long as its kind needs.
    #[error("attach frame: length {0} does not fit its kind")]
    Length(usize),
}

const HEADER: usize = 5;

impl AttachFrame {
    /// Appends the frame's bytes to `out`. Data longer than [`MAX_PAYLOAD`] becomes several frames.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(b) => encode_data(0, b, out),
            Self::Stdout(b) => encode_data(1, b, out),
            Self::Stderr(b) => encode_data(2, b, out),
            Self::Resize { rows, cols } => {
                let mut p = [0; 4];
                p[..2].copy_from_slice(&rows.to_le_bytes());
                p[2..].copy_from_slice(&cols.to_le_bytes());
                encode_one(3, &p, out);
            }
            Self::StdinEof => encode_one(4, &[], out),
            Self::Exit(code) => encode_one(5, &code.to_le_bytes(), out),
            Self::Lagged => encode_one(6, &[], out),
        }
    }

    /// Takes the first whole frame off `buf`: the frame and how many bytes it took, or `None` if more are needed.
    pub fn decode(buf: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let Some((kind, rest)) = buf.split_first() else { return Ok(None) };
        let Some(len) = rest.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if len > MAX_PAYLOAD {
            return Err(DecodeError::Length(len));
        }
        let Some(payload) = buf.get(HEADER..HEADER + len) else { return Ok(None) };
        let fixed = |want: usize| if len == want { Ok(()) } else { Err(DecodeError::Length(len)) };
        let frame = match kind {
            0 => Self::Stdin(payload.to_vec()),
            1 => Self::Stdout(payload.to_vec()),
            2 => Self::Stderr(payload.to_vec()),
            3 => match payload {
                [a, b, c, d] => {
                    Self::Resize { rows: u16::from_le_bytes([*a, *b]), cols: u16::from_le_bytes([*c, *d]) }
                }
                _ => return Err(DecodeError::Length(len)),
            },
            4 => fixed(0).map(|()| Self::StdinEof)?,
            5 => match payload {
                [a, b, c, d] => Self::Exit(i32::from_le_bytes([*a, *b, *c, *d])),
                _ => return Err(DecodeError::Length(len)),
            },
            6 => fixed(0).map(|()| Self::Lagged)?,
            other => return Err(DecodeError::Kind(*other)),
        };
        Ok(Some((frame, HEADER + len)))
    }
}

fn encode_one(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    // Callers pass at most MAX_PAYLOAD bytes, which fits.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
}

fn encode_data(kind: u8, data: &[u8], out: &mut Vec<u8>) {
    for chunk in data.chunks(MAX_PAYLOAD) {
        encode_one(kind, chunk, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_round_trip_in_pieces() {
        let frames = [
            AttachFrame::Stdin(b"ls\n".to_vec()),
            AttachFrame::StdinEof,
            AttachFrame::Resize { rows: 24, cols: 300 },
            AttachFrame::Stdout(vec![7; MAX_PAYLOAD]),
            AttachFrame::Stderr(b"x".to_vec()),
            AttachFrame::Exit(-1),
            AttachFrame::Lagged,
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|f| f.encode(&mut bytes));
        let (mut at, mut end, mut seen) = (0, 0, Vec::new());
        while end < bytes.len() {
            end = (end + 1000).min(bytes.len());
            while let Some((f, n)) = AttachFrame::decode(&bytes[at..end]).unwrap() {
                seen.push(f);
                at += n;
            }
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn bad_frames_are_refused() {
        assert_eq!(AttachFrame::decode(&[9, 0, 0, 0, 0]), Err(DecodeError::Kind(9)));
        assert_eq!(AttachFrame::decode(&[3, 1, 0, 0, 0, 0]), Err(DecodeError::Length(1)));
        let long = [1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(AttachFrame::decode(&long), Err(DecodeError::Length(0xffff_ffff)));
    }
}
