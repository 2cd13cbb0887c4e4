//! What was measured, by the wall clock and in CPU time, and what it amounts to.

use crate::fixture::Fixture;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For each name, the wall clock's seconds and the CPU seconds of every run.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<String, Vec<(f64, f64)>>);

/// CPU time of all threads of this process, in the kernel too.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Report {
    /// Runs something so many times, measuring neither what prepares it nor what cleans up after it.
    pub(crate) fn time<S, T>(
        &mut self,
        name: &str,
        runs: u64,
        setup: impl Fn() -> S,
        work: impl Fn(S) -> T,
    ) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..runs {
            let ready = setup();
            let (start, cpu_start) = (Instant::now(), cpu());
            let done = work(ready);
            let (wall, used) = (start.elapsed(), cpu() - cpu_start);
            drop(done);
            total += wall;
            let runs = self.0.entry(name.to_owned()).or_default();
            runs.push((wall.as_secs_f64(), used.as_secs_f64()));
        }
        total
    }

    /// The medians.
    fn of(&self, name: &str) -> Option<(f64, f64)> {
        let median = |pick: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = self.0.get(name)?.iter().map(pick).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        Some((median(|run| run.0)?, median(|run| run.1)?))
    }

    pub(crate) fn print(&self, fixture: &Fixture) {
        let megabytes = fixture.tar.len() as f64 / 1e6;
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        println!("\na layer of {megabytes:.0} MB on {cores} cores; MB/s are of the tar");
        println!("{:20} {:>8} {:>8} {:>8} {:>12}", "", "seconds", "CPU s", "MB/s", "MB/CPU s");
        for name in self.0.keys() {
            if let Some((wall, cpu)) = self.of(name) {
                let (rate, per_cpu) = (megabytes / wall, megabytes / cpu);
                println!("{name:20} {wall:8.3} {cpu:8.3} {rate:8.0} {per_cpu:12.0}");
            }
        }
        for packed in &fixture.packed {
            self.compare(packed.name, megabytes, cores);
        }
        println!();
    }

    fn compare(&self, form: &str, megabytes: f64, cores: f64) {
        let (inflate, receive) = (format!("inflate {form}"), format!("receive {form}"));
        // The tar of an uncompressed layer is what comes in: neither inflated nor hashed again.
        let names = match form {
            "none" => vec![receive.as_str(), "untar"],
            _ => vec![receive.as_str(), inflate.as_str(), "hash", "untar"],
        };
        let Some(stages) = names.iter().map(|name| self.of(name)).collect::<Option<Vec<_>>>() else { return };
        let Some((wall, cpu)) = self.of(&format!("pipeline {form}")) else { return };
        // In CPU time: what a busy machine adds to the wall clock's is not the stage's.
        let (place, slowest) =
            stages.iter().map(|s| s.1).enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        let work: f64 = stages.iter().map(|s| s.1).sum();
        let limit = slowest.max(work / cores);
        println!(
            "{form}: slowest stage {} {slowest:.3} s; all stages {work:.3} CPU s on {cores} cores {:.3} s: at most {:.0} MB/s. \
             The pipeline: {:.0} MB/s, {:.0}% of that; {cpu:.3} CPU s, {:.0}% of the stages'; {:.1} cores busy",
            names.get(place).unwrap_or(&""),
            work / cores,
            megabytes / limit,
            megabytes / wall,
            100.0 * limit / wall,
            100.0 * cpu / work,
            cpu / wall,
        );
    }
}
