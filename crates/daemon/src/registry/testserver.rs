//! A registry on loopback that answers, and misbehaves, as a test says. Hand-written bytes: a server library would not
//! let a test break off in the middle of a body or lie about lengths.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first byte that is wanted.
    pub(super) fn from(&self) -> usize {
        let range = self.header("range").and_then(|r| r.strip_prefix("bytes="));
        range.and_then(|r| r.trim_end_matches('-').parse().ok()).unwrap_or(0)
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<usize>,
    hang: bool,
    unannounced: bool,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(super) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub(super) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Says another length than the body's, and closes after the body.
    pub(super) fn length(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    /// Says nothing more after the body, and keeps the connection.
    pub(super) fn hang(mut self) -> Self {
        self.hang = true;
        self
    }

    /// Says no length: the body ends with the connection.
    pub(super) fn unannounced(mut self) -> Self {
        self.unannounced = true;
        self
    }

    /// The part of a blob from an offset, as a range or as a whole.
    pub(super) fn part(blob: &[u8], from: usize) -> Self {
        if from == 0 {
            return Self::new(200).body(blob);
        }
        let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
        Self::new(206).header("content-range", range).body(&blob[from..])
    }
}

type Handler = dyn Fn(usize, &Request) -> Answer + Send + Sync;

/// A running server; it ends with the test's runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `handler` gets the number of the request, from 0, and the request.
    pub(super) async fn start(handler: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&handler), Arc::clone(&log)));
            }
        });
        Self { address, seen }
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, handler: Arc<Handler>, seen: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let answer = handler(number, &request);
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !answer.unannounced {
            let length = answer.length.unwrap_or(answer.body.len());
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        let written = [head.as_bytes(), &answer.body].concat();
        if stream.write_all(&written).await.is_err() {
            return;
        }
        if answer.hang {
            std::future::pending::<()>().await;
        }
        if answer.length.is_some() || answer.unannounced {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut request = Request::default();
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ');
    request.method = words.next()?.to_owned();
    request.path = words.next()?.to_owned();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        request.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Some(request)
}
