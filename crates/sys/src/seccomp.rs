//! Loading a compiled seccomp filter (seccomp(2)).

use crate::error::{CallExt, Error, Result};
use rustix::io::Errno;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Loads `struct sock_filter[]`, in native byte order, for the calling thread and its children, for good.
///
/// # Errors
/// `EINVAL` if the bytes are no whole number of instructions or too many, `EACCES` without no_new_privs and
/// CAP_SYS_ADMIN, or what the kernel's verifier says.
pub fn load(filter: &[u8], flags: u32) -> Result<()> {
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, flags={flags:#x}, {} bytes)", filter.len());
    let count = filter.len() / INSTRUCTION;
    if !filter.len().is_multiple_of(INSTRUCTION) || count == 0 || count > MAX_INSTRUCTIONS {
        return Err(Error::new(call(), Errno::INVAL));
    }
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(INSTRUCTION)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        // At most MAX_INSTRUCTIONS, which fits.
        len: u16::try_from(count).unwrap_or(0),
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the program's length is that of the array, which lives over the call; the kernel copies it and only reads.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).call(call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lengths_are_refused() {
        assert_eq!(load(&[0; 7], 0).unwrap_err().errno, Errno::INVAL);
        assert_eq!(load(&[], 0).unwrap_err().errno, Errno::INVAL);
    }

    #[test]
    fn a_filter_takes_effect_in_its_thread() {
        // ld [0]; jeq #SYS_getppid, 0, 1; ret ERRNO|EPERM; ret ALLOW
        let instructions: [(u16, u8, u8, u32); 4] = [
            (0x20, 0, 0, 0),
            (0x15, 0, 1, u32::try_from(libc::SYS_getppid).unwrap()),
            (0x06, 0, 0, 0x0005_0000 | 1),
            (0x06, 0, 0, 0x7fff_0000),
        ];
        let mut bytes = Vec::new();
        for (code, jt, jf, k) in instructions {
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[jt, jf]);
            bytes.extend_from_slice(&k.to_ne_bytes());
        }
        std::thread::spawn(move || {
            crate::process::set_no_new_privs().unwrap();
            load(&bytes, 0).unwrap();
            // SAFETY: getppid(2) takes no argument.
            assert_eq!(unsafe { libc::syscall(libc::SYS_getppid) }, -1);
        })
        .join()
        .unwrap();
    }
}
