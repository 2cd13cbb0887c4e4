//! Capabilities as bit masks: bit n is capability n (capabilities(7)).

use crate::error::{CallExt, Result};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// CAP_CHECKPOINT_RESTORE, the last one that Linux has (linux/capability.h, 5.9).
const LAST: u32 = 40;

/// Every capability.
pub const fn all() -> u64 {
    (1 << (LAST + 1)) - 1
}

fn each(set: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..64).filter(move |n| set & (1 << n) != 0).map(|n| CapabilitySet::from_bits_retain(1 << n))
}

/// The calling thread's bounding set.
pub fn bounding() -> Result<u64> {
    let mut set = 0;
    for cap in each(all()) {
        match rustix::thread::capability_is_in_bounding_set(cap) {
            Ok(true) => set |= cap.bits(),
            // A kernel without this capability.
            Ok(false) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).call(|| format!("prctl(PR_CAPBSET_READ, {cap:?})")),
        }
    }
    Ok(set)
}

/// The calling thread's permitted set.
pub fn permitted() -> Result<u64> {
    rustix::thread::capabilities(None).call(|| "capget".into()).map(|sets| sets.permitted.bits())
}

/// Takes everything but `keep` out of the bounding set; needs CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> Result<()> {
    // All 64 bits, lest a capability newer than this crate's table stay.
    for cap in each(!keep) {
        match rustix::thread::remove_capability_from_bounding_set(cap) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).call(|| format!("prctl(PR_CAPBSET_DROP, {cap:?})")),
        }
    }
    Ok(())
}

/// Sets the calling thread's effective, permitted and inheritable sets (capset(2)).
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets)
        .call(|| format!("capset({effective:#x}, {permitted:#x}, {inheritable:#x})"))
}

/// Sets the ambient set; each must be permitted and inheritable.
pub fn set_ambient(set: u64) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().call(|| "prctl(PR_CAP_AMBIENT_CLEAR_ALL)".into())?;
    for cap in each(set) {
        rustix::thread::configure_capability_in_ambient_set(cap, true)
            .call(|| format!("prctl(PR_CAP_AMBIENT_RAISE, {cap:?})"))?;
    }
    Ok(())
}

/// Whether capabilities are kept when the user becomes another one (PR_SET_KEEPCAPS); execve(2) resets it.
pub fn keep_over_setuid(keep: bool) -> Result<()> {
    rustix::thread::set_keep_capabilities(keep).call(|| format!("prctl(PR_SET_KEEPCAPS, {keep})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_that_of_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
        assert_eq!(bounding().unwrap(), u64::from_str_radix(line.trim(), 16).unwrap());
    }
}
