//! Profiles as Docker, containers/common and the OCI runtime specification write them.

use serde::{Deserialize, Deserializer, Serialize};

/// A seccomp profile: what happens to which system calls.
///
/// Reads both Docker's form (`archMap`, `includes`, `excludes`) and that of an OCI runtime `config.json`
/// (`architectures`). Unknown keys are ignored, as every other runtime does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// What happens to a system call that no rule matches.
    pub default_action: Action,
    /// The error number of a default action `SCMP_ACT_ERRNO`, or the message of `SCMP_ACT_TRACE`; EPERM if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// The architectures the profile is for beside the native one: `SCMP_ARCH_X86`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// The same per native architecture.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<ArchMap>,
    /// `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The rules.
    #[serde(default, deserialize_with = "or_empty")]
    pub syscalls: Vec<Rule>,
}

/// Which architectures' system calls a native one can make beside its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchMap {
    /// The native one: `SCMP_ARCH_X86_64`.
    pub architecture: String,
    /// The others.
    #[serde(default, deserialize_with = "or_empty")]
    pub sub_architectures: Vec<String>,
}

/// What happens to some system calls, perhaps depending on their arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The system calls; a name that an architecture does not have is nothing there.
    #[serde(default, deserialize_with = "or_empty")]
    pub names: Vec<String>,
    /// One more name, as Docker's oldest profiles write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happens.
    pub action: Action,
    /// The error number of `SCMP_ACT_ERRNO`, or the message of `SCMP_ACT_TRACE`; EPERM if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold; where two are on the same argument, any one of all of them suffices, as
    /// with runc and crun.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Condition>,
    /// When the rule applies.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Filter::is_empty")]
    pub includes: Filter,
    /// When it does not.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Filter::is_empty")]
    pub excludes: Filter,
}

/// What a rule's presence depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Capabilities in the container's bounding set: all of them to include, any of them to exclude.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Native architectures, by Go's names: `amd64`, `arm64`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// The oldest kernel, as `major.minor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub index: u32,
    /// What it is compared with; for [`Operator::MaskedEqual`] the mask.
    pub value: u64,
    /// For [`Operator::MaskedEqual`] what the masked argument is compared with.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Operator,
}

/// How an argument is compared: as an unsigned number of 64 bits (of 32 in a 32-bit system call).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// `!=`
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// `<`
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// `<=`
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// `==`
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// `>=`
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// `>`
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// `argument & value == value_two`
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What happens to a system call (seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// It is made.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// It fails.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// The thread is killed.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// The process is killed.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// SIGSYS
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// It is made and logged.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// A tracer decides; without one it fails with ENOSYS.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// A listener decides. Known so that it can be refused by name.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// What is wrong and where, if it is not JSON or an action or operator is unknown.
    pub fn parse(json: &[u8]) -> Result<Self, super::Error> {
        serde_json::from_slice(json).map_err(|e| super::Error::Parse(e.to_string()))
    }

    /// Strata's default: what ordinary programs need, and with a capability what that capability is for.
    pub fn default_profile() -> &'static Self {
        static DEFAULT: std::sync::LazyLock<Profile> = std::sync::LazyLock::new(|| {
            // The file is part of the program and a test reads it. Were it broken nevertheless, nothing may run.
            Profile::parse(include_bytes!("default.json")).unwrap_or_else(|_| Profile::refuse_all())
        });
        &DEFAULT
    }

    fn refuse_all() -> Self {
        Self {
            default_action: Action::KillProcess,
            default_errno_ret: None,
            architectures: Vec::new(),
            arch_map: Vec::new(),
            flags: Vec::new(),
            syscalls: Vec::new(),
        }
    }

    /// The bits of [`Profile::flags`].
    ///
    /// # Errors
    /// [`Error::Flag`](super::Error::Flag) for one that is unknown or needs a listener.
    pub fn flag_bits(&self) -> Result<u32, super::Error> {
        self.flags.iter().try_fold(0, |bits, flag| match flag.as_str() {
            // The filter is loaded in a process of one thread.
            "SECCOMP_FILTER_FLAG_TSYNC" => Ok(bits),
            "SECCOMP_FILTER_FLAG_LOG" => Ok(bits | 2),
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(bits | 4),
            other => Err(super::Error::Flag(other.into())),
        })
    }

    /// Names that no architecture of this crate's tables has: misspelt, or newer than the tables.
    pub fn unknown_names(&self) -> Vec<&str> {
        let known = |name: &str| super::arch::Abi::ALL.iter().any(|abi| abi.number(name).is_some());
        self.syscalls.iter().flat_map(Rule::all_names).filter(|name| !known(name)).collect()
    }
}

impl Rule {
    /// Every name, whichever key it is under.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).chain(Some(self.name.as_str()).filter(|n| !n.is_empty()))
    }
}

fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(from).map(Option::unwrap_or_default)
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_sound() {
        let profile = Profile::parse(include_bytes!("default.json")).unwrap();
        assert_eq!(&profile, Profile::default_profile());
        assert_eq!(profile.unknown_names(), Vec::<&str>::new());
    }

    #[test]
    fn both_forms_are_read() {
        let docker =
            br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO",
            "args":null,"comment":"","includes":{},"excludes":null}]}"#;
        let docker = Profile::parse(docker).unwrap();
        assert_eq!(docker.syscalls[0].all_names().collect::<Vec<_>>(), ["mkdir"]);
        let oci = br#"{"defaultAction":"SCMP_ACT_KILL","architectures":["SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#;
        let oci = Profile::parse(oci).unwrap();
        assert_eq!((oci.default_action, oci.flag_bits().unwrap()), (Action::KillThread, 2));
        let again = Profile::parse(&serde_json::to_vec(&oci).unwrap()).unwrap();
        assert_eq!(again, oci);
    }

    #[test]
    fn errors_say_where() {
        let text =
            br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_DENY"}]}"#;
        let message = Profile::parse(text).unwrap_err().to_string();
        assert!(message.contains("SCMP_ACT_DENY") && message.contains("line 1"), "{message}");
    }
}
