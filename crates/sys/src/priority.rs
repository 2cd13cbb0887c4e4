//! How urgent a thread is: what runs in the background must not slow down what somebody waits for.

use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;

/// `IOPRIO_WHO_PROCESS`: of one thread (ioprio_set(2)).
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE`, where it belongs in an I/O priority.
const CLASS_IDLE: libc::c_int = 3 << 13;

/// Lets the calling thread have the processor and the disk after everybody else: the highest nice value, which on Linux is
/// a thread's own (setpriority(2)), and the idle class of I/O schedulers that know classes.
///
/// # Errors
/// If the kernel refuses one of them; the other is set all the same.
pub fn background_thread() -> Result<()> {
    let nice =
        rustix::process::setpriority_process(None, 19).call(|| "setpriority(PRIO_PROCESS, 0, 19)".into());
    // SAFETY: ioprio_set(2) takes three numbers and touches no memory; 0 means the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    if done < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(Error::new("ioprio_set(IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE)", errno));
    }
    nice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_steps_back() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let inside = std::thread::spawn(move || {
            background_thread().unwrap();
            nice()
        });
        assert_eq!(inside.join().unwrap(), 19);
        assert_eq!(nice(), before);
    }
}
