//! A pod's shim.

use super::{Phase, State, code};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use strata_wire::attach::AttachFrame;
use strata_wire::frame::{self, Decoder};
use strata_wire::message::{Failure, FailureKind};
use strata_wire::{Envelope, Event, ExecPlan, Reply, Request, VERSION};

pub fn serve(socket: &Path, state: Arc<State>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || converse(&stream.unwrap(), &state));
        }
    });
}

fn reply(stream: &UnixStream, id: u64, body: Reply, fds: &[OwnedFd]) {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let fds = u8::try_from(fds.len()).unwrap();
    frame::write(stream, &Envelope { id, fds, body }, &borrowed).unwrap();
}

fn converse(stream: &UnixStream, state: &Arc<State>) {
    let mut decoder = Decoder::default();
    let running: Arc<Mutex<HashMap<String, i32>>> = Arc::default();
    while let Ok((envelope, fds)) = frame::read::<Request>(stream, &mut decoder) {
        let id = envelope.id;
        match envelope.body {
            Request::Hello { .. } => {
                reply(stream, id, Reply::Hello { version: VERSION, pod_id: "pod".into(), pid: 1 }, &[]);
            }
            Request::Exec(plan) => exec(stream, id, *plan, fds, &running),
            Request::KillExec { exec_id, signal, .. } => {
                let pid = running.lock().unwrap()[&exec_id];
                kill(Pid::from_raw(pid), Signal::try_from(signal).unwrap()).unwrap();
                reply(stream, id, Reply::Ok, &[]);
            }
            Request::Attach { stdin, .. } => {
                state.called(format!("Attach stdin={stdin}"));
                reply(stream, id, Reply::Attached { tty: state.tty }, &[]);
                return attached(stream, decoder.into_rest(), state);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn exec(
    stream: &UnixStream,
    id: u64,
    plan: ExecPlan,
    fds: Vec<OwnedFd>,
    running: &Mutex<HashMap<String, i32>>,
) {
    let mut command = Command::new(&plan.process.args[0]);
    command.args(&plan.process.args[1..]);
    let mut masters = Vec::new();
    if plan.tty {
        assert!(fds.is_empty());
        let size = plan.tty_size.map(|(ws_row, ws_col)| nix::pty::Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        });
        let pty = openpty(size.as_ref(), None).unwrap();
        command
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(pty.slave.try_clone().unwrap())
            .stderr(pty.slave);
        masters.push(pty.master);
    } else {
        let [stdin, stdout, stderr]: [OwnedFd; 3] = fds.try_into().unwrap();
        command.stdin(stdin).stdout(stdout).stderr(stderr);
    }
    let child = command.spawn();
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => FailureKind::ExecNotFound,
                _ => FailureKind::ExecFailed,
            };
            let (step, message, errno) = ("exec".into(), e.to_string(), e.raw_os_error());
            return reply(stream, id, Reply::Error(Failure { kind, step, message, errno }), &[]);
        }
    };
    let pid = i32::try_from(child.id()).unwrap();
    running.lock().unwrap().insert(plan.exec_id.clone(), pid);
    reply(stream, id, Reply::ExecStarted { pid }, &masters);
    let stream = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let exit_code = code(child.wait().unwrap());
        let (container_id, exec_id) = (plan.container_id, plan.exec_id);
        let body = Event::ExecExited { container_id, exec_id, exit_code, timed_out: false };
        let _ = frame::write(&stream, &Envelope { id: 0, fds: 0, body }, &[]);
    });
}

/// Runs the container's script for the client that attached before it was started.
fn attached(stream: &UnixStream, mut received: Vec<u8>, state: &Arc<State>) {
    state.wait(|p| (p == Phase::Started).then_some(()));
    let mut command = Command::new("sh");
    command.arg("-c").arg(&state.script);
    let mut master = None;
    if state.tty {
        let pty = openpty(None, None).unwrap();
        command
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(pty.slave.try_clone().unwrap())
            .stderr(pty.slave);
        master = Some(std::fs::File::from(pty.master));
    } else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    state.set(Phase::Running(i32::try_from(child.id()).unwrap()));
    let (streams, mut stdin): (Vec<_>, Option<Box<dyn Write + Send>>) = match master {
        Some(m) => (vec![output(stream, m.try_clone().unwrap(), AttachFrame::Stdout)], Some(Box::new(m))),
        None => (pipes(stream, &mut child), child.stdin.take().map(|s| Box::new(s) as _)),
    };
    let mut input = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            while let Some((frame, n)) = AttachFrame::decode(&received).unwrap() {
                received.drain(..n);
                match frame {
                    AttachFrame::Stdin(data) => drop(stdin.as_mut().unwrap().write_all(&data)),
                    AttachFrame::StdinEof => stdin = None,
                    _ => {}
                }
            }
            match input.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => received.extend_from_slice(&buffer[..n]),
            }
        }
    });
    let exit = code(child.wait().unwrap());
    streams.into_iter().for_each(|t| t.join().unwrap());
    state.set(Phase::Exited(exit));
    let mut bytes = Vec::new();
    AttachFrame::Exit(exit).encode(&mut bytes);
    let mut stream = stream;
    let _ = stream.write_all(&bytes);
}

fn pipes(stream: &UnixStream, child: &mut Child) -> Vec<std::thread::JoinHandle<()>> {
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    vec![output(stream, out, AttachFrame::Stdout), output(stream, err, AttachFrame::Stderr)]
}

fn output(
    stream: &UnixStream,
    mut from: impl Read + Send + 'static,
    frame: fn(Vec<u8>) -> AttachFrame,
) -> std::thread::JoinHandle<()> {
    let mut to = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let mut bytes = Vec::new();
            frame(buffer[..n].to_vec()).encode(&mut bytes);
            let _ = to.write_all(&bytes);
        }
    })
}
