//! What the running kernel knows.

use rustix::io::Errno;

/// Calls that nothing can be done without, with the first Linux that has them (ARCHITECTURE.md, "Kernel features").
const REQUIRED: [(&str, libc::c_long, &str); 13] = [
    ("renameat2", libc::SYS_renameat2, "3.15"),
    ("memfd_create", libc::SYS_memfd_create, "3.17"),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, "5.1"),
    ("fsopen", libc::SYS_fsopen, "5.2"),
    ("fsconfig", libc::SYS_fsconfig, "5.2"),
    ("fsmount", libc::SYS_fsmount, "5.2"),
    ("move_mount", libc::SYS_move_mount, "5.2"),
    ("open_tree", libc::SYS_open_tree, "5.2"),
    ("clone3", libc::SYS_clone3, "5.3"),
    ("pidfd_open", libc::SYS_pidfd_open, "5.3"),
    ("openat2", libc::SYS_openat2, "5.6"),
    ("close_range", libc::SYS_close_range, "5.9"),
    ("mount_setattr", libc::SYS_mount_setattr, "5.12"),
];

/// No descriptor, no process, no address; as wide as a register.
const NONE: libc::c_long = -1;
const ZERO: libc::c_long = 0;

/// The required calls that this kernel does not know, or that a seccomp filter hides, each with the first Linux that has it.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let all = REQUIRED.iter().filter(|(_, number, _)| !knows(*number));
    all.map(|(name, _, since)| (*name, *since)).collect()
}

fn knows(number: libc::c_long) -> bool {
    // SAFETY: none of REQUIRED can do anything with these: no file has the descriptor -1, no process the ID -1, nothing lies at
    // the addresses 0 and -1, a clone3 and an openat2 of size 0 are refused, and so is a range that ends before it begins.
    let done = unsafe { libc::syscall(number, NONE, ZERO, NONE, ZERO, ZERO, ZERO) };
    done >= 0 || Errno::from_io_error(&std::io::Error::last_os_error()) != Some(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_everything() {
        assert_eq!(missing(), []);
        assert!(!knows(100_000));
    }
}
