//! Safe wrappers of the kernel interfaces that Strata needs. The only crate with `unsafe`.
//!
//! * [`clone`]: new processes of a single-threaded one, by clone3(2).
//! * [`process`]: reaping, attributes of the calling process, execve(2), descriptors.
//! * [`idle`]: a process that does nothing, where something is kept only for processes.
//! * [`mount`]: the new mount API, and overlayfs on top of it.
//! * [`path`]: resolution of untrusted paths beneath a directory.
//! * [`durable`]: writes that survive a power cut.
//! * [`ns`], [`userns`]: namespaces and their pins.
//! * [`seccomp`], [`caps`], [`keyring`]: what a process may do.
//! * `notify` (a feature, for tests): answering another process's system calls.
//! * [`bpf`]: which devices a cgroup's processes may use.
//! * [`priority`]: threads that work in the background.
//! * [`memfd`], [`tty`], [`signal`]: sealed files, pseudo-terminals, signals by name.
//! * [`memory`]: giving it back.
//! * [`kernel`]: whether it has the calls that are needed.
//!
//! Every error names the call, its arguments and the error number, as strace would print them.

pub mod bpf;
pub mod caps;
pub mod clone;
pub mod durable;
mod error;
pub mod idle;
pub mod kernel;
pub mod keyring;
pub mod memfd;
pub mod memory;
pub mod mount;
#[cfg(feature = "notify")]
pub mod notify;
pub mod ns;
pub mod path;
pub mod priority;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod tty;
pub mod userns;

pub use error::{CallExt, Error, Result};
