//! What was measured, by the wall clock and in CPU time, and what it amounts to.

use crate::fixture::Fixture;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one run took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    /// Of all threads of this process, in the kernel too.
    cpu: Duration,
    /// Of the whole machine: what the kernel's own threads do for it, too, as writing to the disk.
    machine: Duration,
}

impl Took {
    /// What a piece of work takes, and what comes of it.
    pub(crate) fn by<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let (start, cpu_start, machine_start) = (Instant::now(), cpu(), machine());
        let done = work();
        (Self { wall: start.elapsed(), cpu: cpu() - cpu_start, machine: machine() - machine_start }, done)
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// How long the machine's cores have been busy (proc_stat(5): user, nice, system, irq, softirq), to 10 ms.
fn machine() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<u64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).flat_map(str::parse).collect();
    Duration::from_millis([0, 1, 2, 5, 6].iter().map(|n| ticks[*n] * 10).sum())
}

/// For each name, what it took in each round.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<String, Vec<Took>>);

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, took: Took) {
        self.0.entry(name.to_owned()).or_default().push(took);
    }

    pub(crate) fn print(&self, fixture: &Fixture) {
        let megabytes = fixture.tar.len() as f64 / 1e6;
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        println!("\na layer of {megabytes:.0} MB on {cores} cores; medians; MB/s are of the tar");
        println!(
            "{:20} {:>8} {:>8} {:>10} {:>8} {:>12}",
            "", "seconds", "CPU s", "machine's", "MB/s", "MB/CPU s"
        );
        for (name, rounds) in &self.0 {
            let wall = median(rounds.iter().map(|took| took.wall.as_secs_f64()));
            let cpu = median(rounds.iter().map(|took| took.cpu.as_secs_f64()));
            let machine = median(rounds.iter().map(|took| took.machine.as_secs_f64()));
            let (rate, per_cpu) = (megabytes / wall, megabytes / cpu);
            println!("{name:20} {wall:8.3} {cpu:8.3} {machine:10.3} {rate:8.0} {per_cpu:12.0}");
        }
        println!("the pipeline, round by round:");
        for packed in &fixture.packed {
            self.compare(packed.name, megabytes, cores);
        }
        println!();
    }

    fn compare(&self, form: &str, megabytes: f64, cores: f64) {
        // The tar of an uncompressed layer is what comes in: neither inflated nor hashed again.
        let stages: &[&str] = if form == "none" { &["untar"] } else { &["untar", "hash"] };
        let own = [format!("receive {form}"), format!("inflate {form}")];
        let own = own.iter().map(String::as_str).take(if form == "none" { 1 } else { 2 });
        let rounds = |name: &str| &self.0[name];
        let stages: Vec<&Vec<Took>> = stages.iter().copied().chain(own).map(rounds).collect();
        let pipeline = rounds(&format!("pipeline {form}"));
        let of = |round: usize| stages.iter().filter_map(move |took| took.get(round));
        let rate = |time: &dyn Fn(usize) -> f64| megabytes / median((0..pipeline.len()).map(time));
        let per_round = |share: &dyn Fn(usize, &Took) -> f64| {
            100.0 * median(pipeline.iter().enumerate().map(|(round, took)| share(round, took)))
        };
        let wall = |took: &Took| took.wall.as_secs_f64();
        let slowest = |round| of(round).map(wall).fold(0.0, f64::max);
        let work = |round| of(round).map(|took| took.cpu.as_secs_f64()).sum::<f64>();
        println!(
            "{form}: {:.0} MB/s; its slowest stage {:.0}, all stages on these cores {:.0}",
            rate(&|round| wall(&pipeline[round])),
            rate(&slowest),
            rate(&|round| slowest(round).max(work(round) / cores)),
        );
        println!(
            "{form}: {:.0}% of its slowest stage; {:.0}% of what the cores can do of all stages together; \
             {:.0}% of their CPU time; {:.0}% of the cores busy with it",
            per_round(&|round, took| slowest(round) / wall(took)),
            per_round(&|round, took| slowest(round).max(work(round) / cores) / wall(took)),
            per_round(&|round, took| took.cpu.as_secs_f64() / work(round)),
            per_round(&|_, took| took.cpu.as_secs_f64() / wall(took) / cores),
        );
    }
}
