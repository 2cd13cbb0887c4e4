//! Policy: from what was asked for to the numbers and paths that a shim is given.
//!
//! * [`command`], [`user`]: what runs, as whom.
//! * [`mounts`], [`hostmounts`], [`images`], [`devices`]: what it finds.
//! * [`caps`], [`security`], [`modules`], [`resources`]: what it may.

pub(crate) mod caps;
pub(crate) mod command;
pub(crate) mod devices;
mod hostmounts;
pub(crate) mod images;
pub(crate) mod modules;
pub(crate) mod mounts;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod user;

use crate::error::{Error, Result};
use command::ImageDefaults;
use strata_oci::ImageConfig;
use strata_sys::path::Root;
use user::Databases;

/// The most bytes of a user database that are read.
const MAX_DATABASE: usize = 1 << 20;

/// What an image's config says of the process.
pub(crate) fn image_defaults(name: &str, config: &ImageConfig) -> ImageDefaults {
    let c = &config.config;
    ImageDefaults {
        name: name.to_owned(),
        user: c.user.clone(),
        env: c.env.iter().filter(|e| e.contains('=')).cloned().collect(),
        entrypoint: c.entrypoint.clone(),
        cmd: c.cmd.clone(),
        working_dir: c.working_dir.clone(),
        stop_signal: c.stop_signal.clone(),
        volumes: c.volumes.keys().cloned().collect(),
    }
}

/// Reads the user databases below a root; one that is not there, or no plain file, is empty.
///
/// # Errors
/// If one has more than a mebibyte.
pub(crate) fn databases(root: &Root) -> Result<Databases> {
    use rustix::io::Errno;
    let read = |path: &str| match root.read_to_string(path, MAX_DATABASE) {
        Ok(text) => Ok(text),
        Err(e) if e.errno == Errno::FBIG => {
            Err(Error::invalid(format!("/{path} of the image has more than {MAX_DATABASE} bytes")))
        }
        Err(_) => Ok(String::new()),
    };
    Ok(Databases { passwd: read("etc/passwd")?, group: read("etc/group")? })
}
