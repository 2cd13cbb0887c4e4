//! Exec, Attach and PortForward: checked here, and answered with the URL at which the session can be had.

use super::{containers, pods};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::streaming::{MAX_PORTS, Ticket, Wanted};
use std::sync::Arc;
use strata_api::cri;

fn checked(wanted: Wanted) -> Result<Wanted> {
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Error::invalid("one of stdin, stdout or stderr must be set"));
    }
    if wanted.tty && wanted.stderr {
        return Err(Error::invalid("tty and stderr cannot both be set: a terminal's output is one stream"));
    }
    Ok(wanted)
}

async fn running(node: &Arc<Node>, id: &str) -> Result<Arc<Container>> {
    let container = containers::own(node, id)?;
    node.settled(container.pod()).await?;
    container.known()?;
    if !container.live().running() {
        return Err(Error::precondition(format!("container {id} is not running")));
    }
    Ok(container)
}

/// Exec
pub(super) async fn exec(node: &Arc<Node>, request: cri::ExecRequest) -> Result<cri::ExecResponse> {
    let cri::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr } = request;
    let wanted = checked(Wanted { stdin, stdout, stderr, tty })?;
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("no command to execute: name a program"));
    }
    let container = running(node, &container_id).await?.id().to_owned();
    let url = node.streaming.url(Ticket::Exec { container, command, wanted })?;
    Ok(cri::ExecResponse { url })
}

/// Attach
pub(super) async fn attach(node: &Arc<Node>, request: cri::AttachRequest) -> Result<cri::AttachResponse> {
    let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let wanted = checked(Wanted { stdin, stdout, stderr, tty })?;
    let container = running(node, &container_id).await?.id().to_owned();
    let url = node.streaming.url(Ticket::Attach { container, wanted })?;
    Ok(cri::AttachResponse { url })
}

/// PortForward
pub(super) async fn port_forward(
    node: &Arc<Node>,
    request: cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse> {
    let pod = pods::own(node, &request.pod_sandbox_id)?;
    if request.port.len() > MAX_PORTS {
        return Err(Error::invalid(format!("{} ports: at most {MAX_PORTS} at once", request.port.len())));
    }
    let port = |port: &i32| {
        let port = u16::try_from(*port).ok().filter(|port| *port > 0);
        port.ok_or_else(|| Error::invalid("a port must lie between 1 and 65535"))
    };
    let ports = request.port.iter().map(port).collect::<Result<_>>()?;
    node.settled(&pod).await?;
    if !pod.info().is_ready() {
        return Err(Error::precondition(format!("pod {} is not running", request.pod_sandbox_id)));
    }
    let url = node.streaming.url(Ticket::Forward { pod: pod.id().to_owned(), ports })?;
    Ok(cri::PortForwardResponse { url })
}
