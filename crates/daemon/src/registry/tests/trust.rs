//! Who is believed, and who is shown what: redirects, mirrors, plain HTTP.

use super::*;

#[tokio::test]
async fn redirects_lose_the_credentials() {
    let storage = Server::start(|_, r| Answer::part(&blob().0, r.from())).await;
    let target = format!("http://{}/signed?secret=1", storage.address);
    let server = Server::start(move |_, r| match r.header("authorization") {
        Some(_) => Answer::new(307).header("location", &target),
        None => Answer::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let (bytes, digest) = blob();
    let auth = password("");
    quick().blob_bytes(&image(&server), digest, bytes.len() as u64, Some(&auth)).await.unwrap();
    assert_eq!(storage.seen().len(), 1);
    assert_eq!(storage.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn headers_and_challenges_are_the_endpoints_own() {
    // The storage that the registry leads to asks for a password itself, which is not its business.
    let storage = Server::start(|_, _| {
        Answer::new(401).header("www-authenticate", "Bearer realm=\"https://192.0.2.1/token\"")
    })
    .await;
    let target = format!("http://{}/signed?signature=hidden", storage.address);
    let server = Server::start(move |_, _| Answer::new(307).header("location", &target)).await;
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("registry.example.org");
    std::fs::create_dir(&of).unwrap();
    let hosts = format!("server = \"http://{}\"\n[header]\nx-key = \"hidden\"\n", server.address);
    std::fs::write(of.join("hosts.toml"), hosts).unwrap();
    let client = client(dir.path().to_str().unwrap());
    let reference = Reference::parse("registry.example.org/team/app:v1").unwrap();
    let error = client.manifest(&reference, "v1", Some(&password("registry.example.org"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert!(!error.to_string().contains("hidden"), "{error}");
    assert_eq!((server.seen().len(), storage.seen().len()), (1, 1), "nobody is authorised");
    assert_eq!(server.seen()[0].header("x-key"), Some("hidden"));
    assert_eq!(storage.seen()[0].header("x-key"), None);
}

#[tokio::test]
async fn mirrors_get_what_is_kept_for_them() {
    let wants = |authorization: &'static str| {
        Server::start(move |_, r| match r.header("authorization") {
            Some(found) if found == authorization => manifest(),
            Some(_) => Answer::new(403),
            None => Answer::new(401).header("www-authenticate", "Basic realm=\"x\""),
        })
    };
    // mirror:m and registry:r
    let (mirror, origin) = (wants("Basic bWlycm9yOm0=").await, wants("Basic cmVnaXN0cnk6cg==").await);
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("registry.example.org");
    std::fs::create_dir(&of).unwrap();
    let hosts = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.address, mirror.address);
    std::fs::write(of.join("hosts.toml"), hosts).unwrap();
    let auth = |user: &str, password: &str| config::Auth {
        username: user.into(),
        password: password.into(),
        ..config::Auth::default()
    };
    let mut config = config::Registry {
        config_path: dir.path().into(),
        auth: [("registry.example.org/team".to_owned(), auth("registry", "r"))].into(),
        ..config::Registry::default()
    };
    let reference = Reference::parse("registry.example.org/team/app:v1").unwrap();
    Client::new(&config).unwrap().manifest(&reference, "v1", None).await.unwrap();
    assert_eq!((mirror.seen().len(), origin.seen().len()), (1, 2), "the mirror is shown nothing");
    config.auth.insert(mirror.address.to_string(), auth("mirror", "m"));
    Client::new(&config).unwrap().manifest(&reference, "v1", None).await.unwrap();
    assert_eq!((mirror.seen().len(), origin.seen().len()), (3, 2));
    // What comes with the pull is for the registry, and wins there over what is kept.
    let brought = AuthConfig { username: "else".into(), password: "e".into(), ..AuthConfig::default() };
    config.auth.clear();
    let error = Client::new(&config).unwrap().manifest(&reference, "v1", Some(&brought)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    assert_eq!(mirror.seen().last().unwrap().header("authorization"), None);
}

#[tokio::test]
async fn a_mirror_with_wrong_bytes_is_passed_over() {
    let mirror = Server::start(|_, _| Answer::new(200).body(vec![0; blob().0.len()])).await;
    let origin = Server::start(|_, r| Answer::part(&blob().0, r.from())).await;
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("_default");
    std::fs::create_dir(&of).unwrap();
    let hosts = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.address, mirror.address);
    std::fs::write(of.join("hosts.toml"), hosts).unwrap();
    let client = client(dir.path().to_str().unwrap());
    let reference = Reference::parse("registry.example.org/team/app:v1").unwrap();
    let (bytes, digest) = blob();
    let got = client.blob_bytes(&reference, digest, bytes.len() as u64, None).await.unwrap();
    assert!(&got == bytes && mirror.seen().len() == 1);
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_mirror_that_fails_is_told_and_one_that_lacks_something_is_not() {
    let refusing = Server::start(|_, _| Answer::new(403)).await;
    let empty = Server::start(|_, _| Answer::new(404)).await;
    let origin = Server::start(|_, r| match r.path.contains("/blobs/") {
        true => Answer::part(&blob().0, r.from()),
        false => manifest(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("_default");
    std::fs::create_dir(&of).unwrap();
    let [a, b] = [refusing.address, empty.address].map(|at| format!("[host.\"http://{at}\"]\n"));
    std::fs::write(of.join("hosts.toml"), format!("server = \"http://{}\"\n{a}{b}", origin.address)).unwrap();
    let client = client(dir.path().to_str().unwrap());
    let reference = Reference::parse("registry.example.org/team/app:v1").unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let told = {
        let _guard = tracing::subscriber::set_default(subscriber);
        client.manifest(&reference, "v1", None).await.unwrap();
        let (bytes, digest) = blob();
        client.blob_bytes(&reference, digest, bytes.len() as u64, None).await.unwrap();
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    };
    let lines: Vec<_> = told.lines().filter(|line| line.contains("a mirror was passed over")).collect();
    assert_eq!(lines.len(), 2, "the manifest and the blob: {told}");
    assert!(lines.iter().all(|line| line.contains("403") && line.contains(&refusing.address.to_string())));
}

#[tokio::test]
async fn plain_http_elsewhere_is_refused() {
    let server =
        Server::start(|_, _| Answer::new(307).header("location", "http://192.0.2.1/blob?secret=1")).await;
    let error = quick().manifest(&image(&server), "v1", None).await.unwrap_err();
    assert!(error.to_string().contains("plain HTTP on 192.0.2.1 is refused"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(server.seen().len(), 1);
    // A token server elsewhere must not get the password in the clear.
    let server = Server::start(|_, _| {
        Answer::new(401).header("www-authenticate", "Bearer realm=\"http://192.0.2.1/token\"")
    })
    .await;
    let error = quick().manifest(&image(&server), "v1", Some(&password(""))).await.unwrap_err();
    assert!(error.to_string().contains("in the clear"), "{error}");
}

#[tokio::test]
async fn mirrors_come_first_without_credentials() {
    let mirror = Server::start(|_, r| match r.path.contains("/blobs/") {
        true => Answer::new(200).length(blob().0.len()).body(&blob().0[..1000]),
        false => Answer::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let origin = Server::start(|_, r| match r.path.contains("/blobs/") {
        true => Answer::part(&blob().0, r.from()),
        false if r.path.contains("absent") => Answer::new(404),
        false => manifest(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("registry.example.org");
    std::fs::create_dir(&of).unwrap();
    let hosts = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", origin.address, mirror.address);
    std::fs::write(of.join("hosts.toml"), hosts).unwrap();
    let client = client(dir.path().to_str().unwrap());
    let reference = Reference::parse("registry.example.org/team/app:v1").unwrap();
    let auth = password("registry.example.org");
    client.manifest(&reference, "v1", Some(&auth)).await.unwrap();
    let (bytes, digest) = blob();
    let got = client.blob_bytes(&reference, digest, bytes.len() as u64, Some(&auth)).await.unwrap();
    assert!(&got == bytes);
    assert!(mirror.seen()[0].path.ends_with("?ns=registry.example.org"));
    let error = client.manifest(&Reference::parse("registry.example.org/x").unwrap(), "absent", None).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "the registry's own answer counts");
    assert!(
        error.to_string().contains("mirrors failed before") && error.to_string().contains("401"),
        "{error}"
    );
    assert!(mirror.seen().iter().all(|r| r.header("authorization").is_none()));
    assert!(origin.seen().iter().any(|r| r.from() > 0), "the origin goes on where the mirror broke");
}
