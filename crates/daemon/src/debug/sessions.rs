//! Where sessions and logs are: the client goes there itself.

use crate::container::state::ContainerState;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::request::ExecRequest;
use std::sync::Arc;
use strata_api::debug;

pub(super) async fn attach(
    node: &Arc<Node>,
    request: &debug::PrepareAttachRequest,
) -> Result<debug::PrepareAttachResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    let target = node.attach_target(&id).await?;
    Ok(debug::PrepareAttachResponse {
        socket: target.socket.to_string_lossy().into_owned(),
        container_id: target.container_id,
        tty: target.tty,
        stdin: target.stdin,
    })
}

pub(super) async fn exec(
    node: &Arc<Node>,
    request: debug::PrepareExecRequest,
) -> Result<debug::PrepareExecResponse> {
    let id = node.find_container(&request.r#ref)?.id().to_owned();
    let tty_size = terminal_size(request.tty_rows, request.tty_cols);
    let wanted = ExecRequest {
        command: request.command,
        tty: request.tty,
        tty_size,
        user: Some(request.user).filter(|u| !u.is_empty()),
        workdir: request.workdir,
        env: request.env,
        privileged: request.privileged,
        timeout_ms: 0,
    };
    let (socket, plan) = node.exec_plan(&id, wanted).await?;
    let plan = serde_json::to_string(&plan).map_err(|e| Error::internal(format!("exec plan: {e}")))?;
    Ok(debug::PrepareExecResponse { socket: socket.to_string_lossy().into_owned(), plan })
}

/// Rows and columns; `None` if the client has no terminal.
pub(super) fn terminal_size(rows: u32, cols: u32) -> Option<(u16, u16)> {
    match (u16::try_from(rows), u16::try_from(cols)) {
        (Ok(rows), Ok(cols)) if rows > 0 && cols > 0 => Some((rows, cols)),
        _ => None,
    }
}

pub(super) fn log(node: &Node, request: &debug::ContainerLogRequest) -> Result<debug::ContainerLogResponse> {
    let container = node.find_container(&request.r#ref)?;
    let path = container.record().log_path.clone().unwrap_or_default();
    let running = container.state() == ContainerState::Running;
    Ok(debug::ContainerLogResponse { path, running, container_id: container.id().to_owned() })
}
