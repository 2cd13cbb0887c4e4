//! Tells systemd that stratad still answers (sd_watchdog_enabled(3)): by asking it, over its own socket.

use crate::notify::notify;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata_api::cri::VersionRequest;
use strata_api::cri::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// Begins, if systemd waits for it: it ends a stratad that has been silent for `WatchdogSec=`, and starts it again.
pub(crate) fn start(socket: &Path) {
    let Some(limit) = limit(|name| std::env::var(name).ok()) else { return };
    let socket = socket.to_owned();
    tokio::spawn(async move {
        // Twice in the time there is, as the manual page advises: one lost answer is no death.
        let pause = limit / 2;
        loop {
            match tokio::time::timeout(pause, answers(&socket)).await {
                Ok(Ok(())) => {
                    if let Err(e) = notify("WATCHDOG=1") {
                        tracing::warn!(error = %e, "systemd cannot be told that stratad lives");
                    }
                }
                Ok(Err(e)) => tracing::error!(error = %e, "stratad does not answer its own call"),
                Err(_) => tracing::error!(after = ?pause, "stratad does not answer its own call"),
            }
            tokio::time::sleep(pause).await;
        }
    });
}

/// How long stratad may be silent; `None` if nobody waits for it.
fn limit(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let own = std::process::id().to_string();
    if variable("WATCHDOG_PID").is_some_and(|pid| pid != own) {
        return None;
    }
    let micros = variable("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

async fn answers(socket: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let path = PathBuf::from(socket);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
    RuntimeServiceClient::new(channel).version(VersionRequest { version: "v1".into() }).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_waits_for_the_process_that_it_names() {
        let with = |pid: Option<&str>, usec: Option<&str>| {
            let (pid, usec) = (pid.map(str::to_owned), usec.map(str::to_owned));
            limit(move |name| if name == "WATCHDOG_PID" { pid.clone() } else { usec.clone() })
        };
        let own = std::process::id().to_string();
        assert_eq!(with(Some(&own), Some("5000000")), Some(Duration::from_secs(5)));
        assert_eq!(with(None, Some("1")), Some(Duration::from_micros(1)));
        for (pid, usec) in [(Some("1"), Some("5")), (None, None), (None, Some("0")), (None, Some("x"))] {
            assert_eq!(with(pid, usec), None);
        }
    }
}
