//! A network namespace that lives as long as this value and what was started in it.

use crate::Result;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use strata_sys::ns::{self, NsKind};

/// A network namespace of one's own, with loopback up.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// A new one.
    pub fn new() -> Result<Self> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    ns::unshare(&[NsKind::Net])?;
                    let up = Command::new("ip").args(["link", "set", "lo", "up"]).output()?;
                    if !up.status.success() {
                        return Err(
                            format!("ip link set lo up: {}", String::from_utf8_lossy(&up.stderr)).into()
                        );
                    }
                    Ok(Self(ns::open_self(NsKind::Net)?))
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The one that a file pins, such as a pod's.
    pub fn pinned(path: &Path) -> Result<Self> {
        Ok(Self(ns::open(path)?))
    }

    /// The same one again, for somebody else to keep.
    pub fn another(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Starts a thread in it, which keeps it.
    pub fn spawn(&self, f: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
        let own = self.0.try_clone()?;
        Ok(std::thread::spawn(move || {
            ns::setns(&own, NsKind::Net).unwrap_or_else(|e| panic!("{e}"));
            drop(own);
            f();
        }))
    }

    /// Runs something in it; what it starts stays in it.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    ns::setns(&self.0, NsKind::Net).unwrap_or_else(|e| panic!("{e}"));
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
