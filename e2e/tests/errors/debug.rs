//! The strata command's calls for containers.

use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use strata_api::debug::{self, CreateContainerRequest};
use strata_e2e::node::Node;
use tonic::{Code, Status};

type Change = Box<dyn FnOnce(&mut CreateContainerRequest)>;

fn make(node: &Node, request: CreateContainerRequest) -> Result<String, Status> {
    node.debug(async |mut c| c.create_container(request).await).map(|answer| answer.id)
}

fn port(container_port: u32, host_port: u32, protocol: &str) -> Vec<debug::PortMapping> {
    let protocol = protocol.into();
    vec![debug::PortMapping { container_port, host_port, protocol, ..Default::default() }]
}

fn bind(source: &str, target: &str, propagation: &str) -> Vec<debug::BindMount> {
    let (source, target, propagation) = (source.into(), target.into(), propagation.into());
    vec![debug::BindMount { source, target, propagation, ..Default::default() }]
}

/// The table; `taken` is a name that a container has.
pub(crate) fn create<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{AlreadyExists, InvalidArgument, NotFound};
    let node = scene.node;
    let image = node.image("busybox");
    let taken = CreateContainerRequest { image: image.clone(), name: "taken".into(), ..Default::default() };
    make(node, taken).unwrap();
    let bad: Vec<(&str, Code, &str, Change)> = vec![
        ("no image", InvalidArgument, "", Box::new(|r| r.image.clear())),
        ("unknown image", NotFound, "absent", Box::new(|r| r.image = "127.0.0.1:5000/e2e/absent:1".into())),
        ("malformed image", NotFound, "A b", Box::new(|r| r.image = "A b".into())),
        ("taken name", AlreadyExists, "Conflict", Box::new(|r| r.name = "taken".into())),
        ("malformed name", InvalidArgument, "a b", Box::new(|r| r.name = "a b".into())),
        ("network", InvalidArgument, "nonsense", Box::new(|r| r.network = "nonsense".into())),
        ("PID mode", InvalidArgument, "nonsense", Box::new(|r| r.pid = "nonsense".into())),
        ("IPC mode", InvalidArgument, "nonsense", Box::new(|r| r.ipc = "nonsense".into())),
        ("port", InvalidArgument, "port", Box::new(|r| r.ports = port(70_000, 0, "tcp"))),
        ("no port", InvalidArgument, "port 0", Box::new(|r| r.ports = port(0, 80, "tcp"))),
        ("protocol", InvalidArgument, "icmp", Box::new(|r| r.ports = port(80, 0, "icmp"))),
        ("relative target", InvalidArgument, "here", Box::new(|r| r.mounts = bind("/tmp", "here", ""))),
        ("propagation", InvalidArgument, "nonsense", Box::new(|r| r.mounts = bind("/tmp", "/x", "nonsense"))),
        ("capability", InvalidArgument, "NONSENSE", Box::new(|r| r.cap_add = vec!["NONSENSE".into()])),
        ("negative memory", InvalidArgument, "memory", Box::new(|r| r.memory = -5)),
        (
            "security option",
            InvalidArgument,
            "nonsense",
            Box::new(|r| r.security_opt = vec!["nonsense=1".into()]),
        ),
        (
            "seccomp profile",
            InvalidArgument,
            "seccomp",
            Box::new(|r| r.security_opt = vec!["seccomp={}x".into()]),
        ),
        ("stop signal", InvalidArgument, "nonsense", Box::new(|r| r.stop_signal = "nonsense".into())),
        ("unknown user", InvalidArgument, "nobody-here", Box::new(|r| r.user = "nobody-here".into())),
        (
            "unknown group",
            InvalidArgument,
            "nobody-here",
            Box::new(|r| r.group_add = vec!["nobody-here".into()]),
        ),
        ("tmpfs option", InvalidArgument, "nonsense", Box::new(|r| r.tmpfs = vec!["/t:nonsense".into()])),
        ("ulimit", InvalidArgument, "NONSENSE", Box::new(|r| r.ulimits = vec!["nonsense=1".into()])),
        ("relative directory", InvalidArgument, "working directory", Box::new(|r| r.workdir = "here".into())),
        ("NUL", InvalidArgument, "NUL", Box::new(|r| r.command = vec!["a\0b".into()])),
        ("no list of CPUs", InvalidArgument, "nonsense", Box::new(|r| r.cpuset_cpus = "nonsense".into())),
        ("host name", InvalidArgument, "hostname", Box::new(|r| r.hostname = "a b".into())),
        ("DNS server", InvalidArgument, "DNS", Box::new(|r| r.dns = vec!["a\nb".into()])),
    ];
    bad.into_iter()
        .map(|(input, code, says, change)| {
            let mut request = CreateContainerRequest {
                image: image.clone(),
                command: vec!["true".into()],
                ..Default::default()
            };
            change(&mut request);
            fails("debug CreateContainer", input, code, says, move || make(node, request).map(drop))
        })
        .collect()
}

pub(crate) fn others<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let start = |name: &str| {
        let request = debug::StartContainerRequest { r#ref: name.into() };
        node.debug(async |mut c| c.start_container(request).await).map(drop)
    };
    let stop = |name: &str, signal: &str| {
        let request =
            debug::StopContainerRequest { r#ref: name.into(), signal: signal.into(), timeout: Some(0) };
        node.debug(async |mut c| c.stop_container(request).await).map(drop)
    };
    let kill = |name: &str, signal: &str| {
        let request = debug::KillContainerRequest { r#ref: name.into(), signal: signal.into() };
        node.debug(async |mut c| c.kill_container(request).await).map(drop)
    };
    let remove = |name: &str| {
        let request = debug::RemoveContainerRequest { r#ref: name.into(), force: false };
        node.debug(async |mut c| c.remove_container(request).await).map(drop)
    };
    let wait = |name: &str| {
        let request = debug::WaitContainerRequest { r#ref: name.into() };
        node.debug(async |mut c| c.wait_container(request).await).map(drop)
    };
    let missing = "No such container";
    vec![
        fails("debug StartContainer", "no name", NotFound, missing, move || start("")),
        fails("debug StartContainer", "unknown", NotFound, missing, move || start(UNKNOWN)),
        fails("debug StopContainer", "unknown", NotFound, missing, move || stop("absent", "")),
        fails("debug StopContainer", "signal", InvalidArgument, "nonsense", move || {
            stop(&scene.running, "nonsense")
        }),
        fine("debug StopContainer", "exited", move || stop(&scene.exited, "")),
        fails("KillContainer", "unknown", NotFound, missing, move || kill("absent", "")),
        fails("KillContainer", "signal", InvalidArgument, "nonsense", move || {
            kill(&scene.running, "nonsense")
        }),
        fails("KillContainer", "number", InvalidArgument, "99", move || kill(&scene.running, "99")),
        fails("KillContainer", "exited", FailedPrecondition, "not running", move || kill(&scene.exited, "")),
        fails("debug RemoveContainer", "unknown", NotFound, missing, move || remove("absent")),
        fails("debug RemoveContainer", "running", FailedPrecondition, "running", move || {
            remove(&scene.running)
        }),
        fails("WaitContainer", "unknown", NotFound, missing, move || wait("absent")),
    ]
}

pub(crate) fn sessions<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let attach = |name: &str| {
        let request = debug::PrepareAttachRequest { r#ref: name.into() };
        node.debug(async |mut c| c.prepare_attach(request).await).map(drop)
    };
    let exec = |name: &str, command: &[&str], change: fn(&mut debug::PrepareExecRequest)| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let mut request = debug::PrepareExecRequest { r#ref: name.into(), command, ..Default::default() };
        change(&mut request);
        node.debug(async |mut c| c.prepare_exec(request).await).map(drop)
    };
    let commit = |name: &str, image: &str, change: &str| {
        let changes = Vec::from_iter((!change.is_empty()).then(|| change.to_owned()));
        let request =
            debug::CommitRequest { r#ref: name.into(), image: image.into(), changes, ..Default::default() };
        node.debug(async |mut c| c.commit(request).await).map(drop)
    };
    let diff = |name: &str| {
        let request = debug::DiffRequest { r#ref: name.into() };
        node.debug(async |mut c| c.diff(request).await).map(drop)
    };
    let log = |name: &str| {
        let request = debug::ContainerLogRequest { r#ref: name.into() };
        node.debug(async |mut c| c.container_log(request).await).map(drop)
    };
    let (missing, running) = ("No such container", scene.running.as_str());
    vec![
        fails("PrepareAttach", "unknown", NotFound, missing, move || attach("absent")),
        fails("PrepareAttach", "exited", FailedPrecondition, "not running", move || attach(&scene.exited)),
        fails("PrepareExec", "unknown", NotFound, missing, move || exec("absent", &["true"], |_| {})),
        fails("PrepareExec", "no command", InvalidArgument, "command", move || exec(running, &[], |_| {})),
        fails("PrepareExec", "exited", FailedPrecondition, "not running", move || {
            exec(&scene.exited, &["true"], |_| {})
        }),
        fails("PrepareExec", "unknown user", InvalidArgument, "nobody-here", move || {
            exec(running, &["true"], |r| r.user = "nobody-here".into())
        }),
        fails("PrepareExec", "relative directory", InvalidArgument, "absolute", move || {
            exec(running, &["true"], |r| r.workdir = "here".into())
        }),
        fails("Commit", "unknown", NotFound, missing, move || commit("absent", "e2e/x:1", "")),
        fails("Commit", "malformed name", InvalidArgument, "A b", move || commit(running, "A b", "")),
        fails("Commit", "malformed change", InvalidArgument, "RUN", move || {
            commit(running, "e2e/x:1", "RUN x")
        }),
        fails("Diff", "unknown", NotFound, missing, move || diff("absent")),
        fails("ContainerLog", "unknown", NotFound, missing, move || log("absent")),
    ]
}
