//! Capability names, and the set that a container gets unless it asks for another one.

/// Names in the order of their numbers, without `CAP_` (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container may do by default, the same set as with other runtimes: images are built to work with it.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// [`DEFAULT`] as a bit mask: bit n is capability n.
pub fn default_mask() -> u64 {
    DEFAULT.iter().filter_map(|name| by_name(name)).fold(0, |mask, bit| mask | bit)
}

/// The bit of a capability by its name, in any case, with or without `CAP_`.
pub fn by_name(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == bare).map(|n| 1 << n)
}

/// The names of the capabilities of a bit mask, with `CAP_`; those without a name are left out.
pub fn names_of(mask: u64) -> Vec<String> {
    let set = NAMES.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0);
    set.map(|(_, name)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_the_names_that_make_it() {
        let names = names_of(default_mask());
        assert_eq!(names.len(), DEFAULT.len());
        assert!(names.iter().all(|name| DEFAULT.contains(&name.as_str())), "{names:?}");
        assert!(names_of(1 << 63).is_empty());
    }

    #[test]
    fn the_default_is_the_usual_mask() {
        assert_eq!(default_mask(), 0xa80425fb);
        assert_eq!(by_name("sys_admin"), Some(1 << 21));
        assert_eq!(by_name("CAP_NONE"), None);
    }
}
