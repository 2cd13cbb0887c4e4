use super::*;
use proptest::prelude::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn full(text: &str) -> String {
    Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
}

#[test]
fn defaults_are_filled_in() {
    for (text, whole, familiar) in [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("[::1]:5000/a/b:x", "[::1]:5000/a/b:x", "[::1]:5000/a/b:x"),
        ("[2001:db8::1]/a", "[2001:db8::1]/a:latest", "[2001:db8::1]/a:latest"),
        ("127.0.0.1/a", "127.0.0.1/a:latest", "127.0.0.1/a:latest"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("gcr.io/a__b/c-d--e.f_g", "gcr.io/a__b/c-d--e.f_g:latest", "gcr.io/a__b/c-d--e.f_g:latest"),
    ] {
        assert_eq!(full(text), whole, "{text}");
        assert_eq!(Reference::parse(text).unwrap().familiar(), familiar, "{text}");
    }
    assert_eq!(full(&format!("busybox@{SHA}")), format!("docker.io/library/busybox@{SHA}"));
    let both = Reference::parse(&format!("a.b:1/c:t@{SHA}")).unwrap();
    assert_eq!((both.registry(), both.repository(), both.tag()), ("a.b:1", "c", Some("t")));
    assert_eq!(both.digest().unwrap().as_str(), SHA);
    assert_eq!(both.to_string(), format!("a.b:1/c:t@{SHA}"));
}

#[test]
fn a_path_like_a_host_keeps_its_registry() {
    for text in ["docker.io/localhost/a", "docker.io/a.b/c"] {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
    }
}

#[test]
fn what_the_grammar_refuses() {
    for text in [
        ":tag",
        "a:",
        "a:-x",
        "a:.x",
        "a@",
        "a@sha256:12",
        "/a",
        "a/",
        "a//b",
        "a..b",
        "a._b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "a b",
        "a/b@c",
        "a.b:port/c",
        "a.b:99999/c",
        "a.b:/c",
        "-a.b/c",
        "a-.b/c",
        "[::1/a",
        "[::g]/a",
        "[::1]x/a",
        "[fe80::1%eth0]/a",
        "é",
        "a:é",
        "x.y/..",
        "https://a.b/c",
        "a@b@c",
        "[[::1]]/a",
    ] {
        assert!(Reference::parse(text).is_err(), "{text} was taken for {:?}", Reference::parse(text));
    }
    assert_eq!(Reference::parse(""), Err(ReferenceError::Empty));
    let message = Reference::parse("user/App").unwrap_err().to_string();
    assert_eq!(message, "invalid reference format: repository name (user/App) must be lowercase");
    assert!(matches!(Reference::parse(&SHA[7..]), Err(ReferenceError::LooksLikeId(_))));
}

#[test]
fn lengths_are_bounded() {
    assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
    assert!(matches!(Reference::parse(&format!("a:{}", "t".repeat(129))), Err(ReferenceError::Tag(_))));
    assert!(Reference::parse(&format!("a.b/{}", "x".repeat(255))).is_ok());
    assert_eq!(Reference::parse(&format!("a.b/{}", "x".repeat(256))), Err(ReferenceError::PathTooLong));
    assert_eq!(Reference::parse(&"x".repeat(250)), Err(ReferenceError::PathTooLong), "library/ counts");
    assert_eq!(Reference::parse(&"x".repeat(1 << 20)), Err(ReferenceError::TooLong));
}

proptest! {
    #[test]
    fn round_trip(
        host in prop_oneof![
            Just("docker.io/".to_owned()),
            "[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\\.[a-zA-Z0-9]{1,5}){1,2}(:[0-9]{1,4})?/",
            Just("localhost:5000/".to_owned()),
            Just("[::1]:80/".to_owned()),
        ],
        path in "[a-z0-9]{1,5}(((\\.|_|__|-{1,3})[a-z0-9]{1,5})|(/[a-z0-9]{1,5})){0,3}",
        tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        content in proptest::option::of(any::<[u8; 4]>()),
    ) {
        let mut text = format!("{host}{path}");
        if let Some(tag) = &tag { text = format!("{text}:{tag}"); }
        if let Some(content) = content { text = format!("{text}@{}", Digest::sha256_of(&content)); }
        let reference = Reference::parse(&text).unwrap();
        prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
        prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
        let json = serde_json::to_string(&reference).unwrap();
        prop_assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), reference);
    }

    #[test]
    fn never_panics(text in "[a-zA-Z0-9:/@.\\[\\]_é-]{0,80}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
