//! A container's end: its last output, its exit record.

use super::{DRAIN_FOR, Stage};
use crate::clock;
use crate::log::Stream;
use crate::shim::Shim;
use std::ffi::OsString;
use std::time::Instant;
use strata_sys::process::Exited;
use strata_wire::Event;
use strata_wire::attach::AttachFrame;
use strata_wire::plan::PidMode;
use strata_wire::state::ExitRecord;

impl Shim {
    /// The init has been reaped.
    pub(crate) fn container_ended(&mut self, id: u32, how: Exited, buffer: &mut [u8]) {
        // What it said last may not have been read yet.
        let pid = self.containers.get(&id).map(|c| c.pid);
        self.container_reported(id);
        if self.containers.get(&id).is_none_or(|c| pid != Some(c.pid)) {
            // It was the first stage, which has just told that another process goes on.
            return;
        }
        let oom_killed = self.oom_killed(id);
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.pid = 0;
        container.channel = None;
        if container.plan.pid != PidMode::Container {
            // No kernel kills the rest of a PID namespace that is not the container's own.
            let _ = container.group.kill_now();
        }
        // What could not be run may have been killed before it could exit by itself.
        let how = container.failed.map_or(how, Exited::Code);
        let signal = match how {
            Exited::Signal { signal, .. } => Some(signal),
            Exited::Code(_) => None,
        };
        container.exit = Some(ExitRecord {
            id: container.plan.id.clone(),
            exit_code: how.shell_code(),
            signal,
            started_at: container.started_at,
            finished_at: clock::now(),
            oom_killed,
            log_bytes_dropped: 0,
        });
        container.stage = Stage::Draining { until: Instant::now() + DRAIN_FOR };
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.output(id, stream, buffer);
        }
        self.finish_if_drained(id);
    }

    pub(crate) fn finish_if_drained(&mut self, id: u32) {
        if self.containers.get(&id).is_some_and(|c| c.draining() && c.streams.ended()) {
            self.finish(id);
        }
    }

    /// All output is in the log: the exit record is written, then announced.
    pub(super) fn finish(&mut self, id: u32) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.streams.close();
        let log = container.streams.log.take().map(|mut log| {
            log.finish();
            log.lost()
        });
        container.stage = Stage::Exited;
        let Some(exit) = &mut container.exit else { return };
        exit.log_bytes_dropped = log.unwrap_or(0);
        let (exit, name) = (exit.clone(), OsString::from(format!("{}.exit", exit.id)));
        // Encoding plain fields cannot fail; a state directory that is gone or full leaves the event.
        if let Ok(json) = serde_json::to_vec(&exit) {
            let _ = strata_sys::durable::write_file_volatile(&self.state_dir, &name, &json, 0o600);
        }
        self.tell_attached(id, &AttachFrame::Exit(exit.exit_code), |_| true);
        self.announce(&Event::Exited(exit));
        self.continue_removal(id, Instant::now());
    }
}
