//! A container in the foreground: its streams here, signals passed on to it, its exit code.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::session::attach::{Ended, Session, Wanted};
use crate::signals::{self, Impatience, PROXIED};
use crate::terminal;
use nix::sys::signal::Signal;
use std::time::Duration;
use strata_api::debug::{
    KillContainerRequest, PrepareAttachRequest, PrepareAttachResponse, WaitContainerRequest,
};
use tokio::sync::mpsc;

/// How often stratad is asked again while it is away.
const PAUSE: Duration = Duration::from_millis(500);

/// How long it may be away.
const AWAY: Duration = Duration::from_secs(120);

/// How long stratad may take to record an end that the shim has told.
const SETTLE: Duration = Duration::from_secs(5);

/// Exit code of a program that SIGPIPE ended.
const READER_GONE: i32 = 128 + Signal::SIGPIPE as i32;

/// How following a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The container has ended with this code.
    Exited(i32),
    /// The user has left; the container goes on.
    Left,
}

impl Outcome {
    /// The exit code for this process.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Left => 0,
        }
    }
}

/// An attached container. Until it is followed its output waits.
#[derive(Debug)]
pub(crate) struct Foreground {
    id: String,
    session: Session,
    caught: mpsc::UnboundedReceiver<Signal>,
}

/// Where a container's session goes.
pub(crate) async fn prepare(client: &mut Client, container: &str) -> Result<PrepareAttachResponse> {
    Ok(client.prepare_attach(PrepareAttachRequest { r#ref: container.to_owned() }).await?.into_inner())
}

impl Foreground {
    /// Attaches, and catches signals from now on.
    pub(crate) async fn begin(to: &PrepareAttachResponse, wanted: Wanted) -> Result<Self> {
        let caught = signals::listen(&PROXIED)?;
        let session = Session::begin(to, wanted).await?;
        Ok(Self { id: to.container_id.clone(), session, caught })
    }

    /// Shows the container until it ends or the user leaves. Without `proxy`, signals end this process and not the
    /// container.
    pub(crate) async fn follow(mut self, client: &mut Client, proxy: bool) -> Result<Outcome> {
        let ended = {
            let session = self.session.run();
            tokio::pin!(session);
            let mut impatience = Impatience::default();
            loop {
                tokio::select! {
                    ended = &mut session => break ended?,
                    Some(signal) = self.caught.recv() => {
                        if !proxy {
                            terminal::leave(signal as i32);
                        }
                        if impatience.exhausted_by(signal) {
                            return Err(Error::local("got 3 SIGTERM/SIGINTs, forcefully exiting"));
                        }
                        pass_on(client, &self.id, signal);
                    }
                }
            }
        };
        match ended {
            Ended::Exited(code) => Ok(Outcome::Exited(settled(client, &self.id).await.unwrap_or(code))),
            Ended::Detached => Ok(Outcome::Left),
            Ended::ReaderGone => Err(Error::Said(READER_GONE)),
            Ended::Lost => exit_code(client, &self.id).await.map(Outcome::Exited),
        }
    }
}

/// Sends a signal to the container. It may have ended meanwhile, so a failure says nothing.
fn pass_on(client: &Client, id: &str, signal: Signal) {
    let mut client = client.clone();
    let request = KillContainerRequest { r#ref: id.to_owned(), signal: signal.as_str().to_owned() };
    tokio::spawn(async move { client.kill_container(request).await });
}

/// The exit code as stratad has recorded it, so that whoever asks next sees what this process saw; `None`: it does not
/// say, since it is away or has already removed the container.
async fn settled(client: &mut Client, id: &str) -> Option<i32> {
    let answer = client.wait_container(WaitContainerRequest { r#ref: id.to_owned() });
    Some(tokio::time::timeout(SETTLE, answer).await.ok()?.ok()?.into_inner().exit_code)
}

/// Waits for a container's end, also over a restart of stratad; its exit code.
pub(crate) async fn exit_code(client: &mut Client, container: &str) -> Result<i32> {
    let mut away_since = None;
    loop {
        let request = WaitContainerRequest { r#ref: container.to_owned() };
        match client.wait_container(request).await.map_err(Error::from) {
            Ok(answer) => return Ok(answer.into_inner().exit_code),
            Err(e) if e.is_away() || e.is_unavailable() => {
                let since = *away_since.get_or_insert_with(std::time::Instant::now);
                if since.elapsed() > AWAY {
                    return Err(e);
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) => return Err(e),
        }
    }
}
