//! `strata login` and `strata logout`

use super::Context;
use crate::credentials::{self, Server};
use crate::error::{Error, Result};
use crate::output::{Output, complain};
use crate::terminal;
use std::io::{IsTerminal, Read};
use strata_api::debug::LoginRequest;
use strata_credentials::keep::{Kept, forget, keep};
use strata_credentials::{Login, places};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password; who lists processes can see it
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// The registry; Docker Hub by default
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the password.
        f.debug_struct("Args")
            .field("username", &self.username)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    /// The registry; Docker Hub by default
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let server = Server::parse(args.server.as_deref());
    let path = places::docker().ok_or_else(nowhere)?;
    let login = ask(args).await?;
    let auth = Some(credentials::auth(login.clone(), &server.registry));
    context.client().await?.login(LoginRequest { auth }).await?;
    match keep(&path, &server.registry, &login).await.map_err(|e| Error::local(e.to_string()))? {
        Kept::Helper(_) => {}
        Kept::File(path) => complain(format!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning.",
            path.display()
        )),
    }
    Output::Stdout.line("Login Succeeded")?;
    Ok(0)
}

pub(crate) async fn logout(args: &Logout) -> Result<i32> {
    let server = Server::parse(args.server.as_deref());
    let path = places::docker().ok_or_else(nowhere)?;
    let known = forget(&path, &server.registry).await.map_err(|e| Error::local(e.to_string()))?;
    let what = if known { "Removing login credentials for" } else { "Not logged in to" };
    Output::Stdout.line(format!("{what} {}", server.shown()))?;
    Ok(0)
}

fn nowhere() -> Error {
    Error::local("there is no place for credentials: set HOME or DOCKER_CONFIG")
}

/// User name and password: as the flags say, from a terminal otherwise.
async fn ask(args: &Args) -> Result<Login> {
    let needs_terminal = !args.password_stdin && (args.username.is_none() || args.password.is_none());
    if args.password_stdin && args.username.is_none() {
        return Err(Error::local("Must provide --username with --password-stdin"));
    }
    if needs_terminal && !std::io::stdin().is_terminal() {
        return Err(Error::local("Cannot perform an interactive login from a non TTY device"));
    }
    let username = match &args.username {
        Some(name) => name.clone(),
        None => terminal::prompt("Username: ", true).await?,
    };
    let password = match &args.password {
        Some(password) => {
            complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| Error::io("standard input", e))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => terminal::prompt("Password: ", false).await?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Error::local("user name and password must not be empty"));
    }
    Ok(Login { username, password, ..Login::default() })
}
