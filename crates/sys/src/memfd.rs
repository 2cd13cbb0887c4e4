//! Files in memory that nobody can change any more (memfd_create(2)).

use crate::error::{CallExt, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::Write;
use std::os::fd::OwnedFd;

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
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).call(|| format!("write(memfd {name:?}, {} bytes)", bytes.len()))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).call(|| format!("fcntl(memfd {name:?}, F_ADD_SEALS)"))?;
    Ok(file.into())
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
}
