//! The node's own credentials, for pulls that bring none.

use super::auth::Credentials;
use crate::config;
use crate::error::{Error, Result};
use std::path::PathBuf;
use strata_credentials::{ConfigFile, Entry, Login};

/// What the configuration has.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyring {
    inline: ConfigFile,
    file: Option<PathBuf>,
}

impl Keyring {
    pub(super) fn new(config: &config::Registry) -> Self {
        let named = "[registry.auth] of the configuration".as_ref();
        let file = Some(config.auth_file.clone()).filter(|path| !path.as_os_str().is_empty());
        let entries = config.auth.iter().map(|(host, auth)| (host.clone(), entry(auth)));
        Self { inline: ConfigFile::of(named, entries.collect()), file }
    }

    /// What there is for a repository of a host. The file is read afresh.
    ///
    /// # Errors
    /// If the file is not there or makes no sense, or a helper fails.
    pub(super) async fn find(&self, host: &str, repository: &str) -> Result<Credentials> {
        let what = |e: strata_credentials::Error| Error::precondition(format!("credentials for {host}: {e}"));
        if let Some(login) = self.inline.login(host, repository).await.map_err(what)? {
            return Ok(login.into());
        }
        let Some(path) = self.file.clone() else { return Ok(Credentials::Anonymous) };
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || ConfigFile::read(&path)).await;
        let read = read.map_err(|e| Error::internal(format!("reading {shown}: {e}")))?.map_err(what)?;
        let file = read.ok_or_else(|| {
            Error::precondition(format!(
                "{shown}: auth_file of the configuration is not there; make it, or take the key out"
            ))
        })?;
        Ok(file.login(host, repository).await.map_err(what)?.map_or(Credentials::Anonymous, Into::into))
    }
}

fn entry(auth: &config::Auth) -> Entry {
    let config::Auth { username, password, auth, identity_token, registry_token } = auth.clone();
    Entry { username, password, auth, identity_token, registry_token }
}

impl From<Login> for Credentials {
    fn from(login: Login) -> Self {
        let Login { username, password, identity_token, registry_token } = login;
        if !registry_token.is_empty() {
            Self::Registry(registry_token)
        } else if !identity_token.is_empty() {
            Self::Identity(identity_token)
        } else if username.is_empty() {
            Self::Anonymous
        } else {
            Self::Password(username, password)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_here_comes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        let text =
            r#"{"auths":{"a":{"username":"file","password":"p"},"b":{"username":"file","password":"p"}}}"#;
        std::fs::write(&file, text).unwrap();
        let entry = config::Auth { username: "here".into(), ..config::Auth::default() };
        let config = config::Registry {
            auth_file: file.clone(),
            auth: [("a/team".to_owned(), entry)].into(),
            ..config::Registry::default()
        };
        let keyring = Keyring::new(&config);
        let user = async |host: &str, repository: &str| match keyring.find(host, repository).await.unwrap() {
            Credentials::Password(user, _) => user,
            other => format!("{other:?}"),
        };
        assert_eq!(user("a", "team/app").await, "here");
        assert_eq!(user("a", "app").await, "file");
        assert_eq!(user("b", "team/app").await, "file");
        assert_eq!(user("c", "app").await, "Anonymous");
        std::fs::remove_file(&file).unwrap();
        let error = keyring.find("b", "app").await.unwrap_err();
        assert!(error.to_string().contains("auth.json: auth_file"), "{error}");
    }
}
