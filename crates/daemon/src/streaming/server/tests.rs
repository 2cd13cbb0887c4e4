//! Clients that take a place and do not go on.

use super::*;
use std::future::pending;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_millis(50);

/// Serves one client, which acts and then keeps its end open for ever; the place has to be free again all the same.
async fn outlasts<F: Future<Output = ()> + Send>(
    tls: Option<tls::Acceptor>,
    act: impl FnOnce(TcpStream) -> F + Send,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let places = Arc::new(Semaphore::new(1));
    let place = Arc::clone(&places).acquire_owned().await.unwrap();
    // More than the kernel takes for a client that does not.
    let long = |_| Response::new("x".repeat(64 << 20));
    let served = async {
        tokio::join!(serve(stream, tls, place, SOON, long), async {
            assert!(places.acquire().await.is_ok());
        });
    };
    let ended = tokio::select! {
        () = act(client) => unreachable!("a client stays"),
        ended = tokio::time::timeout(Duration::from_secs(60), served) => ended,
    };
    ended.expect("its place is never given up");
}

/// Has no certificate: no client comes so far.
#[derive(Debug)]
struct Without;

impl rustls::server::ResolvesServerCert for Without {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

fn encrypted() -> tls::Acceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Without));
    tls::Acceptor(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

/// Sends a head that has no end, a byte at a time.
async fn dribble(mut client: TcpStream, head: &[u8]) {
    client.write_all(head).await.unwrap();
    // The server closes it in the end.
    while client.write_all(b"x").await.is_ok() {
        tokio::time::sleep(SOON / 10).await;
    }
    pending::<()>().await;
}

#[tokio::test]
async fn who_says_nothing_loses_the_place() {
    for tls in [None, Some(encrypted())] {
        outlasts(tls, |client| async move {
            let _client = client;
            pending::<()>().await;
        })
        .await;
    }
}

#[tokio::test]
async fn who_never_ends_the_head_loses_the_place() {
    outlasts(None, |client| dribble(client, b"GET /exec/token HTTP/1.1\r\nHost: ")).await;
    // The header of a TLS record that is longer than what comes.
    outlasts(Some(encrypted()), |client| dribble(client, b"\x16\x03\x01\x40\x00")).await;
}

#[tokio::test]
async fn who_does_not_take_the_answer_loses_the_place() {
    outlasts(None, |mut client| async move {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 9];
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 ");
        let _client = client;
        pending::<()>().await;
    })
    .await;
}
