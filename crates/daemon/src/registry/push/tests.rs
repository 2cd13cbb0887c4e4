use super::*;
use crate::config;
use crate::registry::patience::Timing;
use crate::registry::testserver::{Answer, Request, Server};
use crate::registry::{Client, Transport};
use std::time::Duration;
use strata_api::cri::AuthConfig;
use strata_oci::Reference;
use strata_oci::document::OCI_MANIFEST;

const BYTES: &str = "the bytes of a layer";

async fn session(server: &Server, auth: Option<&AuthConfig>) -> Session {
    let timing = Timing {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        ..Timing::default()
    };
    let config = config::Registry { config_path: "/nonexistent".into(), ..config::Registry::default() };
    let client = Client { transport: Arc::new(Transport::new(timing)), ..Client::new(&config).unwrap() };
    let reference = Reference::parse(&format!("{}/team/app:v1", server.address)).unwrap();
    client.session(&reference, auth).await.unwrap()
}

fn blob(bytes: &str) -> (tempfile::NamedTempFile, Descriptor) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let digest = Digest::sha256_of(bytes.as_bytes());
    (file, Descriptor { media_type: String::new(), digest, size: bytes.len() as u64 })
}

async fn send(session: &Session, blob: &Descriptor, file: &Path) -> Result<u64> {
    let sent = Arc::default();
    session.upload(None, blob, file, &sent).await.map(|()| sent.load(Ordering::Relaxed))
}

fn begin(r: &Request) -> Option<Answer> {
    (r.method == "POST").then(|| Answer::new(202).header("location", "/v2/team/app/blobs/uploads/1?_state=x"))
}

#[tokio::test]
async fn blobs_then_the_manifest() {
    let server = Server::start(|_, r| match (r.method.as_str(), r.path.contains("/manifests/")) {
        ("HEAD", _) => Answer::new(404),
        ("PUT", true) => Answer::new(201),
        _ => begin(r).unwrap_or_else(|| Answer::new(201)),
    })
    .await;
    let session = session(&server, None).await;
    let (file, blob) = blob(BYTES);
    assert!(!session.has(&blob.digest).await.unwrap());
    assert_eq!(send(&session, &blob, file.path()).await.unwrap(), blob.size);
    let manifest = Descriptor { media_type: OCI_MANIFEST.into(), ..blob.clone() };
    session.put_manifest(&manifest, BYTES.as_bytes()).await.unwrap();
    let seen = server.seen();
    let put = &seen[2];
    assert_eq!(
        put.path,
        format!("/v2/team/app/blobs/uploads/1?_state=x&digest=sha256%3A{}", blob.digest.hex())
    );
    assert_eq!((put.body.as_str(), put.header("content-length")), (BYTES, Some("20")));
    assert_eq!(put.header("transfer-encoding"), None);
    let put = &seen[3];
    assert_eq!(
        (put.path.as_str(), put.header("content-type")),
        ("/v2/team/app/manifests/v1", Some(OCI_MANIFEST))
    );
    assert_eq!(put.body, BYTES);
}

#[tokio::test]
async fn a_blob_may_come_from_another_repository() {
    let server =
        Server::start(
            |n, r| if n == 0 { Answer::new(201) } else { begin(r).unwrap_or_else(|| Answer::new(404)) },
        )
        .await;
    let session = session(&server, None).await;
    let (_file, blob) = blob(BYTES);
    let mount = Some((&blob.digest, "other/app"));
    assert!(matches!(session.start(mount).await.unwrap(), Start::Mounted));
    assert!(
        server.seen()[0]
            .path
            .ends_with(&format!("/uploads/?mount=sha256%3A{}&from=other%2Fapp", blob.digest.hex()))
    );
    assert!(matches!(session.start(mount).await.unwrap(), Start::Upload(_)));
}

#[tokio::test]
async fn an_upload_that_breaks_off_begins_anew() {
    // A registry keeps what came of an upload: sent there again, the bytes would follow themselves.
    let server = Server::start(|n, r| match begin(r) {
        Some(answer) => answer,
        None if n == 1 => Answer::new(503),
        None => Answer::new(201),
    })
    .await;
    let (file, blob) = blob(BYTES);
    send(&session(&server, None).await, &blob, file.path()).await.unwrap();
    let methods: Vec<_> = server.seen().into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "PUT", "POST", "PUT"]);
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let storage = Server::start(|_, _| Answer::new(201)).await;
    let elsewhere = format!("http://{}/upload", storage.address);
    let server = Server::start(move |_, r| match r.header("authorization") {
        None => Answer::new(401).header("www-authenticate", "Basic realm=\"x\""),
        Some(_) => Answer::new(202).header("location", &elsewhere),
    })
    .await;
    let auth = AuthConfig { username: "user".into(), password: "secret".into(), ..AuthConfig::default() };
    let (file, blob) = blob(BYTES);
    send(&session(&server, Some(&auth)).await, &blob, file.path()).await.unwrap();
    assert!(server.seen().iter().any(|r| r.header("authorization").is_some()));
    let there = &storage.seen()[0];
    assert_eq!((there.body.as_str(), there.header("authorization")), (BYTES, None));
}

#[tokio::test]
async fn tokens_allow_to_look_to_push_and_to_mount() {
    let server = Server::start(|_, r| {
        if r.path.starts_with("/token") {
            return Answer::new(200).body(r#"{"token":"t","expires_in":300}"#);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",scope=\"repository:team/app:pull\"",
            r.header("host").unwrap()
        );
        match r.header("authorization") {
            None => Answer::new(401).header("www-authenticate", realm),
            Some(_) => begin(r).unwrap_or_else(|| Answer::new(404)),
        }
    })
    .await;
    let session = session(&server, None).await;
    let (_file, blob) = blob(BYTES);
    session.has(&blob.digest).await.unwrap();
    session.start(None).await.unwrap();
    session.start(Some((&blob.digest, "other/app"))).await.unwrap();
    let asked: Vec<String> =
        server.seen().into_iter().map(|r| r.path).filter(|p| p.starts_with("/token")).collect();
    assert_eq!(asked.len(), 2, "one to look and to push, another to mount: {asked:?}");
    assert!(asked[0].contains("team%2Fapp%3Apull%2Cpush"), "{asked:?}");
    assert!(asked[1].contains("other%2Fapp%3Apull"), "{asked:?}");
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let server = Server::start(move |_, _| Answer::new(403).body(denied)).await;
    let (file, blob) = blob(BYTES);
    let error = send(&session(&server, None).await, &blob, file.path()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(error.to_string().contains("DENIED"), "{error}");
    // A damaged blob is found before the registry has all of it, and is not sent again and again.
    let server = Server::start(|_, r| begin(r).unwrap_or_else(|| Answer::new(201))).await;
    for other in ["the bytes of a LAYER", "the bytes", "the bytes of a layer and more"] {
        std::fs::write(file.path(), other).unwrap();
        let error = send(&session(&server, None).await, &blob, file.path()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{error}");
        assert!(error.to_string().contains("fsck"), "{error}");
    }
    assert_eq!(server.seen().iter().filter(|r| r.method == "POST").count(), 3);
    let server = Server::start(|_, _| {
        Answer::new(201).header("docker-content-digest", Digest::sha256_of(b"x").as_str())
    })
    .await;
    let manifest = Descriptor { media_type: OCI_MANIFEST.into(), ..blob };
    let error = session(&server, None).await.put_manifest(&manifest, b"{}").await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    let server = Server::start(|_, _| Answer::new(202)).await;
    let error = session(&server, None).await.start(None).await.unwrap_err();
    assert!(error.to_string().contains("where to send"), "{error}");
}
