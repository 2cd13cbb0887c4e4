//! Device filters of cgroup v2: eBPF programs of the type `BPF_PROG_TYPE_CGROUP_DEVICE` (bpf(2), Linux 4.15).

use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;

/// How often a program is given to the verifier again that a signal has stopped, which it says with `EAGAIN`: each signal is
/// dealt with on the way back, so the next time is another one's.
const ATTEMPTS: usize = 50;

/// More programs than the kernel allows on one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// The arguments of PROG_LOAD, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The arguments of PROG_ATTACH and PROG_DETACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// The arguments of PROG_QUERY.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// The arguments of PROG_GET_FD_BY_ID.
#[repr(C)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// bpf(2) with arguments of this module's own types, whose pointers are valid over the call.
fn bpf<T>(command: libc::c_long, args: &mut T) -> std::io::Result<libc::c_long> {
    // SAFETY: each structure above is the beginning of the kernel's union for its command, is passed with its size, and
    // has no pointer but to memory that its maker keeps alive and sized as it says.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(args), size_of::<T>()) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(done) }
}

/// A new descriptor that bpf(2) has given.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the command that gave it makes a new descriptor, which nobody else owns yet.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) }
}

/// Loads a device filter of these instructions (`struct bpf_insn`, 8 bytes each); it goes with its last descriptor and
/// its last cgroup.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN, `EINVAL` or `EACCES` with what the verifier says.
pub fn load_device_filter(instructions: &[u64]) -> Result<OwnedFd> {
    let call = || format!("bpf(PROG_LOAD, CGROUP_DEVICE, {} instructions)", instructions.len());
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"strata_devices");
    let count = u32::try_from(instructions.len()).map_err(|_| Error::new(call(), Errno::TOOBIG))?;
    let mut args = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_name: name,
        expected_attach_type: CGROUP_DEVICE,
        ..Load::default()
    };
    let load = |args: &mut Load| {
        let stopped = |result: &std::io::Result<libc::c_long>| {
            result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EAGAIN))
        };
        let mut result = bpf(PROG_LOAD, args);
        for _ in 1..ATTEMPTS {
            if !stopped(&result) {
                break;
            }
            result = bpf(PROG_LOAD, args);
        }
        result
    };
    match load(&mut args) {
        Ok(fd) => Ok(owned(fd)),
        Err(first) => Err(first).call(|| format!("{} [{}]", call(), verifier_log(&mut args).trim())),
    }
}

/// Loads once more, for the verifier's words, which cost time only where it fails.
fn verifier_log(args: &mut Load) -> String {
    let mut log = vec![0; 4096];
    (args.log_level, args.log_size, args.log_buf) = (1, 4096, log.as_mut_ptr() as u64);
    if let Ok(fd) = bpf(PROG_LOAD, args) {
        drop(owned(fd));
    }
    (args.log_level, args.log_size, args.log_buf) = (0, 0, 0);
    String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned()
}

/// Attaches a filter to a cgroup directory in the place of those it has; filters of the groups above hold too.
pub fn set_device_filter(cgroup: BorrowedFd<'_>, filter: BorrowedFd<'_>) -> Result<()> {
    let before = attached(cgroup)?;
    change(PROG_ATTACH, cgroup, filter, F_ALLOW_MULTI).call(|| "bpf(PROG_ATTACH, CGROUP_DEVICE)".into())?;
    // Between the two calls both hold, so that nothing is ever allowed that neither allows.
    for id in before {
        let mut args = ById { prog_id: id, next_id: 0, open_flags: 0 };
        let old = bpf(PROG_GET_FD_BY_ID, &mut args).call(|| format!("bpf(PROG_GET_FD_BY_ID, {id})"))?;
        change(PROG_DETACH, cgroup, owned(old).as_fd(), 0).call(|| format!("bpf(PROG_DETACH, {id})"))?;
    }
    Ok(())
}

fn change(
    command: libc::c_long,
    cgroup: BorrowedFd<'_>,
    filter: BorrowedFd<'_>,
    flags: u32,
) -> std::io::Result<()> {
    let mut args = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(filter),
        attach_type: CGROUP_DEVICE,
        attach_flags: flags,
    };
    bpf(command, &mut args).map(drop)
}

/// The IDs of a cgroup's own device filters.
fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut args = Query {
        target_fd: number(cgroup),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut args).call(|| "bpf(PROG_QUERY, CGROUP_DEVICE)".into())?;
    let count = usize::try_from(args.prog_cnt).unwrap_or(0).min(MAX_PROGRAMS);
    Ok(ids[..count].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    extern "C" fn nothing(_: libc::c_int) {}

    #[test]
    fn signals_do_not_keep_a_filter_from_being_loaded() {
        // r0 = 1, many times over, so that the verifier takes a while; exit.
        let mut filter = vec![0x0000_0001_0000_00b7; 2000];
        filter.push(0x95);
        if let Err(e) = load_device_filter(&filter) {
            println!("skipped: {e}");
            return;
        }
        // SAFETY: the handler does nothing, which is safe at any point of any thread.
        unsafe { libc::signal(libc::SIGURG, nothing as *const () as libc::sighandler_t) };
        // SAFETY: it only names this thread.
        let thread = unsafe { libc::pthread_self() };
        let done = AtomicBool::new(false);
        let loaded = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: the thread waits below for this one to end, and so is there.
                    unsafe { libc::pthread_kill(thread, libc::SIGURG) };
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
            let loaded = (0..1000).try_for_each(|_| load_device_filter(&filter).map(drop));
            done.store(true, Ordering::Relaxed);
            loaded
        });
        loaded.unwrap();
    }
}
