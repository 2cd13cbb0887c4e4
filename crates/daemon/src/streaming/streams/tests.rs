use super::*;
use crate::streaming::channel::Packet;
use crate::streaming::demux::Demux;
use crate::streaming::spdy::client::Client;
use crate::streaming::spdy::connection;
use bytes::Bytes;
use futures_util::FutureExt;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn sizes_are_read_from_whatever_pieces_they_come_in() {
    let mut demux = Demux::new(None);
    let mut sizes = Sizes::new(demux.open(1));
    for piece in [
        "{\"Width\":80,\"Hei",
        "ght\":24}\n{\"Width\":0,\"Height\":0}{\"Width\":100,\"Height\":30,\"x\":1}",
        " {\"Width\":",
    ] {
        demux.deliver(1, Bytes::from_static(piece.as_bytes())).await;
    }
    assert_eq!(sizes.next().await, (24, 80));
    assert_eq!(sizes.next().await, (30, 100));
    assert!(sizes.next().now_or_never().is_none());
    demux.deliver(1, Bytes::from_static(b"7,\"Height\":8}nonsense {\"Width\":1,\"Height\":1}")).await;
    assert_eq!(sizes.next().await, (8, 7));
    assert!(sizes.next().now_or_never().is_none());
}

/// A session with a client that opens these streams, and goes if they do not suffice.
async fn spdy_session(wanted: Wanted, version: u8, kinds: &[&str]) -> Option<Session> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (connection, work) = connection(near, None, Activity::new(Duration::from_secs(60)));
    tokio::spawn(work);
    let mut client = Client::new();
    for (stream, kind) in (1..).step_by(2).zip(kinds) {
        far.write_all(&client.open(stream, &[("streamtype", kind)])).await.unwrap();
    }
    let waiting = of_spdy(connection, wanted, version);
    tokio::pin!(waiting);
    tokio::select! {
        session = &mut waiting => session,
        () = tokio::time::sleep(Duration::from_millis(100)) => {
            drop(far);
            waiting.await
        }
    }
}

#[tokio::test]
async fn an_spdy_session_begins_with_the_last_of_its_streams() {
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
    let all = ["error", "stdin", "stdout", "resize"];
    let session = spdy_session(wanted, 4, &all).await.unwrap();
    assert!(session.stdin.is_some() && session.stdout.is_some() && session.stderr.is_none());
    assert_eq!(session.form, Form::Json);
    assert!(spdy_session(wanted, 4, &all[..3]).await.is_none(), "the client went before it was complete");
    let session = spdy_session(wanted, 2, &all[..3]).await.unwrap();
    assert_eq!(session.form, Form::Text);
    // Streams that nobody asked for are not in the way.
    let session =
        spdy_session(wanted, 4, &["stderr", "what", "error", "error", "stdin", "stdout", "resize"]).await;
    assert!(session.is_some());
}

#[tokio::test]
async fn a_session_ends_with_its_status() {
    let (packets, mut sent) = tokio::sync::mpsc::channel(16);
    let out = |n| Outgoing::new(n, packets.clone());
    let session = Session {
        stdin: None,
        stdin_end: Some(out(1)),
        stdout: Some(out(3)),
        stderr: None,
        sizes: Sizes::default(),
        error: out(7),
        form: Form::Text,
    };
    session.finish(&Ended::Failed("why".into())).await;
    let data = |stream, text: &'static str, last| Packet::Data { stream, bytes: text.into(), last };
    let wanted = [
        data(3, "", true),
        data(1, "", true),
        data(7, "Internal error occurred: why", false),
        data(7, "", true),
    ];
    for packet in wanted {
        assert_eq!(sent.recv().await, Some(packet));
    }
}
