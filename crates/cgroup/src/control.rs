//! Freezing, thawing, signalling and killing.

use crate::group::Group;
use crate::hierarchy::Mode;
use crate::{Error, Result, file};
use rustix::io::Errno;
use std::path::Path;
use std::time::{Duration, Instant};
use strata_sys::CallExt;

/// How long a group may take to freeze.
const FREEZE_FOR: Duration = Duration::from_secs(10);

/// How long killed processes may take to go.
const KILL_FOR: Duration = Duration::from_secs(10);

impl Group {
    /// Stops every process in it and below it until [`Self::thaw`]; returns once all have stopped.
    ///
    /// # Errors
    /// [`Error::Freeze`] after ten seconds; the group is thawed again then.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)?;
        let deadline = Instant::now() + FREEZE_FOR;
        let mut pause = Duration::from_micros(100);
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(Error::Freeze(self.name()));
            }
            // v1 can get stuck in FREEZING until it is asked again (freezer-subsystem.rst).
            self.set_frozen(true)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let (path, value) = match self.v1_dir("freezer") {
            Some(dir) => (dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
            None => match self.v2_dir() {
                Some(dir) => (dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
                None => return Err(Error::NoController("freezer", "pausing".into())),
            },
        };
        Ok(file::write(&path, value).call(|| format!("write({path:?}, {value:?})"))?)
    }

    /// Whether every process of it has stopped.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(dir) = self.v1_dir("freezer") {
            return Ok(file::read(&dir.join("freezer.state"))?.trim() == "FROZEN");
        }
        let Some(dir) = self.v2_dir() else { return Ok(false) };
        Ok(file::field(&file::read(&dir.join("cgroup.events"))?, "frozen") == Some(1))
    }

    /// Signals every process in it and below it once.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        for pid in self.procs()? {
            match strata_sys::process::kill(pid, signal) {
                Err(e) if e.errno != Errno::SRCH => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends SIGKILL to all that is in it and below it, without waiting: nothing can fork its way out.
    ///
    /// A group that was killed has to be removed and made anew before a process is born into it: `CLONE_INTO_CGROUP`
    /// compares how often the group was killed with how often its parent's was, and kills a child that differs (seen on
    /// Linux 6.18).
    pub fn kill_now(&self) -> Result<()> {
        if self.procs()?.is_empty() {
            return Ok(());
        }
        if let Some(dir) = self.v2_dir() {
            // Linux 5.14. All processes of a container are in the unified hierarchy too, unless an older daemon made it.
            match file::write(&dir.join("cgroup.kill"), "1") {
                Ok(()) if self.hierarchy().mode() == Mode::V2 => return Ok(()),
                Ok(()) => {}
                Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
                Err(e) => Err(e).call(|| format!("write({dir:?}/cgroup.kill, 1)"))?,
            }
        }
        if self.procs()?.is_empty() {
            return Ok(());
        }
        self.kill_frozen()
    }

    /// Stopped processes cannot fork between the listing and the signal; a frozen one dies when it is thawed.
    fn kill_frozen(&self) -> Result<()> {
        let frozen = self.exists() && self.set_frozen(true).is_ok();
        let signalled = self.signal_all(9);
        if frozen {
            self.thaw()?;
        }
        signalled
    }

    /// Kills all that is in it and below it and waits until it has gone. An absent group is success.
    ///
    /// # Errors
    /// [`Error::Stuck`] after ten seconds, naming what does not die and where it waits.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_FOR;
        let mut pause = Duration::from_micros(100);
        while self.exists() {
            let left: Vec<i32> = self.procs()?.into_iter().filter(|pid| !is_zombie(*pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let stuck = left.iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join(", ");
                return Err(Error::Stuck { group: self.name(), stuck });
            }
            self.kill_now()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// A zombie holds no resources and is its parent's to reap.
fn is_zombie(pid: i32) -> bool {
    matches!(state(pid), Some('Z' | 'X') | None)
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// What a person needs to find out why a process does not die.
pub fn describe(pid: i32) -> String {
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name));
    let comm = read("comm").unwrap_or_default();
    let wchan = read("wchan").unwrap_or_default();
    let state = state(pid).map_or_else(|| "gone".to_owned(), |s| s.to_string());
    format!(
        "pid {pid} ({}) state {state} in {}",
        comm.trim(),
        if wchan.is_empty() { "?" } else { wchan.trim() }
    )
}
