//! ExecSync.

use super::scene::{Case, Scene, UNKNOWN, fails};
use k8s_cri::v1 as cri;
use strata_e2e::node::Node;
use tonic::{Code, Status};

fn exec(node: &Node, id: &str, cmd: &[&str], timeout: i64) -> Result<(), Status> {
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout };
    node.cri(async |mut c| c.exec_sync(request).await).map(drop)
}

pub(crate) fn all<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound};
    let (node, id) = (scene.node, scene.running.as_str());
    let rpc = "ExecSync";
    vec![
        fails(rpc, "no ID", InvalidArgument, "ID", move || exec(node, "", &["true"], 0)),
        fails(rpc, "unknown ID", NotFound, UNKNOWN, move || exec(node, UNKNOWN, &["true"], 0)),
        fails(rpc, "no command", InvalidArgument, "command", move || exec(node, id, &[], 0)),
        fails(rpc, "empty program", InvalidArgument, "command", move || exec(node, id, &[""], 0)),
        fails(rpc, "NUL", InvalidArgument, "NUL", move || exec(node, id, &["a\0b"], 0)),
        fails(rpc, "negative timeout", InvalidArgument, "timeout", move || exec(node, id, &["true"], -1)),
        fails(rpc, "timeout", DeadlineExceeded, "timed out", move || exec(node, id, &["sleep", "100"], 1)),
        fails(rpc, "created", FailedPrecondition, "not running", move || {
            exec(node, &scene.created, &["true"], 0)
        }),
        fails(rpc, "exited", FailedPrecondition, "not running", move || {
            exec(node, &scene.exited, &["true"], 0)
        }),
    ]
}
