//! Frames with file descriptors over a stream socket.
//!
//! Descriptors arrive with some byte of the frame that sent them, never with an earlier frame, and no call to recvmsg
//! crosses from one frame's to another's. So a reader queues what each call brings, and a decoded frame that has
//! descriptors takes the first of these off. Where the reader may not open so many the kernel drops the rest: then that
//! frame is refused, and the next ones are as they were.

use crate::MAX_FRAME;
use crate::message::Envelope;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors that one frame carries.
pub const MAX_FDS: usize = 8;

/// A received message and its descriptors.
pub type Message<T> = (Envelope<T>, Vec<OwnedFd>);

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("{0} on the shim's socket: {1}")]
    Socket(&'static str, Errno),
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// A frame longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong(usize),
    /// Not the JSON that was expected.
    #[error("a frame cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A frame names other descriptors than came: this process may not open more (`EMFILE`). The frame has been taken.
    #[error("a frame names {named} descriptors, {came} came; the receiver has too many open files")]
    Descriptors {
        /// The frame's `Envelope::id`.
        id: u64,
        /// As the frame says.
        named: usize,
        /// As received.
        came: usize,
    },
}

/// Encodes a message: length and JSON.
pub fn encode<T: Serialize>(envelope: &Envelope<T>) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, envelope)?;
    let len = out.len() - 4;
    match u32::try_from(len) {
        Ok(n) if len <= MAX_FRAME => out[..4].copy_from_slice(&n.to_le_bytes()),
        _ => return Err(FrameError::TooLong(len)),
    }
    Ok(out)
}

/// Sends bytes, with descriptors on the first of them; returns how many bytes went.
///
/// The descriptors have gone if at least one byte has: pass none when continuing a partial write.
pub fn send(sock: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(sock, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Sends one message on a blocking socket.
pub fn write<T: Serialize>(
    sock: impl AsFd,
    envelope: &Envelope<T>,
    fds: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    let bytes = encode(envelope)?;
    let (mut at, mut fds) = (0, fds);
    while at < bytes.len() {
        match send(&sock, &bytes[at..], fds) {
            Ok(n) => {
                at += n;
                fds = &[];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(FrameError::Socket("sendmsg", e)),
        }
    }
    Ok(())
}

/// Collects received bytes and descriptors until they make frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
    fds: VecDeque<Vec<OwnedFd>>,
}

impl Decoder {
    /// Receives once from the socket: `Ok(0)` at its end. On a non-blocking socket `Errno::AGAIN` means no more now.
    pub fn fill(&mut self, sock: impl AsFd) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 16 << 10];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(sock, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
        let mut came = got.flags.contains(ReturnFlags::CTRUNC).then(Vec::new);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                came.get_or_insert_default().extend(fds);
            }
        }
        self.fds.extend(came);
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(&chunk[..got.bytes]);
        Ok(got.bytes)
    }

    /// Takes the next whole message, with its descriptors; `None`: more bytes are needed.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<Message<T>>, FrameError> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if len > MAX_FRAME {
            return Err(FrameError::TooLong(len));
        }
        let Some(json) = rest.get(4..4 + len) else { return Ok(None) };
        let envelope: Envelope<T> = serde_json::from_slice(json)?;
        self.at += 4 + len;
        let named = usize::from(envelope.fds);
        let fds = if named > 0 { self.fds.pop_front().unwrap_or_default() } else { Vec::new() };
        if fds.len() != named {
            return Err(FrameError::Descriptors { id: envelope.id, named, came: fds.len() });
        }
        Ok(Some((envelope, fds)))
    }

    /// What has been received and not yet taken: after [`crate::Reply::Attached`], the first attach frames.
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes[self.at..].to_vec()
    }
}

/// Receives one message on a blocking socket.
pub fn read<T: DeserializeOwned>(sock: impl AsFd, decoder: &mut Decoder) -> Result<Message<T>, FrameError> {
    loop {
        if let Some(message) = decoder.take()? {
            return Ok(message);
        }
        match decoder.fill(&sock) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(FrameError::Socket("recvmsg", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_follow_their_frame() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut pr, pw) = std::io::pipe().unwrap();
        let plain = Envelope { id: 1, fds: 0, body: Request::State };
        let with = Envelope { id: 2, fds: 1, body: Request::Subscribe };
        write(&a, &plain, &[]).unwrap();
        write(&a, &with, &[pw.as_fd()]).unwrap();
        drop((a, pw));
        let mut d = Decoder::default();
        let (first, fds) = read::<Request>(&b, &mut d).unwrap();
        assert_eq!((first, fds.len()), (plain, 0));
        let (second, mut fds) = read::<Request>(&b, &mut d).unwrap();
        assert_eq!(second, with);
        let mut w = std::fs::File::from(fds.remove(0));
        w.write_all(b"hello").unwrap();
        drop(w);
        let mut got = String::new();
        pr.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hello");
        assert!(matches!(read::<Request>(&b, &mut d), Err(FrameError::Closed)));
    }

    #[test]
    fn a_frame_that_names_missing_descriptors_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        write(&a, &Envelope { id: 1, fds: 2, body: Request::State }, &[]).unwrap();
        let error = read::<Request>(&b, &mut Decoder::default()).unwrap_err();
        assert!(matches!(error, FrameError::Descriptors { id: 1, named: 2, came: 0 }));
    }

    #[test]
    fn a_frame_longer_than_allowed_is_refused_before_it_is_buffered() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = read::<Request>(&b, &mut Decoder::default()).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)));
    }
}
