//! Exec, Attach and PortForward: what is refused before there is an address to connect to.

use super::scene::{Case, Scene, UNKNOWN, fails};
use k8s_cri::v1 as cri;
use tonic::Code;

pub(crate) fn all<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let exec = |id: &str, cmd: &[&str], change: fn(&mut cri::ExecRequest)| {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let mut request =
            cri::ExecRequest { container_id: id.into(), cmd, stdout: true, ..Default::default() };
        change(&mut request);
        node.cri(async |mut c| c.exec(request).await).map(drop)
    };
    let attach_with = |id: &str, change: fn(&mut cri::AttachRequest)| {
        let mut request = cri::AttachRequest { container_id: id.into(), ..Default::default() };
        change(&mut request);
        node.cri(async |mut c| c.attach(request).await).map(drop)
    };
    let attach = move |id: &str| attach_with(id, |r| r.stdout = true);
    let forward = |id: &str, port: i32| {
        let request = cri::PortForwardRequest { pod_sandbox_id: id.into(), port: vec![port] };
        node.cri(async |mut c| c.port_forward(request).await).map(drop)
    };
    let running = scene.running.as_str();
    vec![
        fails("Exec", "no ID", InvalidArgument, "ID", move || exec("", &["true"], |_| {})),
        fails("Exec", "unknown ID", NotFound, UNKNOWN, move || exec(UNKNOWN, &["true"], |_| {})),
        fails("Exec", "no command", InvalidArgument, "command", move || exec(running, &[], |_| {})),
        fails("Exec", "no stream", InvalidArgument, "", move || {
            exec(running, &["true"], |r| r.stdout = false)
        }),
        fails("Exec", "terminal and stderr", InvalidArgument, "stderr", move || {
            exec(running, &["true"], |r| (r.tty, r.stderr) = (true, true))
        }),
        fails("Exec", "created", FailedPrecondition, "not running", move || {
            exec(&scene.created, &["true"], |_| {})
        }),
        fails("Exec", "exited", FailedPrecondition, "not running", move || {
            exec(&scene.exited, &["true"], |_| {})
        }),
        fails("Attach", "no ID", InvalidArgument, "ID", move || attach("")),
        fails("Attach", "unknown ID", NotFound, UNKNOWN, move || attach(UNKNOWN)),
        fails("Attach", "no stream", InvalidArgument, "", move || attach_with(running, |_| {})),
        fails("Attach", "terminal and stderr", InvalidArgument, "stderr", move || {
            attach_with(running, |r| (r.tty, r.stdout, r.stderr) = (true, true, true))
        }),
        fails("Attach", "created", FailedPrecondition, "not running", move || attach(&scene.created)),
        fails("Attach", "exited", FailedPrecondition, "not running", move || attach(&scene.exited)),
        fails("PortForward", "no ID", InvalidArgument, "ID", move || forward("", 80)),
        fails("PortForward", "unknown ID", NotFound, UNKNOWN, move || forward(UNKNOWN, 80)),
        fails("PortForward", "no port", InvalidArgument, "port", move || forward(&scene.pod_id, 0)),
        fails("PortForward", "port", InvalidArgument, "port", move || forward(&scene.pod_id, 70_000)),
        fails("PortForward", "stopped", FailedPrecondition, "not running", move || {
            forward(&scene.stopped_pod, 80)
        }),
    ]
}
