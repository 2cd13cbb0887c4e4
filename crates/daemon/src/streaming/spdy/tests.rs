use super::client::Client;
use super::frame::Reader;
use super::*;
use crate::streaming::demux::Received;
use bytes::Bytes;
use futures_util::FutureExt;
use std::time::Duration;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

/// A client's end of a connection.
struct Peer {
    write: WriteHalf<DuplexStream>,
    read: Reader<ReadHalf<DuplexStream>>,
    client: Client,
    work: tokio::task::JoinHandle<()>,
}

fn peers(buffer: usize) -> (Connection, Peer) {
    let (near, far) = tokio::io::duplex(buffer);
    let (connection, work) = connection(near, None, Activity::new(Duration::from_secs(60)));
    let (read, write) = tokio::io::split(far);
    let work = tokio::spawn(work);
    (connection, Peer { write, read: Reader::new(read), client: Client::new(), work })
}

impl Peer {
    async fn open(&mut self, stream: u32, kind: &str) {
        let frame = self.client.open(stream, &[("streamtype", kind)]);
        self.write.write_all(&frame).await.unwrap();
    }

    async fn send(&mut self, frame: Vec<u8>) {
        self.write.write_all(&frame).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        self.read.next().await.unwrap()
    }
}

fn data(stream: u32, text: &'static str, last: bool) -> Option<Frame> {
    Some(Frame::Data { stream, bytes: Bytes::from_static(text.as_bytes()), last })
}

#[tokio::test]
async fn streams_carry_data_both_ways_and_end_by_themselves() {
    let (mut connection, mut peer) = peers(1 << 16);
    peer.open(1, "stdin").await;
    peer.open(3, "stdout").await;
    let (mut stdin, stdout) = (connection.next().await.unwrap(), connection.next().await.unwrap());
    assert_eq!(value(&stdin.headers, "streamtype"), "stdin");
    // The replies come before everything else.
    assert_eq!((peer.next().await, peer.next().await), (Some(Frame::Other), Some(Frame::Other)));
    peer.send(Client::data(1, b"abc", false)).await;
    peer.send(Client::data(1, b"", true)).await;
    assert_eq!(stdin.incoming.next().await, Received::Data(Bytes::from_static(b"abc")));
    assert_eq!(stdin.incoming.next().await, Received::End);
    // The client's end is not the server's.
    stdout.outgoing.write(b"def").await.unwrap();
    stdin.outgoing.finish().await.unwrap();
    stdout.outgoing.finish().await.unwrap();
    assert_eq!(peer.next().await, data(3, "def", false));
    assert_eq!(peer.next().await, data(1, "", true));
    assert_eq!(peer.next().await, data(3, "", true));
    drop((connection, stdin.incoming, stdout.incoming));
    // It is the client that closes, once it has everything.
    peer.write.shutdown().await.unwrap();
    assert_eq!(peer.next().await, None);
    peer.work.await.unwrap();
}

#[tokio::test]
async fn a_reset_stream_ends_alone() {
    let (mut connection, mut peer) = peers(1 << 16);
    peer.open(1, "data").await;
    peer.open(3, "data").await;
    let (mut one, mut two) = (connection.next().await.unwrap(), connection.next().await.unwrap());
    peer.send(Client::reset(1)).await;
    peer.send(Client::data(1, b"late", false)).await;
    peer.send(Client::data(3, b"on", false)).await;
    assert_eq!(one.incoming.next().await, Received::Reset);
    assert_eq!(two.incoming.next().await, Received::Data(Bytes::from_static(b"on")));
    one.outgoing.reset().await.unwrap();
    two.outgoing.write(b"and on").await.unwrap();
    peer.send(Client::ping(9)).await;
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(peer.next().await.unwrap());
    }
    let wanted =
        [Frame::Other, Frame::Other, Frame::Reset(1), data(3, "and on", false).unwrap(), Frame::Ping(9)];
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn streams_come_in_any_order_but_once() {
    let (mut connection, mut peer) = peers(1 << 16);
    peer.open(5, "data").await;
    peer.open(3, "error").await;
    let (first, second) = (connection.next().await.unwrap(), connection.next().await.unwrap());
    assert_eq!((first.stream, second.stream), (5, 3));
    assert_eq!((peer.next().await, peer.next().await), (Some(Frame::Other), Some(Frame::Other)));
    peer.open(5, "data").await;
    assert_eq!(peer.next().await, Some(Frame::Reset(5)));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_waited_for() {
    let (mut connection, mut peer) = peers(1024);
    peer.open(1, "stdout").await;
    let opened = connection.next().await.unwrap();
    let much = vec![7; 64 << 20];
    let mut writing = Box::pin(opened.outgoing.write(&much));
    for _ in 0..100 {
        assert!((&mut writing).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut read = 0;
    let reading = async {
        while read < much.len() {
            if let Some(Frame::Data { bytes, .. }) = peer.next().await {
                read += bytes.len();
            }
        }
    };
    let (written, ()) = tokio::join!(writing, reading);
    assert_eq!((written, read), (Ok(()), much.len()));
}

#[tokio::test]
async fn when_the_client_goes_everything_ends() {
    let (mut connection, mut peer) = peers(1 << 16);
    peer.open(1, "stdin").await;
    let mut opened = connection.next().await.unwrap();
    let Peer { write, read, work, .. } = peer;
    drop((write, read));
    assert_eq!(opened.incoming.next().await, Received::Reset);
    opened.outgoing.gone().await;
    assert!(opened.outgoing.write(b"x").await.is_err());
    assert!(connection.next().await.is_none());
    work.await.unwrap();
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let (near, _far) = tokio::io::duplex(1024);
    let (mut connection, work) = connection(near, None, Activity::new(Duration::from_millis(20)));
    tokio::join!(work, async { assert!(connection.next().await.is_none()) });
}
