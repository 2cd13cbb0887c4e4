use super::*;
use crate::error::Kind;

fn parsed(text: &str) -> Vec<Endpoint> {
    file::parse(Path::new("/c/r/hosts.toml"), text, "example.org").unwrap()
}

fn bases(text: &str) -> Vec<String> {
    parsed(text).iter().map(|e| e.base.to_string()).collect()
}

fn refusal(text: &str) -> String {
    let error = file::parse(Path::new("/c/r/hosts.toml"), text, "example.org").unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    error.to_string()
}

const CERT: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

/// A registry's directory with these files, and its hosts.toml.
fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for local in ["localhost", "localhost:5000", "127.0.0.1", "127.8.7.6:80", "[::1]:5000", "[::1]"] {
        assert_eq!(own(local).unwrap().base.scheme(), "http", "{local}");
    }
    for far in [
        "10.0.0.1:5000",
        "example.org",
        "localhost.example.org",
        "127.0.0.1.nip.io",
        "[::2]",
        "128.0.0.1",
        "localhost:443",
    ] {
        assert_eq!(own(far).unwrap().base.scheme(), "https", "{far}");
    }
    assert_eq!(own("docker.io").unwrap().base.as_str(), "https://registry-1.docker.io/v2");
    let six = own("[::1]:5000").unwrap();
    assert_eq!(six.url("x/manifests/1").unwrap().as_str(), "http://[::1]:5000/v2/x/manifests/1");
    assert_eq!(six.authority(), "[::1]:5000");
}

#[test]
fn mirrors_keep_the_order_of_the_file() {
    let text = r#"
        server = "https://up.example.org"
        [host."https://z.example.org"]
        capabilities = ["pull"]
        [host."http://a.example.org:8080/cache/"]
        [host."m.example.org/exact/"]
        override_path = true
    "#;
    assert_eq!(
        bases(text),
        [
            "https://z.example.org/v2",
            "http://a.example.org:8080/cache/v2",
            "https://m.example.org/exact",
            "https://up.example.org/v2"
        ]
    );
    let endpoints = parsed(text);
    assert!(endpoints[0].serves(Want::Content) && !endpoints[0].serves(Want::Tag));
    assert!(endpoints[1].serves(Want::Tag) && !endpoints[1].serves(Want::Push));
    assert!(endpoints[3].serves(Want::Push));
    assert_eq!(
        endpoints[2].url("a/b/blobs/x").unwrap().as_str(),
        "https://m.example.org/exact/a/b/blobs/x?ns=example.org"
    );
    assert_eq!(endpoints[3].url("x").unwrap().as_str(), "https://up.example.org/v2/x");
    assert_eq!(bases(""), ["https://example.org/v2"]);
    assert_eq!(bases("server = \"up.example.org:5000\"")[0], "https://up.example.org:5000/v2");
    assert!(parsed("[host.\"https://a\"]\ncapabilities = [\"push\"]")[0].serves(Want::Push));
}

#[test]
fn what_makes_no_sense_is_named() {
    let unknown = refusal("[host.\"https://a\"]\nskip_verfy = true\n");
    assert!(unknown.contains("/c/r/hosts.toml, line 2") && unknown.contains("skip_verfy"), "{unknown}");
    assert!(refusal("servr = \"x\"").contains("servr"));
    assert!(refusal("server = \"ftp://example.org\"").contains("must start with"));
    let secret = refusal("server = \"https://u:hidden@example.org\"");
    assert!(secret.contains("user name") && !secret.contains("hidden"), "{secret}");
    assert!(refusal("ca = \"no-such.pem\"").contains("no-such.pem"));
    assert!(refusal("client = [[\"a\", \"b\", \"c\"]]").contains("pairs"));
    assert!(refusal("capabilities = [\"pul\"]").contains("pul"));
    assert!(refusal("dial_timeout = \"soon\"").contains("dial_timeout"));
    let header = refusal("[header]\nauthorization = \"hidden\\n\"");
    assert!(header.contains("authorization") && !header.contains("hidden"), "{header}");
    assert!(!refusal("[header]\nx = \"hidden\"\ny = 3").contains("hidden"));
}

#[test]
fn headers_and_times() {
    let text = "dial_timeout = \"1m2.5s\"\n[header]\nX-One = \"hidden\"\nx-many = [\"a\", \"b\"]\n";
    let endpoint = parsed(text).remove(0);
    assert_eq!(endpoint.link.dial_timeout, Some(Duration::from_millis(62_500)));
    assert_eq!(endpoint.headers.get("x-one").unwrap(), "hidden");
    assert_eq!(endpoint.headers.get_all("x-many").iter().count(), 2);
    assert!(!format!("{endpoint:?}").contains("hidden"));
}

#[test]
fn certificates_are_files_lists_and_directories() {
    let files = [("a.pem", CERT), ("more/b.crt", CERT), ("more/c.pem", CERT), ("more/readme", "x")];
    let keys = [
        ("both.pem", &*format!("{CERT}{KEY}")),
        ("k.pem", KEY),
        ("e.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----"),
    ];
    let dir = dir(&[&files[..], &keys[..]].concat());
    let link = |text: &str| {
        let path = dir.path().join("hosts.toml");
        file::parse(&path, text, "example.org").map(|mut all| all.remove(0).link)
    };
    assert_eq!(link("ca = \"a.pem\"").unwrap().ca.len(), 1);
    assert_eq!(link("ca = [\"a.pem\", \"more\"]").unwrap().ca.len(), 3);
    assert!(link("ca = \"k.pem\"").unwrap_err().to_string().contains("no certificate"));
    for client in ["\"both.pem\"", "[\"both.pem\"]", "[[\"a.pem\", \"k.pem\"]]", "[[\"both.pem\", \"\"]]"] {
        let identity = link(&format!("client = {client}")).unwrap().identity.unwrap();
        assert!(String::from_utf8(identity.0.clone()).unwrap().contains("PRIVATE KEY"), "{client}");
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }
    for (client, why) in [
        ("\"a.pem\"", "no private key"),
        ("\"k.pem\"", "no certificate"),
        ("[[\"a.pem\", \"e.pem\"]]", "encrypted"),
        ("[\"both.pem\", \"both.pem\"]", "only one"),
        ("\"gone.pem\"", "gone.pem"),
    ] {
        let error = link(&format!("client = {client}")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("hosts.toml"), "{error}");
    }
}

#[tokio::test]
async fn the_directory_is_read_for_each_pull() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(endpoints(dir.path(), "example.org").await.unwrap().len(), 1);
    std::fs::create_dir(dir.path().join("example.org")).unwrap();
    let file = dir.path().join("example.org/hosts.toml");
    std::fs::write(&file, "[host.\"http://10.0.0.1\"]\nskip_verify = true\n").unwrap();
    let found = endpoints(dir.path(), "example.org").await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0].is_plain() && found[0].link.skip_verify);
    assert!(!found[1].is_plain() && found[1].mirror_of.is_none());
}

#[tokio::test]
async fn directories_are_found_as_containerd_finds_them() {
    let server = |name: &str| format!("server = \"https://{name}.example\"\n");
    let dir = dir(&[("h:5000/hosts.toml", &server("colon")), ("_default/hosts.toml", &server("default"))]);
    let base = async |registry: &str| {
        let found = endpoints(dir.path(), registry).await.unwrap();
        found.last().unwrap().base.host_str().unwrap().to_owned()
    };
    assert_eq!(base("h:5000").await, "colon.example");
    assert_eq!(base("other").await, "default.example");
    std::fs::create_dir(dir.path().join("h_5000_")).unwrap();
    std::fs::write(dir.path().join("h_5000_/hosts.toml"), server("underscore")).unwrap();
    assert_eq!(base("h:5000").await, "underscore.example");
    std::fs::create_dir(dir.path().join("[::1]_5000_")).unwrap();
    std::fs::write(dir.path().join("[::1]_5000_/hosts.toml"), server("six")).unwrap();
    assert_eq!(base("[::1]:5000").await, "six.example");
    // A mirror for everybody: it is told whose image is wanted.
    std::fs::write(dir.path().join("_default/hosts.toml"), "[host.\"https://mirror.example\"]\n").unwrap();
    let found = endpoints(dir.path(), "quay.example:1").await.unwrap();
    assert!(found[0].url("x").unwrap().as_str().ends_with("/v2/x?ns=quay.example%3A1"));
    assert_eq!(found[1].base.as_str(), "https://quay.example:1/v2");
}

#[tokio::test]
async fn certificates_without_a_file_are_dockers() {
    let dir = dir(&[
        ("localhost:5000/ca.crt", CERT),
        ("localhost:5000/me.cert", CERT),
        ("localhost:5000/me.key", KEY),
    ]);
    let found = endpoints(dir.path(), "localhost:5000").await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(!found[0].is_plain() && found[0].link.ca.len() == 1 && found[0].link.identity.is_some());
    std::fs::remove_file(dir.path().join("localhost:5000/me.cert")).unwrap();
    let error = endpoints(dir.path(), "localhost:5000").await.unwrap_err().to_string();
    assert!(error.contains("me.key") && error.contains("me.cert"), "{error}");
}

/// Nothing in a registry's directory keeps a pull waiting, or fills the memory.
#[test]
fn what_is_no_small_file_is_named() {
    type Make = fn(&Path);
    let others: [(&str, Make); 3] = [
        ("no regular file", |path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
        }),
        ("no regular file", |path| std::fs::create_dir(path).unwrap()),
        ("longer than", |path| std::fs::File::create(path).unwrap().set_len(100 << 20).unwrap()),
    ];
    // What is spoiled, and the hosts.toml that names it.
    for (name, hosts) in [
        ("hosts.toml", ""),
        ("ca.crt", ""),
        ("me.cert", ""),
        ("me.key", ""),
        ("named.pem", "client = \"named.pem\""),
        ("named.pem", "client = [[\"me.cert\", \"named.pem\"]]"),
        ("more/ca.crt", "ca = \"more\""),
    ] {
        for (why, make) in others {
            let dir = dir(&[("r:1/me.cert", CERT), ("r:1/me.key", KEY), ("r:1/more/good.crt", CERT)]);
            let (root, path) = (dir.path().to_owned(), dir.path().join("r:1").join(name));
            if !hosts.is_empty() {
                std::fs::write(root.join("r:1/hosts.toml"), hosts).unwrap();
            }
            let _ = std::fs::remove_file(&path);
            make(&path);
            // A thread of its own, which may wait for ever.
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || tell.send(read(&root, "r:1")));
            let read = told.recv_timeout(Duration::from_secs(60));
            let error = read.unwrap_or_else(|_| panic!("{name}: it is waited for")).unwrap_err();
            assert_eq!(error.kind(), Kind::FailedPrecondition, "{name}");
            let text = error.to_string();
            assert!(text.contains(why) && text.contains(&*path.to_string_lossy()), "{name}: {text}");
        }
    }
}
