//! Logging in and out: what is kept in a user's file, or by the helper that the file names.

use crate::file::{ConfigFile, HUB_KEY};
use crate::{DOCKER_HUB, Error, Login, helper};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Who keeps a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A helper of this name.
    Helper(String),
    /// The file, where whoever can read it can read the password.
    File(PathBuf),
}

/// Keeps user name and password for a registry, in place of what is there. What else is in the file stays.
///
/// # Errors
/// If the file makes no sense or cannot be written, or the helper fails.
pub async fn keep(path: &Path, registry: &str, login: &Login) -> Result<Kept, Error> {
    let (file, mut whole) = read(path)?;
    let key = key(registry);
    let (entry, kept) = match file.helper_of(registry) {
        Some(name) => {
            helper::store(name, key, &login.username, &login.password).await?;
            // An empty entry says which registries the helper knows.
            (json!({}), Kept::Helper(name.to_owned()))
        }
        None => {
            let auth = STANDARD.encode(format!("{}:{}", login.username, login.password));
            (json!({ "auth": auth }), Kept::File(path.to_owned()))
        }
    };
    let auths = whole.entry("auths").or_insert_with(|| json!({}));
    let Some(auths) = auths.as_object_mut() else { return Err(odd(path)) };
    auths.insert(key.to_owned(), entry);
    write(path, &whole)?;
    Ok(kept)
}

/// Forgets what is kept for a registry; whether there was something.
///
/// # Errors
/// As [`keep`].
pub async fn forget(path: &Path, registry: &str) -> Result<bool, Error> {
    let (file, mut whole) = read(path)?;
    let mut found = false;
    if let Some(name) = file.helper_of(registry)
        && helper::get(name, key(registry)).await?.is_some()
    {
        helper::erase(name, key(registry)).await?;
        found = true;
    }
    let keys = file.keys_of(registry);
    if let Some(auths) = whole.get_mut("auths").and_then(Value::as_object_mut) {
        for key in &keys {
            auths.remove(key);
        }
    }
    if !keys.is_empty() {
        write(path, &whole)?;
        found = true;
    }
    Ok(found)
}

fn key(registry: &str) -> &str {
    if registry == DOCKER_HUB { HUB_KEY } else { registry }
}

fn odd(path: &Path) -> Error {
    Error::Parse { path: path.into(), why: "auths is no object".into() }
}

fn read(path: &Path) -> Result<(ConfigFile, Map<String, Value>), Error> {
    let text = match std::fs::read(path) {
        Ok(text) if !text.trim_ascii().is_empty() => text,
        Ok(_) => b"{}".to_vec(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
        Err(e) => return Err(Error::Read { path: path.into(), why: e.to_string() }),
    };
    let file = ConfigFile::parse(path, &text)?;
    let whole = serde_json::from_slice(&text).map_err(|_| odd(path))?;
    Ok((file, whole))
}

/// Writes a file beside and renames it, so that nobody ever reads half of it; for the user's own eyes.
fn write(path: &Path, whole: &Map<String, Value>) -> Result<(), Error> {
    let bad = |e: io::Error| Error::Write { path: path.into(), why: e.to_string() };
    // A link that leads somewhere stays one.
    let own = path.parent().unwrap_or_else(|| Path::new("/"));
    let target = std::fs::read_link(path).map_or_else(|_| path.to_owned(), |to| own.join(to));
    let dir = target.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(bad)?;
    let beside = dir.join(format!(".config.json.{}", std::process::id()));
    let text = serde_json::to_vec_pretty(whole).map_err(|e| bad(e.into()))?;
    let written =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let written = written.and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&beside, &target));
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done.map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn logins_are_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let login = |user: &str| Login { username: user.into(), password: "p:w".into(), ..Login::default() };
        assert!(!forget(&path, "r.example:5000").await.unwrap());
        assert!(!path.exists(), "nothing to forget, nothing written");
        assert_eq!(keep(&path, "r.example:5000", &login("a")).await.unwrap(), Kept::File(path.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        whole["detachKeys"] = "ctrl-x".into();
        whole["auths"]["https://r.example:5000/v1/"] = json!({ "auth": "b2xkOm9sZA==" });
        std::fs::write(&path, whole.to_string()).unwrap();
        keep(&path, DOCKER_HUB, &login("hub")).await.unwrap();
        keep(&path, "r.example:5000", &login("b")).await.unwrap();
        let file = ConfigFile::read(&path).unwrap().unwrap();
        assert_eq!(file.login("r.example:5000", "x").await.unwrap(), Some(login("b")));
        assert_eq!(file.login("docker.io", "x").await.unwrap(), Some(login("hub")));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(HUB_KEY) && text.contains("detachKeys"), "{text}");
        assert!(forget(&path, "r.example:5000").await.unwrap());
        let file = ConfigFile::read(&path).unwrap().unwrap();
        assert_eq!(file.login("r.example:5000", "x").await.unwrap(), None);
        assert_eq!(file.login("docker.io", "x").await.unwrap(), Some(login("hub")));
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 1);
        std::fs::write(&path, "[]").unwrap();
        assert!(matches!(keep(&path, "r.example", &login("a")).await, Err(Error::Parse { .. })));
    }
}
