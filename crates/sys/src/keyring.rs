//! Session keyrings (keyrings(7)).

use crate::error::{CallExt, Result};

/// Gives the calling process an empty session keyring of its own, so that it cannot read its creator's keys.
///
/// # Errors
/// `ENOSYS` on a kernel without keyrings, `EDQUOT` when the user has too many keys.
pub fn new_session() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING); nothing is written.
    let id =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    if id < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        .call(|| "keyctl(JOIN_SESSION_KEYRING)".into())
}
