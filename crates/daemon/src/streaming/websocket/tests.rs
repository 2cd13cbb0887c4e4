use super::*;
use crate::streaming::channel::Outgoing;
use crate::streaming::demux::Received;
use crate::streaming::spdy::{self, client::Client};
use crate::streaming::tunnel;
use std::time::Duration;
use tokio::io::DuplexStream;

async fn peers() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    (over(near).await, WebSocketStream::from_raw_socket(far, Role::Client, None).await)
}

fn activity() -> Activity {
    Activity::new(Duration::from_secs(60))
}

fn bytes(data: &'static [u8]) -> Bytes {
    Bytes::from_static(data)
}

#[tokio::test]
async fn channels_carry_data_and_the_client_ends_one() {
    let (near, mut client) = peers().await;
    let form = Form { encoding: Encoding::Binary, closes: true };
    let (mut incoming, packets, work) = channels(near, form, &[0, 4], None, activity());
    let work = tokio::spawn(work);
    for message in [&b"\x00abc"[..], b"", b"\x07nobody's", b"\x04size", b"\xff\x00", b"\x00late"] {
        client.send(Message::Binary(Bytes::from(message))).await.unwrap();
    }
    client.send(Message::Ping(bytes(b"?"))).await.unwrap();
    assert_eq!(incoming[0].next().await, Received::Data(bytes(b"abc")));
    assert_eq!(incoming[0].next().await, Received::End);
    assert_eq!(incoming[1].next().await, Received::Data(bytes(b"size")));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(bytes(b"?")));
    let out = Outgoing::new(1, packets.clone());
    out.touch().await.unwrap();
    out.write(b"def").await.unwrap();
    out.finish().await.unwrap();
    drop(packets);
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(bytes(b"\x01")));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(bytes(b"\x01def")));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(Some(normal())));
    assert!(client.next().await.is_none());
    drop(client);
    work.await.unwrap();
}

#[tokio::test]
async fn base64_is_text() {
    let (near, mut client) = peers().await;
    let form = Form { encoding: Encoding::Base64, closes: false };
    let (mut incoming, packets, work) = channels(near, form, &[0], None, activity());
    tokio::spawn(work);
    client.send(Message::Text("0YWJj".into())).await.unwrap();
    assert_eq!(incoming[0].next().await, Received::Data(bytes(b"abc")));
    Outgoing::new(3, packets).write(b"def").await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Text("3ZGVm".into()));
    client.send(Message::Text("0%%%%".into())).await.unwrap();
    assert_eq!(incoming[0].next().await, Received::Reset);
}

#[tokio::test]
async fn a_client_that_closes_has_gone() {
    let (near, mut client) = peers().await;
    let form = Form { encoding: Encoding::Binary, closes: false };
    let (mut incoming, packets, work) = channels(near, form, &[0], None, activity());
    let work = tokio::spawn(work);
    // Before v5 nothing ends a channel.
    client.send(Message::Binary(bytes(b"\xff\x00"))).await.unwrap();
    client.send(Message::Binary(bytes(b"\x00x"))).await.unwrap();
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
    drop(client);
    assert_eq!(incoming[0].next().await, Received::Data(bytes(b"x")));
    assert_eq!(incoming[0].next().await, Received::Reset);
    Outgoing::new(1, packets).gone().await;
    work.await.unwrap();
}

#[tokio::test]
async fn spdy_goes_through_messages_cut_anywhere() {
    let (near, mut client) = peers().await;
    let (io, tunnelling) = tunnel::tunnel(near);
    let (mut connection, work) = spdy::connection(io, None, activity());
    let both = tokio::spawn(async { tokio::join!(tunnelling, work) });
    let frames =
        [Client::new().open(1, &[("streamtype", "data"), ("port", "80")]), Client::data(1, b"hello", true)];
    for byte in frames.concat() {
        client.send(Message::Binary(Bytes::copy_from_slice(&[byte]))).await.unwrap();
    }
    let mut opened = connection.next().await.unwrap();
    assert_eq!(spdy::value(&opened.headers, "port"), "80");
    assert_eq!(opened.incoming.next().await, Received::Data(bytes(b"hello")));
    assert_eq!(opened.incoming.next().await, Received::End);
    opened.outgoing.write(b"world").await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"world") {
        if let Message::Binary(data) = client.next().await.unwrap().unwrap() {
            said.extend_from_slice(&data);
        }
    }
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
    drop(client);
    opened.outgoing.gone().await;
    assert!(connection.next().await.is_none());
    both.await.unwrap();
}
