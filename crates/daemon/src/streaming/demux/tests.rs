use super::*;
use crate::streaming::channel::Outgoing;
use futures_util::FutureExt;

#[tokio::test]
async fn a_stream_ends_or_is_reset() {
    let mut demux = Demux::new(None);
    let (mut one, mut two) = (demux.open(1).unwrap(), demux.open(3).unwrap());
    demux.deliver(1, Bytes::from_static(b"abc")).await;
    demux.end(1);
    demux.deliver(1, Bytes::from_static(b"too late")).await;
    demux.deliver(3, Bytes::from_static(b"x")).await;
    demux.reset(3);
    assert_eq!(one.next().await, Received::Data(Bytes::from_static(b"abc")));
    assert_eq!(one.next().await, Received::End);
    assert_eq!(one.next().await, Received::End);
    assert_eq!(two.next().await, Received::Data(Bytes::from_static(b"x")));
    assert_eq!(two.next().await, Received::Reset);
}

/// As much as a stream keeps, in pieces with their own weight.
fn backlog() -> Bytes {
    Bytes::from(vec![7; STREAM_BACKLOG - STREAM_BACKLOG / PIECE * OVERHEAD])
}

#[tokio::test]
async fn what_nobody_takes_stops_the_reader_until_it_is_taken_or_dropped() {
    let mut demux = Demux::new(None);
    let mut slow: Vec<_> = (0..4).map(|n| demux.open(n).unwrap()).collect();
    let other = demux.open(9).unwrap();
    for n in 0..3 {
        demux.deliver(n, backlog()).await;
        assert!(
            demux.deliver(n, Bytes::from_static(b"x")).now_or_never().is_none(),
            "over the stream's bound"
        );
    }
    demux.deliver(9, Bytes::from_static(b"x")).await;
    drop(other);
    demux.deliver(9, Bytes::from(vec![7; 4 * BACKLOG])).await;
    let other = demux.open(11).unwrap();
    demux.deliver(3, backlog()).await;
    assert!(
        demux.deliver(11, Bytes::from_static(b"x")).now_or_never().is_none(),
        "over the connection's bound"
    );
    assert!(matches!(slow[0].next().await, Received::Data(_)));
    demux.deliver(11, Bytes::from_static(b"x")).await;
    drop((slow, other));
    demux.deliver(1, Bytes::from(vec![7; 4 * BACKLOG])).await;
}

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with a past, in which a stream can be stuck.
fn of_old() -> Demux {
    let mut demux = Demux::new(Some(PATIENCE));
    demux.start -= 2 * PATIENCE;
    demux
}

/// Nothing has been taken of these streams for longer than anybody waits.
fn stick(demux: &Demux, streams: &[u32]) {
    for stream in streams {
        demux.streams[stream].backlog.moved.store(0, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn who_holds_up_others_is_the_one_that_is_stuck() {
    let mut demux = of_old();
    let mut stuck = demux.open(1).unwrap();
    demux.deliver(1, backlog()).await;
    let full = PIECE + OVERHEAD;
    stick(&demux, &[1]);
    assert_eq!(demux.holder(1, full), None, "nobody else is there");
    let waiting = demux.open(3).unwrap();
    assert_eq!(demux.holder(1, full), Some(1));
    demux.end(3);
    assert_eq!(demux.holder(1, full), None, "the other one has no more to send");
    drop(waiting);
    let waiting = demux.open(5).unwrap();
    assert_eq!(demux.holder(1, full), Some(1));
    drop(waiting);
    assert_eq!(demux.holder(1, full), None, "nobody takes what the other one brings");
    let _other = demux.open(7).unwrap();
    assert!(matches!(stuck.next().await, Received::Data(_)));
    demux.deliver(1, Bytes::from(vec![7; PIECE])).await;
    assert_eq!(demux.holder(1, full), None, "it is slow, not stuck");
}

#[tokio::test]
async fn of_many_that_are_stuck_the_one_with_the_most_goes_first() {
    let mut demux = of_old();
    let streams: Vec<_> = (0..6).map(|n| demux.open(n).unwrap()).collect();
    for n in 0..3 {
        demux.deliver(n, backlog()).await;
    }
    demux.deliver(3, backlog().slice(..STREAM_BACKLOG / 2)).await;
    demux.deliver(4, backlog().slice(..STREAM_BACKLOG / 4)).await;
    // Whose client has ended it holds its room all the same.
    demux.end(2);
    stick(&demux, &[3, 4]);
    assert_eq!(demux.holder(5, STREAM_BACKLOG / 2), None, "most of the room is others'");
    stick(&demux, &[2]);
    assert_eq!(demux.holder(5, STREAM_BACKLOG / 2), None, "still");
    stick(&demux, &[1]);
    assert!(matches!(demux.holder(5, STREAM_BACKLOG / 2), Some(1 | 2)));
    stick(&demux, &[0, 1, 2, 3, 4]);
    assert!(matches!(demux.holder(5, STREAM_BACKLOG / 2), Some(0..=2)), "the new one waits for the old ones");
    drop(streams);
}

#[tokio::test]
async fn a_stuck_stream_is_cut_off_and_the_others_go_on() {
    let mut demux = Demux::new(Some(Duration::from_millis(50)));
    let mut stuck = demux.open(1).unwrap();
    let mut other = demux.open(3).unwrap();
    let cut = stuck.cut();
    let delivered = async {
        demux.deliver(1, Bytes::from(vec![7; 4 * BACKLOG])).await;
        demux.deliver(3, Bytes::from_static(b"on")).await;
    };
    let ((), why) = tokio::join!(delivered, cut);
    assert_eq!(why, Cut::Stuck);
    assert_eq!(other.next().await, Received::Data(Bytes::from_static(b"on")));
    drop(stuck);
    assert_eq!(demux.room.available_permits(), BACKLOG, "its room is free again");
    // The client's own word is told the same way, before what is in the queue.
    let mut given_up = demux.open(5).unwrap();
    demux.deliver(5, Bytes::from_static(b"x")).await;
    demux.reset(5);
    assert_eq!(given_up.cut().await, Cut::ByClient);
}

#[tokio::test]
async fn without_others_or_without_patience_a_stuck_stream_is_waited_for() {
    for (patience, others) in [(Some(Duration::from_millis(20)), 0), (None, 1)] {
        let mut demux = Demux::new(patience);
        let mut stuck = demux.open(1).unwrap();
        let _others: Vec<_> = (0..others).map(|n| demux.open(10 + n).unwrap()).collect();
        let much = Bytes::from(vec![7; 2 * STREAM_BACKLOG]);
        let waited = tokio::time::timeout(Duration::from_millis(300), demux.deliver(1, much)).await;
        assert!(waited.is_err());
        assert!(stuck.cut().now_or_never().is_none());
    }
}

#[tokio::test]
async fn a_client_cannot_open_streams_without_end() {
    let mut demux = Demux::new(None);
    let mut open: Vec<_> = (0..4096).map(|n| demux.open(n).unwrap()).collect();
    assert!(demux.open(5000).is_none());
    open.truncate(100);
    assert!(demux.open(5000).is_some());
}

#[tokio::test]
async fn streams_that_the_client_has_ended_count_while_they_are_worked_for() {
    let mut demux = Demux::new(None);
    let (packets, _to_send) = mpsc::channel(1);
    let mut kept = Vec::new();
    for n in 0..4096 {
        let incoming = demux.open(n).unwrap();
        kept.push(Outgoing::of(n, packets.clone(), &incoming));
        demux.end(n);
    }
    assert!(demux.open(5000).is_none());
    kept.pop();
    assert!(demux.open(5000).is_some());
}

#[tokio::test]
async fn single_bytes_do_not_fill_the_memory() {
    let mut demux = Demux::new(None);
    let mut slow = demux.open(1).unwrap();
    let buffer = Bytes::from(vec![7; PIECE]);
    for _ in 0..STREAM_BACKLOG / (1 + OVERHEAD) {
        demux.deliver(1, buffer.slice(..1)).await;
    }
    assert!(demux.deliver(1, Bytes::from(vec![7; OVERHEAD])).now_or_never().is_none(), "over the bound");
    assert!(buffer.is_unique(), "what waits keeps the connection's buffer");
    assert!(matches!(slow.next().await, Received::Data(_)));
}
