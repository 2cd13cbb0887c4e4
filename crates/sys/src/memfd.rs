//! Files in memory (memfd_create(2)): programs that nobody can change any more, and input.

use crate::error::{CallExt, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long pages are waited for that somebody else holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file in memory with this content, sealed against writing, growing, shrinking and unsealing.
///
/// A program run from it cannot be changed through /proc/PID/exe by whoever it runs for (CVE-2019-5736).
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let create = |flags| rustix::fs::memfd_create(name, flags);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC (Linux 6.3) says it is meant to be run; an older kernel does not know the flag and allows it.
    let fd = create(flags | MemfdFlags::EXEC)
        .or_else(|e| if e == rustix::io::Errno::INVAL { create(flags) } else { Err(e) })
        .call(|| format!("memfd_create({name:?})"))?;
    let mut file = File::from(fd);
    file.write_all(bytes).call(|| format!("write(memfd {name:?}, {} bytes)", bytes.len()))?;
    seal(&file, name)?;
    Ok(file.into())
}

/// A file in memory with this content, at its beginning: for a program that reads it on its standard input, all of it and without
/// anybody who writes. Sealing could take a while, and whoever is given it may write into it.
pub fn filled(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let create = |flags| rustix::fs::memfd_create(name, flags);
    // MFD_NOEXEC_SEAL came with Linux 6.3.
    let fd = create(MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
        .or_else(|e| if e == rustix::io::Errno::INVAL { create(MemfdFlags::CLOEXEC) } else { Err(e) })
        .call(|| format!("memfd_create({name:?})"))?;
    let mut file = File::from(fd);
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .call(|| format!("write(memfd {name:?}, {} bytes)", bytes.len()))?;
    Ok(file.into())
}

fn seal(file: &File, name: &str) -> Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let begun = Instant::now();
    loop {
        match rustix::fs::fcntl_add_seals(file, seals) {
            // Nobody else has it, but the kernel holds pages itself, as while it moves them; it waits for 150 ms before it says so.
            Err(rustix::io::Errno::BUSY) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done.call(|| format!("fcntl(memfd {name:?}, F_ADD_SEALS)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_can_be_run_but_not_written() {
        let fd = sealed("true", &std::fs::read("/bin/true").unwrap()).unwrap();
        assert_eq!(rustix::io::write(&fd, b"x"), Err(rustix::io::Errno::PERM));
        let path = crate::path::fd_path(&fd);
        let mut anew = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!(anew.write(b"x").is_err());
        drop(anew);
        assert!(std::process::Command::new(path).status().unwrap().success());
    }

    #[test]
    fn a_filled_file_is_read_from_its_beginning() {
        let fd = filled("text", b"content").unwrap();
        assert_eq!(std::io::read_to_string(File::from(fd)).unwrap(), "content");
    }

    #[test]
    fn pages_that_are_held_for_a_while_are_waited_for() {
        let fd = rustix::fs::memfd_create("held", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(fd);
        file.write_all(&[1; 4096]).unwrap();
        // Whoever could write to it holds it as well: EBUSY (fcntl(2)).
        // SAFETY: a mapping of its own, at an address of the kernel's choice, which nothing in this program refers to.
        let held = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        assert_ne!(held, libc::MAP_FAILED);
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(rustix::io::Errno::BUSY));
        std::thread::scope(|scope| {
            let sealing = scope.spawn(|| seal(&file, "held"));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!sealing.is_finished());
            // SAFETY: the whole of the mapping that was made above, and nothing refers to it.
            assert_eq!(unsafe { libc::munmap(held, 4096) }, 0);
            sealing.join().unwrap().unwrap();
        });
        assert_eq!(rustix::io::write(&file, b"x"), Err(rustix::io::Errno::PERM));
    }
}
