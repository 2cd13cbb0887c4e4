//! Lists: whole, or in pieces for those that may be larger than a gRPC message (KEP-5825).

use crate::error::{Error, Kind, Result};
use crate::server::MAX_MESSAGE;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message;
use tonic::Status;

/// How large a piece gets, in bytes: far below what gRPC clients take. One item alone may be larger.
const PIECE: usize = 1 << 20;

/// A list in pieces. It is a snapshot: what changes while the client reads is not in it.
pub(super) fn pieces<T, A>(
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> A + Send + 'static,
) -> BoxStream<'static, Result<A, Status>>
where
    T: Message + 'static,
    A: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let next = move || {
        let mut piece = vec![items.next()?];
        let mut size = piece.iter().map(Message::encoded_len).sum::<usize>();
        while let Some(item) = items.peek() {
            size += item.encoded_len();
            if size > PIECE {
                break;
            }
            piece.extend(items.next());
        }
        Some(Ok(wrap(piece)))
    };
    tokio_stream::iter(std::iter::from_fn(next)).boxed()
}

/// An answer that is a whole list.
///
/// # Errors
/// [`Kind::ResourceExhausted`] for one that no client takes, with the RPC that serves it in pieces.
pub(super) fn whole<A: Message>(answer: A, pieces: &str) -> Result<A> {
    let size = answer.encoded_len();
    if size <= MAX_MESSAGE {
        return Ok(answer);
    }
    let why = format!(
        "the list takes {size} bytes, a message at most {MAX_MESSAGE}: use {pieces}, or a filter that lets less through"
    );
    Err(Error::new(Kind::ResourceExhausted, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_api::cri;

    fn pod(id: usize, annotation: usize) -> cri::PodSandbox {
        let annotations = [("a".to_owned(), "x".repeat(annotation))].into();
        cri::PodSandbox { id: id.to_string(), annotations, ..Default::default() }
    }

    async fn all(items: Vec<cri::PodSandbox>) -> Vec<Vec<cri::PodSandbox>> {
        let mut stream = pieces(items, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes });
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            assert!(piece.encoded_len() < 2 * PIECE);
            all.push(piece.pod_sandboxes);
        }
        all
    }

    #[tokio::test]
    async fn pieces_are_small_and_nothing_is_lost() {
        assert!(all(vec![]).await.is_empty());
        assert_eq!(all(vec![pod(0, PIECE + 1)]).await.len(), 1);
        let items: Vec<_> = (0..100).map(|n| pod(n, 250_000)).collect();
        let found = all(items.clone()).await;
        assert_eq!((found.len(), found.concat()), (25, items));
    }

    #[test]
    fn a_list_that_is_too_long_says_what_helps() {
        let items = |n: usize| cri::ListPodSandboxResponse { items: vec![pod(0, 1 << 20); n] };
        assert!(whole(items(15), "StreamPodSandboxes").is_ok());
        let refused = whole(items(17), "StreamPodSandboxes").unwrap_err();
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        assert!(refused.to_string().contains("StreamPodSandboxes"), "{refused}");
    }
}
