//! Numbers of system calls.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A machine that a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, with 32-bit programs where the profile allows them.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// This machine's; `None` on one for which there is no table.
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// Go's name, which profiles use in `includes.arches`.
    pub(super) fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    pub(super) fn native_abi(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }
}

/// A way of making system calls: numbers mean nothing without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    I386,
    Aarch64,
}

/// On x86-64, calls of the x32 ABI have this bit in their number and share the AUDIT_ARCH value (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    pub(super) const ALL: [Self; 3] = [Self::X86_64, Self::I386, Self::Aarch64];

    /// libseccomp's name.
    pub(super) fn scmp_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// Which machine can make such calls beside its own.
    pub(super) fn foreign_on(self, arch: Arch) -> bool {
        matches!((self, arch), (Self::I386, Arch::X86_64))
    }

    /// `AUDIT_ARCH_*` (linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// Whether arguments have 64 bits.
    pub(super) fn wide(self) -> bool {
        self != Self::I386
    }

    /// The number of a system call, if this ABI has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        self.table().get(name).copied()
    }

    /// Every name and number.
    pub(super) fn table(self) -> &'static HashMap<&'static str, u32> {
        macro_rules! table {
            ($module:ident) => {{
                static TABLE: LazyLock<HashMap<&'static str, u32>> = LazyLock::new(|| {
                    let bare = |name: &'static str| name.strip_prefix("r#").unwrap_or(name);
                    // Every number is that of the enum's member, and so not negative.
                    syscalls::$module::Sysno::iter()
                        .chain([syscalls::$module::Sysno::last()])
                        .map(|call| (bare(call.name()), call.id().unsigned_abs()))
                        .collect()
                });
                &TABLE
            }};
        }
        match self {
            Self::X86_64 => table!(x86_64),
            Self::I386 => table!(x86),
            Self::Aarch64 => table!(aarch64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        assert_eq!(Abi::X86_64.number("openat2"), Some(437));
        assert_eq!(Abi::I386.number("socketcall"), Some(102));
        assert_eq!(Abi::I386.number("break"), Some(17));
        assert_eq!(Abi::Aarch64.number("read"), Some(63));
        assert_eq!(Abi::Aarch64.number("open"), None);
        assert_eq!(Abi::X86_64.number("file_setattr"), Some(469));
    }
}
