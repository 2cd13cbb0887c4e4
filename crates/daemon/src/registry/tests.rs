mod trust;

use super::testserver::{Answer, Server};
use super::*;
use patience::Timing;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use strata_oci::document::OCI_MANIFEST;

const DOCUMENT: &str = r#"{"schemaVersion":2}"#;

fn client(config_path: &str) -> Client {
    let timing = Timing {
        // A server on a busy machine still answers in this time.
        stall: Duration::from_secs(2),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        ..Timing::default()
    };
    let config = config::Registry { config_path: config_path.into(), ..config::Registry::default() };
    let client = Client::new(&config).unwrap();
    Client { transport: Arc::new(Transport::new(timing)), ..client }
}

fn quick() -> Client {
    client("/nonexistent")
}

fn image(server: &Server) -> Reference {
    Reference::parse(&format!("{}/team/app:v1", server.address)).unwrap()
}

fn manifest() -> Answer {
    Answer::new(200).header("content-type", OCI_MANIFEST).body(DOCUMENT)
}

fn blob() -> &'static (Vec<u8>, Digest) {
    static BLOB: OnceLock<(Vec<u8>, Digest)> = OnceLock::new();
    BLOB.get_or_init(|| {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::sha256_of(&bytes);
        (bytes, digest)
    })
}

impl Client {
    async fn blob_bytes(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        auth: Option<&AuthConfig>,
    ) -> Result<Vec<u8>> {
        self.session(reference, auth).await?.blob_bytes(digest, size).await
    }
}

async fn read_blob(client: &Client, server: &Server) -> Result<Vec<u8>> {
    let (bytes, digest) = blob();
    client.blob_bytes(&image(server), digest, bytes.len() as u64, None).await
}

fn password(server: &str) -> AuthConfig {
    AuthConfig {
        username: "user".into(),
        password: "secret".into(),
        server_address: server.into(),
        ..AuthConfig::default()
    }
}

#[tokio::test]
async fn manifests_by_tag_and_digest() {
    let server = Server::start(|_, r| match r.path.as_str() {
        p if p.ends_with("/manifests/v1") => {
            manifest().header("Docker-Content-Digest", Digest::sha256_of(DOCUMENT.as_bytes()).as_str())
        }
        p if p.contains("/manifests/sha256:") => Answer::new(200)
            .header("content-type", "application/json; charset=utf-8")
            .body(format!(r#"{{"mediaType":"{OCI_MANIFEST}"}}"#)),
        _ => Answer::new(404),
    })
    .await;
    let (client, reference) = (quick(), image(&server));
    let by_tag = client.manifest(&reference, "v1", None).await.unwrap();
    assert_eq!((by_tag.media_type.as_str(), by_tag.bytes.as_slice()), (OCI_MANIFEST, DOCUMENT.as_bytes()));
    assert_eq!(by_tag.digest, Digest::sha256_of(DOCUMENT.as_bytes()));
    let digest = Digest::sha256_of(format!(r#"{{"mediaType":"{OCI_MANIFEST}"}}"#).as_bytes());
    let by_digest = client.manifest(&reference, digest.as_str(), None).await.unwrap();
    assert_eq!((by_digest.media_type.as_str(), &by_digest.digest), (OCI_MANIFEST, &digest));
    let request = &server.seen()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v2/team/app/manifests/v1"));
    for media_type in ACCEPTED {
        assert!(request.header("accept").unwrap().contains(media_type));
    }
    for bad in ["a/b", "..", "v 1", "sha256:zz", "x?y"] {
        assert_eq!(client.manifest(&reference, bad, None).await.unwrap_err().kind(), Kind::InvalidArgument);
    }
}

#[tokio::test]
async fn wrong_digests_are_refused() {
    let server = Server::start(|_, r| match r.path.contains("/manifests/v1") {
        true => manifest().header("Docker-Content-Digest", Digest::sha256_of(b"something else").as_str()),
        false => manifest(),
    })
    .await;
    for by in ["v1", Digest::sha256_of(b"x").as_str()] {
        let error = quick().manifest(&image(&server), by, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss);
        assert!(error.to_string().contains("team/app:v1") && error.to_string().contains("digest"), "{error}");
    }
    let (bytes, digest) = blob();
    let other = vec![0; bytes.len()];
    let server = Server::start(move |_, _| Answer::new(200).body(&other)).await;
    let error = quick().blob_bytes(&image(&server), digest, bytes.len() as u64, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown\u001b[2J"}]}"#;
    let server = Server::start(move |_, _| Answer::new(404).body(body)).await;
    let error = quick().manifest(&image(&server), "v1", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    for part in
        ["team/app:v1", "/v2/team/app/manifests/v1", "404", "MANIFEST_UNKNOWN: manifest unknown", "check"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert_eq!(read_blob(&quick(), &server).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn oversized_manifests_are_not_read() {
    let announced = Server::start(|_, _| manifest().length(MAX_SIZE + 1)).await;
    let error = quick().manifest(&image(&announced), "v1", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(error.to_string().contains("larger than"), "{error}");
    assert_eq!(announced.seen().len(), 1);
    let unannounced = Server::start(|_, _| manifest().body(vec![b' '; MAX_SIZE + 1]).unannounced()).await;
    let error = quick().manifest(&image(&unannounced), "v1", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    let exact = Server::start(|_, _| manifest().body(vec![b' '; MAX_SIZE]).unannounced()).await;
    assert_eq!(quick().manifest(&image(&exact), "v1", None).await.unwrap().bytes.len(), MAX_SIZE);
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let server = Server::start(|n, _| if n < 2 { manifest().length(1000) } else { manifest() }).await;
    assert!(quick().manifest(&image(&server), "v1", None).await.is_ok());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn busy_servers_are_waited_for() {
    let server = Server::start(|n, _| match n {
        0 => Answer::new(429).header("retry-after", "1"),
        1 => Answer::new(503),
        _ => manifest(),
    })
    .await;
    let start = Instant::now();
    quick().manifest(&image(&server), "v1", None).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let never = Server::start(|_, _| Answer::new(429).header("retry-after", "100000")).await;
    let error = quick().manifest(&image(&never), "v1", None).await.unwrap_err();
    assert_eq!((error.kind(), never.seen().len()), (Kind::Unavailable, 1));
    let always = Server::start(|_, _| Answer::new(502)).await;
    let error = quick().manifest(&image(&always), "v1", None).await.unwrap_err();
    assert_eq!((error.kind(), always.seen().len()), (Kind::Unavailable, 5));
}

#[tokio::test]
async fn broken_blobs_are_resumed() {
    let server = Server::start(|n, r| {
        let bytes = &blob().0;
        let answer = Answer::part(bytes, r.from());
        match n {
            0 => Answer::new(200).length(bytes.len()).body(&bytes[..70_000]),
            1 => Answer::part(bytes, r.from())
                .body(&bytes[r.from()..r.from() + 5])
                .length(bytes.len() - r.from()),
            2 => Answer::part(bytes, r.from())
                .body(&bytes[r.from()..100_000])
                .length(bytes.len() - r.from())
                .hang(),
            _ => answer,
        }
    })
    .await;
    assert!(read_blob(&quick(), &server).await.unwrap() == blob().0);
    let from: Vec<_> = server.seen().iter().map(super::testserver::Request::from).collect();
    assert_eq!(from.len(), 4);
    assert!(from[0] == 0 && from[1] <= 70_000 && from[1] > 0 && from[3] > from[1], "{from:?}");
}

#[tokio::test]
async fn without_ranges_it_starts_again() {
    // The first server ignores ranges; the second answers with another range than the one asked for.
    for wrong in [false, true] {
        let server = Server::start(move |n, r| {
            let bytes = &blob().0;
            match (n, wrong && r.from() > 0) {
                (0, _) => Answer::new(200).length(bytes.len()).body(&bytes[..90_000]),
                (_, true) => Answer::part(bytes, 7),
                (_, false) => Answer::part(bytes, 0),
            }
        })
        .await;
        assert!(read_blob(&quick(), &server).await.unwrap() == blob().0, "{wrong}");
        assert_eq!(server.seen().len(), if wrong { 3 } else { 2 });
    }
}

#[tokio::test]
async fn blobs_that_never_come_fail() {
    let server = Server::start(|_, r| {
        let bytes = &blob().0;
        Answer::part(bytes, r.from()).body(b"").length(bytes.len() - r.from())
    })
    .await;
    let error = read_blob(&quick(), &server).await.unwrap_err();
    assert_eq!((error.kind(), server.seen().len()), (Kind::Unavailable, 5));
    assert!(error.to_string().contains("team/app/blobs/sha256:"), "{error}");
}

#[tokio::test]
async fn blobs_of_another_size_are_refused() {
    let server = Server::start(|_, _| Answer::new(200).body(&blob().0[..1000])).await;
    let error = read_blob(&quick(), &server).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.to_string().contains("1000 bytes, but the manifest says 1200000"), "{error}");
    let server = Server::start(|_, _| Answer::new(200).body(&blob().0).unannounced()).await;
    let error = quick().blob_bytes(&image(&server), &blob().1, 10, None).await.unwrap_err();
    assert!(error.kind() == Kind::DataLoss && error.to_string().contains("more than"), "{error}");
    let empty = Digest::sha256_of(b"");
    let server = Server::start(|_, _| Answer::new(200)).await;
    assert_eq!(quick().blob_bytes(&image(&server), &empty, 0, None).await.unwrap(), b"");
}

#[tokio::test]
async fn bearer_tokens_are_fetched_once_and_renewed() {
    let server = Server::start(|n, r| {
        let token = if n < 5 { "one" } else { "two" };
        if r.path.starts_with("/token") {
            return Answer::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        if r.header("authorization") == Some(&format!("Bearer {token}")) {
            return if r.path.contains("/blobs/") { Answer::new(200).body(&blob().0) } else { manifest() };
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        Answer::new(401).header(
            "www-authenticate",
            format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#),
        )
    })
    .await;
    let (client, auth) = (quick(), password(&server.address.to_string()));
    let (reference, (bytes, digest)) = (image(&server), blob());
    client.manifest(&reference, "v1", Some(&auth)).await.unwrap();
    for _ in 0..3 {
        client.blob_bytes(&reference, digest, bytes.len() as u64, Some(&auth)).await.unwrap();
    }
    let seen = server.seen();
    let tokens: Vec<_> = seen.iter().filter(|r| r.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 2, "one at first, one when the first was refused");
    assert_eq!(tokens[0].path, "/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!(tokens[0].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    // Somebody else's pull does not get this token.
    let before = seen.len();
    client.manifest(&reference, "v1", None).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[before].header("authorization"), None);
    assert_eq!(seen[before + 1].header("authorization"), None);
}

#[tokio::test]
async fn basic_and_identity_tokens() {
    let server = Server::start(|_, r| match r.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => manifest(),
        _ => Answer::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let auth = password("");
    quick().manifest(&image(&server), "v1", Some(&auth)).await.unwrap();
    let error = quick().manifest(&image(&server), "v1", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(error.to_string().contains("pull secret"), "{error}");
    let wrong = AuthConfig { password: "wrong".into(), ..auth };
    let error = quick().manifest(&image(&server), "v1", Some(&wrong)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(!error.to_string().contains("wrong"), "{error}");
    let server = Server::start(|_, r| {
        if r.method == "POST" {
            assert!(r.body.contains("grant_type=refresh_token") && r.body.contains("refresh_token=id%26"));
            return Answer::new(200).body(r#"{"access_token":"t"}"#);
        }
        if r.header("authorization") == Some("Bearer t") {
            return manifest();
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        Answer::new(401).header("www-authenticate", format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let auth = AuthConfig { identity_token: "id&".into(), ..AuthConfig::default() };
    quick().manifest(&image(&server), "v1", Some(&auth)).await.unwrap();
}
