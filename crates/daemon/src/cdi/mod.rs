//! The Container Device Interface: devices that a vendor describes in files (CNCF TAG, container-device-interface, SPEC.md).
//!
//! ```text
//!   names of CRI's field and of annotations ─▶ find.rs ─▶ edits ─▶ edits.rs ─▶ environment, groups, nodes, rules, mounts,
//!   files of runtime.cdi_spec_dirs ─▶ spec.rs ─┘                      hooks, interfaces
//! ```
//!
//! Files are read anew for each container that asks for a device, so what was installed a moment ago is known.

mod edits;
mod find;
mod spec;

use crate::container::plan::user::User;
use crate::error::Result;
use crate::net::devices::NetDevice;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use strata_api::cri;
use strata_cgroup::DeviceRule;
use strata_wire::hooks::Hook;
use strata_wire::plan::{Device, Mount};

/// What devices add to a container, decided when it is created and kept in its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Injected {
    /// Device nodes.
    pub(crate) nodes: Vec<Device>,
    /// What its cgroup allows beside the usual.
    pub(crate) rules: Vec<DeviceRule>,
    /// Mounts.
    pub(crate) mounts: Vec<Mount>,
    /// Hooks, in order. They come from the node's files only: neither an image nor a request can bring one.
    pub(crate) hooks: Vec<Hook>,
    /// Interfaces of the node's that are moved to its pod.
    pub(crate) net_devices: Vec<NetDevice>,
}

/// What devices change in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// `NAME=value`, over what the container has.
    pub(crate) env: Vec<String>,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The rest.
    pub(crate) injected: Injected,
}

/// What the CDI devices that a container asks for change in it. `user` owns device nodes whose owner nobody says; `warn` is told
/// of files that cannot be used.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a device that is not known or whose parts are missing,
/// [`Unimplemented`](crate::error::Kind::Unimplemented) for one that needs resctrl.
pub(crate) fn changes(
    config: &cri::ContainerConfig,
    directories: &[PathBuf],
    user: &User,
    warn: impl Fn(&str),
) -> Result<Changes> {
    let names = find::names(config)?;
    if names.is_empty() {
        return Ok(Changes::default());
    }
    let files = find::Files::read(directories);
    let mut changes = Changes::default();
    for edits in files.edits(&names)? {
        edits::apply(edits, user, &mut changes)
            .map_err(|e| e.context(format!("CDI device {}", names.join(", "))))?;
    }
    // An error would have named them.
    for file in files.unreadable() {
        warn(&format!("CDI specification {file}; the devices in it are not known"));
    }
    Ok(changes)
}
