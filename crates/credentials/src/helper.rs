//! The `docker-credential-*` protocol: a verb as the argument, a server's name on standard input, JSON or a complaint on
//! standard output (docker-credential-helpers, README).

use crate::Error;
use serde::Deserialize;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a helper may take: some ask a cloud's API.
const PATIENCE: Duration = Duration::from_secs(30);
/// What helpers say if they know nothing of a server (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Asks a helper for user name and secret; `None` if it has none.
///
/// # Errors
/// [`Error::Helper`]
pub async fn get(helper: &str, server: &str) -> Result<Option<(String, String)>, Error> {
    let Some(answer) = ask(helper, "get", server, server, PATIENCE).await? else { return Ok(None) };
    // What it wrote may be a secret, however odd: it is not repeated.
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| failure(helper, server, "its answer is not JSON as it should be"))?;
    Ok(Some((answer.username, answer.secret)).filter(|(user, secret)| !user.is_empty() || !secret.is_empty()))
}

/// Has a helper keep user name and secret.
///
/// # Errors
/// [`Error::Helper`]
pub async fn store(helper: &str, server: &str, username: &str, secret: &str) -> Result<(), Error> {
    let input = serde_json::json!({ "ServerURL": server, "Username": username, "Secret": secret });
    ask(helper, "store", server, &input.to_string(), PATIENCE).await.map(drop)
}

/// Has a helper forget a server.
///
/// # Errors
/// [`Error::Helper`]
pub async fn erase(helper: &str, server: &str) -> Result<(), Error> {
    ask(helper, "erase", server, server, PATIENCE).await.map(drop)
}

fn failure(helper: &str, server: &str, why: impl Into<String>) -> Error {
    Error::Helper { helper: helper.into(), server: server.into(), why: why.into() }
}

/// What a helper answers; `None` if it knows nothing of the server.
async fn ask(
    helper: &str,
    verb: &str,
    server: &str,
    input: &str,
    patience: Duration,
) -> Result<Option<Vec<u8>>, Error> {
    let bad = |why: String| failure(helper, server, why);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if helper.is_empty() || !helper.bytes().all(plain) {
        return Err(
            bad("is no name of a helper; it must have letters, digits, '-', '_' and '.' only".into()),
        );
    }
    let output = match tokio::time::timeout(patience, run(helper, verb, input)).await {
        Err(_) => return Err(bad(format!("it did not answer within {patience:?}"))),
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
            return Err(bad("it is not installed; put it on the PATH, or take it out of the file".into()));
        }
        Ok(Err(e)) => return Err(bad(format!("it cannot be run: {e}"))),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = said(&output);
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    Err(bad(format!("it failed ({}): {said}", output.status)))
}

async fn run(helper: &str, verb: &str, input: &str) -> io::Result<Output> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Whoever stops waiting leaves no helper behind.
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            // It needs no name, or has failed, which its status says.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    child.wait_with_output().await
}

/// What a helper that failed complains of, in one line.
fn said(output: &Output) -> String {
    let text = if output.stdout.trim_ascii().is_empty() { &output.stderr } else { &output.stdout };
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigFile;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// Writes a helper.
    fn install(dir: &Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the named test again in a process whose PATH has the helpers: a process's environment is shared by its threads.
    fn again(dir: &Path, test: &str) {
        let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("PATH", path)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn helpers_answer_fail_and_hang() {
        let dir = tempfile::tempdir().unwrap();
        let answer = r#"read -r server; printf '{"ServerURL":"%s","Username":"u-%s","Secret":"s"}' "$server" "$server""#;
        install(dir.path(), "good", answer);
        install(dir.path(), "token", r#"printf '{"Username":"<token>","Secret":"id"}'"#);
        install(dir.path(), "none", &format!("echo '{NOT_FOUND}'; exit 1"));
        install(dir.path(), "bad", "echo 'no session\x1b[2J'; exit 3");
        install(dir.path(), "odd", "echo 'hidden secret'");
        install(dir.path(), "slow", "exec sleep 1000");
        let kept = dir.path().join("kept");
        let script = format!(
            "case $1 in get) cat {0} 2>/dev/null || {{ echo '{NOT_FOUND}'; exit 1; }};; store) cat >{0};; erase) rm {0};; esac",
            kept.display()
        );
        install(dir.path(), "keeper", &script);
        again(dir.path(), "helper::tests::with_helpers");
    }

    #[tokio::test]
    #[ignore = "run by helpers_answer_fail_and_hang"]
    async fn with_helpers() {
        assert_eq!(get("good", "r.example").await.unwrap(), Some(("u-r.example".into(), "s".into())));
        assert_eq!(get("none", "r.example").await.unwrap(), None);
        let failure = async |name: &str| get(name, "r.example").await.unwrap_err().to_string();
        let bad = failure("bad").await;
        assert!(bad.contains("docker-credential-bad") && bad.contains("no session"), "{bad}");
        assert!(!bad.contains('\x1b'), "{bad}");
        assert!(!failure("odd").await.contains("hidden"));
        assert!(failure("gone").await.contains("not installed"));
        assert!(failure("../bad").await.contains("is no name"));
        let slow = ask("slow", "get", "r.example", "", Duration::from_millis(50)).await.unwrap_err();
        assert!(slow.to_string().contains("50ms"), "{slow}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"credsStore":"keeper"}"#).unwrap();
        let login = crate::Login { username: "u".into(), password: "p".into(), ..crate::Login::default() };
        let kept = crate::keep::keep(&path, "k.example", &login).await.unwrap();
        assert_eq!(kept, crate::keep::Kept::Helper("keeper".into()));
        let file = ConfigFile::read(&path).unwrap().unwrap();
        assert_eq!(file.login("k.example", "x").await.unwrap(), Some(login));
        assert!(!std::fs::read_to_string(&path).unwrap().contains("\"auth\""));
        assert!(crate::keep::forget(&path, "k.example").await.unwrap());
        assert_eq!(file.login("k.example", "x").await.unwrap(), None);

        let text = br#"{"auths":{"r.example":{"username":"f"},"z.example":{}},
            "credHelpers":{"docker.io":"good","t.example":"token","n.example":"none"},"credsStore":"none"}"#;
        let file = ConfigFile::parse(Path::new("x"), text).unwrap();
        let login = async |r: &str| file.login(r, "a/b").await.unwrap();
        assert_eq!(login("docker.io").await.unwrap().username, "u-https://index.docker.io/v1/");
        assert_eq!(login("t.example").await.unwrap().identity_token, "id");
        assert_eq!(login("r.example").await.unwrap().username, "f");
        assert_eq!(login("n.example").await, None);
        assert_eq!(login("z.example").await, None);
    }
}
