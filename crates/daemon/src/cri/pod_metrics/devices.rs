//! Names of block devices, as cAdvisor labels them: `/dev/sda`.

use std::collections::HashMap;

/// Names that have been looked up.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<(u32, u32), String>);

impl Devices {
    /// The name of a device; its numbers if it has none, as an anonymous one of overlayfs or NFS.
    pub(super) fn look_up(&mut self, major: u32, minor: u32) {
        self.0.entry((major, minor)).or_insert_with(|| {
            let uevent = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"));
            name(&uevent.unwrap_or_default(), major, minor)
        });
    }

    /// A name that has been looked up.
    pub(super) fn name(&self, major: u32, minor: u32) -> &str {
        self.0.get(&(major, minor)).map_or("", String::as_str)
    }
}

/// The line `DEVNAME=…` of a device's uevent file (sysfs-block, "uevent").
fn name(uevent: &str, major: u32, minor: u32) -> String {
    let name = uevent.lines().find_map(|l| l.strip_prefix("DEVNAME="));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_or_numbers() {
        assert_eq!(name("MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\n", 254, 0), "/dev/vda");
        assert_eq!(name("", 0, 42), "0:42");
    }
}
