//! Seccomp: from profiles to filters.
//!
//! ```text
//!   profile.rs   JSON            ─┐
//!   policy.rs    which rules apply here, per ABI: number ─▶ verdict
//!   program.rs   classic BPF: one balanced tree over the numbers per ABI
//! ```
//!
//! How rules combine (as libseccomp does it, which profiles are written against):
//! * A rule with the default action changes nothing.
//! * A rule without conditions wins over those with some; of several without, the first one wins.
//! * Of rules with conditions, the first one that matches wins.
//!
//! Beyond the rules:
//! * Numbers above the highest one that the profile names on an ABI answer ENOSYS instead of a refusal, so that a C
//!   library newer than the profile falls back to older calls (runc does the same).
//! * x32 calls on x86-64 answer ENOSYS always; an ABI that the profile does not name kills the process.

mod arch;
mod policy;
mod profile;
mod program;
#[cfg(test)]
mod tests;

pub use arch::Arch;
pub use profile::{Action, ArchMap, Condition, Filter, Operator, Profile, Rule};

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile makes no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no profile.
    #[error("not a seccomp profile: {0}")]
    Parse(String),
    /// `SCMP_ACT_NOTIFY`
    #[error(
        "seccomp action SCMP_ACT_NOTIFY is not supported: nothing would answer the listener; \
         use SCMP_ACT_ERRNO or SCMP_ACT_TRAP"
    )]
    Notify,
    /// No such argument.
    #[error("seccomp rule for {name}: argument {index} does not exist; system calls have arguments 0 to 5")]
    Argument {
        /// The rule's first system call.
        name: String,
        /// The number.
        index: u32,
    },
    /// An error number that the kernel would clamp.
    #[error("seccomp error number {0} is too large; the largest is 4095")]
    Errno(u32),
    /// A version that is none.
    #[error("seccomp minKernel {0:?} is no version such as \"4.8\"")]
    Kernel(String),
    /// An unknown flag.
    #[error("seccomp flag {0:?} is not known; known are SECCOMP_FILTER_FLAG_LOG, _SPEC_ALLOW and _TSYNC")]
    Flag(String),
    /// The filter would be too long for the kernel.
    #[error(
        "seccomp filter of {0} instructions; the kernel takes at most 4096: use fewer rules with conditions"
    )]
    TooLong(usize),
}

/// Compiles a profile to `struct sock_filter[]` in native byte order.
///
/// `caps` is the container's bounding set as a bit mask, `kernel` the running kernel's major and minor version.
///
/// # Errors
/// See [`Error`].
pub fn compile(profile: &Profile, arch: Arch, caps: u64, kernel: (u32, u32)) -> Result<Vec<u8>, Error> {
    let policies = policy::policies(profile, arch, caps, kernel)?;
    let program = program::assemble(&policies)?;
    Ok(program.iter().flat_map(program::Instruction::bytes).collect())
}
