//! Pulls from registries that want TLS, client certificates, passwords and tokens.

use crate::registry::remove;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_cri::v1 as cri;
use serde_json::{Value, json};
use strata_e2e::faults::{Fault, Proxy};
use strata_e2e::node::{Node, test_with};
use strata_e2e::tls::{Authority, Pair};
use tonic::Code;

/// `secret`, as htpasswd(1) has it with bcrypt.
const HTPASSWD: &str = "e2e:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn password(password: &str) -> cri::AuthConfig {
    cri::AuthConfig { username: "e2e".into(), password: password.into(), ..Default::default() }
}

fn docker_config(registry: &str) -> String {
    let auth = STANDARD.encode("e2e:secret");
    json!({ "auths": { registry: { "auth": auth } } }).to_string()
}

#[test]
fn tls_client_certificates_and_passwords() {
    test_with("auth_file = \"/run/strata-e2e-none\"\ntries = 2\nretry_pause = 0.01\n", |node| {
        // The file's name is in the configuration before the node's directory is known: a file that is not there is told.
        let error = node.try_pull(&node.image("busybox")).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("/run/strata-e2e-none: auth_file"), "{error}");
    });
    test_with("tries = 2\nretry_pause = 0.01\n", |node| {
        let authority = Authority::new(node.dir("pki")).unwrap();
        let (server, client) = (authority.server().unwrap(), authority.client().unwrap());
        let ca = authority.ca().display().to_string();
        let tls = |more: &str| {
            let (cert, key) = (server.cert.display(), server.key.display());
            format!("  tls:\n    certificate: {cert}\n    key: {key}\n{more}")
        };
        let (plain, strict) = ("127.0.0.1:5443", "127.0.0.1:5444");
        let _plain = node.another_registry(plain, &tls(""));
        trusts(node, plain, &ca);
        refuses(node, &authority, &ca);

        std::fs::write(node.dir("htpasswd"), HTPASSWD).unwrap();
        let realm =
            format!("auth:\n  htpasswd:\n    realm: e2e\n    path: {}\n", node.dir("htpasswd").display());
        let _strict = node.another_registry(strict, &tls(&format!("    clientcas: [{ca}]\n{realm}")));
        wants_a_client(node, strict, &ca, &client);
        wants_a_password(node, &format!("{strict}/e2e/busybox"));
    });
}

fn trusts(node: &Node, registry: &str, ca: &str) {
    let image = format!("{registry}/e2e/busybox");
    // On loopback, whose registries are asked in the clear where nothing says otherwise.
    let error = node.try_pull(&image).unwrap_err();
    assert!(error.message().contains("does it speak TLS? hosts.toml"), "{error}");
    let server = format!("server = \"https://{registry}\"\n");
    node.set_hosts(registry, "hosts.toml", &server);
    let error = node.try_pull(&image).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("certificate") && error.message().contains("hosts.toml"), "{error}");
    for good in [format!("{server}ca = \"{ca}\"\n"), format!("{server}skip_verify = true\n")] {
        node.set_hosts(registry, "hosts.toml", &good);
        node.try_pull(&image).unwrap_or_else(|e| panic!("{good}: {e}"));
        remove(node, &image);
    }
    // Without hosts.toml, certificates are found as Docker finds them; read again for each pull.
    std::fs::remove_file(node.dir(&format!("certs.d/{registry}/hosts.toml"))).unwrap();
    node.set_hosts(registry, "ca.crt", &std::fs::read_to_string(ca).unwrap());
    node.try_pull(&image).unwrap();
    remove(node, &image);
    node.set_hosts(registry, "hosts.toml", "server = 5\n");
    let error = node.try_pull(&image).unwrap_err();
    assert!(error.message().contains("hosts.toml, line 1"), "{error}");
}

/// Certificates of the right authority that are no good all the same.
fn refuses(node: &Node, authority: &Authority, ca: &str) {
    for (registry, pair, words) in [
        ("127.0.0.1:5445", authority.expired(), ["xpired; check", "this node's clock"]),
        ("127.0.0.1:5446", authority.misnamed(), ["elsewhere.example", "a name that its certificate is for"]),
    ] {
        let pair = pair.unwrap();
        let tls =
            format!("  tls:\n    certificate: {}\n    key: {}\n", pair.cert.display(), pair.key.display());
        let _registry = node.another_registry(registry, &tls);
        node.set_hosts(registry, "hosts.toml", &format!("server = \"https://{registry}\"\nca = \"{ca}\"\n"));
        let error = node.try_pull(&format!("{registry}/e2e/busybox")).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(words.iter().all(|w| error.message().contains(w)), "{error}");
    }
}

fn wants_a_client(node: &Node, registry: &str, ca: &str, client: &Pair) {
    let image = format!("{registry}/e2e/busybox");
    let server = format!("server = \"https://{registry}\"\nca = \"{ca}\"\n");
    node.set_hosts(registry, "hosts.toml", &server);
    let error = node.try_pull_with(&image, password("secret")).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("client's certificate"), "{error}");
    let mixed =
        format!("client = [[\"{}\", \"{}\"]]\n", client.cert.display(), ca.replace("ca.pem", "ca.key"));
    node.set_hosts(registry, "hosts.toml", &format!("{server}{mixed}"));
    let error = node.try_pull_with(&image, password("secret")).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("another certificate's"), "{error}");
    let pair = format!("client = [[\"{}\", \"{}\"]]\n", client.cert.display(), client.key.display());
    node.set_hosts(registry, "hosts.toml", &format!("{server}{pair}"));
    node.try_pull_with(&image, password("secret")).unwrap();
    remove(node, &image);
}

fn wants_a_password(node: &Node, image: &str) {
    let error = node.try_pull_with(image, cri::AuthConfig::default()).unwrap_err();
    assert!(error.message().contains("wants credentials and got none"), "{error}");
    for auth in [cri::AuthConfig::default(), password("wrong-one")] {
        let error = node.try_pull_with(image, auth).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        assert!(error.message().contains("pull secret") && !error.message().contains("wrong-one"), "{error}");
    }
    let auth = cri::AuthConfig { auth: STANDARD.encode("e2e:secret"), ..Default::default() };
    node.try_pull_with(image, auth).unwrap();
    remove(node, image);
    let elsewhere = cri::AuthConfig { server_address: "other.example".into(), ..password("secret") };
    assert_eq!(node.try_pull_with(image, elsewhere).unwrap_err().code(), Code::PermissionDenied);
    node.crictl(&["pull", "--creds", "e2e:secret", image]).ok();
    remove(node, image);

    // The user's own file goes with the strata command's pull.
    let registry = image.split('/').next().unwrap();
    let refused = pull_as(node, image, &[("DOCKER_CONFIG", "/nonexistent")]).fails();
    assert!(refused.contains("pull access denied for"), "{refused}");
    let home = node.dir("home");
    std::fs::create_dir_all(home.join(".docker")).unwrap();
    std::fs::write(home.join(".docker/config.json"), docker_config(registry)).unwrap();
    pull_as(node, image, &[("HOME", &home.display().to_string())]).ok();
    remove(node, image);
    let helper = home.join("docker-credential-e2e");
    let script = "#!/bin/sh\nread -r server\nprintf '{\"Username\":\"e2e\",\"Secret\":\"secret\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = home.join("auth.json");
    std::fs::write(&file, json!({ "credHelpers": { registry: "e2e" } }).to_string()).unwrap();
    let path = format!("{}:{}", home.display(), std::env::var("PATH").unwrap());
    pull_as(node, image, &[("REGISTRY_AUTH_FILE", &file.display().to_string()), ("PATH", &path)]).ok();
    remove(node, image);
    logs_in(node, image, &home.join("login"));
    let broken = pull_as(node, image, &[("REGISTRY_AUTH_FILE", &file.display().to_string())]).fails();
    assert!(broken.contains("docker-credential-e2e") && broken.contains("not installed"), "{broken}");
}

/// A login is tried before it is kept.
fn logs_in(node: &Node, image: &str, config: &std::path::Path) {
    let registry = image.split('/').next().unwrap();
    let as_user = |command: &mut std::process::Command| {
        command.env("DOCKER_CONFIG", config);
        node.within(|| strata_e2e::command::run(command))
    };
    let login = |password: &str| {
        let mut shell = strata_e2e::command::limited("sh", 60);
        shell.args(["-c", "printf %s \"$0\" | exec \"$@\"", password]);
        shell.arg(node.strata_plain().get_program()).arg("--socket").arg(node.socket());
        as_user(shell.args(["login", "--username", "e2e", "--password-stdin", registry]))
    };
    let refused = login("wrong-one").fails();
    assert!(refused.contains("401") && !config.exists(), "{refused}");
    assert!(refused.contains("check user name and password"), "{refused}");
    let done = login("secret").ok().has(&["Login Succeeded"]);
    assert!(done.stderr.contains("unencrypted"), "{done}");
    let config = config.display().to_string();
    pull_as(node, image, &[("DOCKER_CONFIG", &config)]).ok();
    remove(node, image);
    for said in ["Removing login credentials for", "Not logged in to"] {
        as_user(node.strata_command().args(["logout", registry])).ok().has(&[said, registry]);
    }
    pull_as(node, image, &[("DOCKER_CONFIG", &config)]).fails();
}

fn pull_as(node: &Node, image: &str, vars: &[(&str, &str)]) -> strata_e2e::command::Output {
    let mut command = node.strata_command();
    command.args(["pull", image]).env_remove("REGISTRY_AUTH_FILE").env_remove("DOCKER_CONFIG");
    command.env_remove("XDG_RUNTIME_DIR").envs(vars.iter().copied());
    node.within(|| strata_e2e::command::run(&mut command))
}

/// A token for these actions on a repository, as docker-registry wants it (distribution's "Token Authentication
/// Specification", "JSON Web Token").
fn token(signer: &Pair, repository: &str, actions: &[&str]) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [signer.der_base64().unwrap()] });
    let claims = json!({
        "iss": "e2e", "sub": "e2e", "aud": "e2e", "jti": "1",
        "nbf": now - 10, "iat": now, "exp": now + 300,
        "access": [{ "type": "repository", "name": repository, "actions": actions }],
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[test]
fn tokens_of_a_token_server() {
    test_with("tries = 2\nretry_pause = 0.01\n", |node| {
        let signer = Authority::new(node.dir("pki")).unwrap().signer().unwrap();
        let (tokens, guarded) = ("127.0.0.1:5010", "127.0.0.1:5002");
        let own = signer.clone();
        let basic = format!("Basic {}", STANDARD.encode("e2e:secret"));
        // "stacked" is for everybody, the rest for those who prove who they are.
        let server = Proxy::server(node.netns(), tokens, move |asked| {
            let text = format!("{}&{}", asked.path, String::from_utf8_lossy(&asked.body));
            let repository = if text.contains("stacked") { "e2e/stacked" } else { "e2e/busybox" };
            let known = asked.authorization.as_ref() == Some(&basic)
                || (asked.method == "POST" && text.contains("refresh_token=refresh-me"));
            if asked.authorization.is_some() && !known {
                return Fault::Answer(401, vec![], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.into());
            }
            let actions: &[&str] = if known || repository == "e2e/stacked" { &["pull"] } else { &[] };
            let token = token(&own, repository, actions);
            Fault::Answer(200, vec![], json!({ "token": token, "expires_in": 300 }).to_string())
        })
        .unwrap();
        let auth = format!(
            "auth:\n  token:\n    realm: http://{tokens}/token\n    service: e2e\n    issuer: e2e\n    rootcertbundle: {}\n",
            signer.cert.display()
        );
        let _guarded = node.another_registry(guarded, &auth);
        let (private, public) = (format!("{guarded}/e2e/busybox"), format!("{guarded}/e2e/stacked"));
        node.try_pull(&public).unwrap();
        remove(node, &public);
        let refused = node.try_pull(&private).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let refused = node.try_pull_with(&private, password("wrong-one")).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(!refused.message().contains("wrong-one"), "{refused}");

        let asked = server.seen().len();
        for _ in 0..2 {
            node.try_pull_with(&private, password("secret")).unwrap();
            remove(node, &private);
        }
        assert_eq!(
            server.seen().len(),
            asked + 1,
            "one token for manifest, config and layers, and for the next pull"
        );
        let identity = cri::AuthConfig { identity_token: "refresh-me".into(), ..Default::default() };
        node.try_pull_with(&private, identity).unwrap();
        assert_eq!(server.seen().last().unwrap().method, "POST");
        remove(node, &private);
        let ready = cri::AuthConfig {
            registry_token: token(&signer, "e2e/busybox", &["pull"]),
            ..Default::default()
        };
        node.try_pull_with(&private, ready).unwrap();
        assert_eq!(server.seen().len(), asked + 2);
        remove(node, &private);
        let log = std::fs::read_to_string(node.dir("stratad.log")).unwrap();
        for secret in ["\"secret\"", "refresh-me", "wrong-one", "Bearer e"] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    });
}
