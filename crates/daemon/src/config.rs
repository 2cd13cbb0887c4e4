//! The configuration file, `/etc/strata/config.toml`. Flags win over it, it wins over the defaults.

mod handlers;
mod limits;
mod metrics;
mod registry;
mod streaming;

pub(crate) use handlers::{Handler, HandlerNetwork, Handlers, STRATA, SeccompDefault, UserIds};
pub(crate) use limits::Limits;
pub(crate) use metrics::{Metrics, MetricsAddress};
#[cfg(test)]
pub(crate) use registry::Seconds;
pub(crate) use registry::{Auth, Registry};
pub(crate) use streaming::Streaming;

use crate::cgroups::names;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the file is looked for if no flag names one; its absence is fine there.
pub(crate) const DEFAULT_PATH: &str = "/etc/strata/config.toml";

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What must outlive a reboot.
    pub(crate) root: PathBuf,
    /// What need not: sockets, pins, exit records.
    pub(crate) state: PathBuf,
    /// The gRPC socket.
    pub(crate) socket: PathBuf,
    /// How logs are written.
    pub(crate) log: Log,
    /// Registries.
    pub(crate) registry: Registry,
    /// Pod networks.
    pub(crate) network: Network,
    /// Control groups.
    pub(crate) cgroup: Cgroup,
    /// Shims and containers.
    pub(crate) runtime: Runtime,
    /// The server of Exec, Attach and PortForward.
    pub(crate) streaming: Streaming,
    /// The image store.
    pub(crate) store: StoreOptions,
    /// Bounds.
    pub(crate) limits: Limits,
    /// What stratad tells of itself.
    pub(crate) metrics: Metrics,
}

/// How logs are written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// `text` or `json`.
    pub(crate) format: LogFormat,
    /// As `RUST_LOG` understands it: `info`, `strata=debug,warn`.
    pub(crate) level: String,
}

/// A log's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Pod networks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// What Kubernetes' pods get: `cni` or `builtin`.
    pub(crate) cri: CriNetwork,
    /// The built-in network's addresses.
    pub(crate) subnet: String,
    /// The built-in network's bridge.
    pub(crate) bridge: String,
    /// Where network namespaces are pinned.
    pub(crate) netns_dir: PathBuf,
    /// Where CNI network lists are.
    pub(crate) cni_conf_dir: PathBuf,
    /// Where CNI plugins are.
    pub(crate) cni_bin_dirs: Vec<PathBuf>,
    /// What a network list is made from once the kubelet has said the pod CIDR; empty: none is made.
    pub(crate) cni_conf_template: PathBuf,
    /// How long one CNI plugin may take, in seconds.
    pub(crate) cni_timeout: u64,
}

/// Which network Kubernetes' pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CriNetwork {
    /// The cluster's CNI plugins.
    #[default]
    Cni,
    /// Strata's own bridge: single nodes, demonstrations, tests.
    Builtin,
}

/// Control groups.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cgroup {
    /// Below which everything of Strata's own lies, relative to each hierarchy's root.
    pub(crate) root: String,
    /// Who manages cgroups.
    pub(crate) driver: CgroupDriver,
}

/// Who manages cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    /// stratad, by the files.
    #[default]
    Cgroupfs,
    /// systemd, as slices and scopes.
    Systemd,
}

/// Shims and containers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Runtime {
    /// The shim's binary; empty: `strata-shim` beside stratad.
    pub(crate) shim: PathBuf,
    /// oom_score_adj of the shims.
    pub(crate) shim_oom_score_adj: i32,
    /// Where `Localhost` seccomp profiles are that are named by a relative path (the kubelet's).
    pub(crate) seccomp_dir: PathBuf,
    /// Where CDI specifications are; of two devices of one name the later directory's counts.
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    /// Whether every container gets an SELinux label, and not only those that ask for one.
    pub(crate) selinux: bool,
    /// A file that changes with every boot; for tests.
    pub(crate) boot_id: PathBuf,
    /// RuntimeClass handlers.
    pub(crate) handlers: Handlers,
}

/// The image store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreOptions {
    /// Keep no compressed layers once they are unpacked; push and repair fetch them again.
    pub(crate) discard_blobs: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/strata".into(),
            state: "/run/strata".into(),
            socket: "/run/strata/strata.sock".into(),
            log: Log::default(),
            registry: Registry::default(),
            network: Network::default(),
            cgroup: Cgroup::default(),
            runtime: Runtime::default(),
            streaming: Streaming::default(),
            store: StoreOptions::default(),
            limits: Limits::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cri: CriNetwork::Cni,
            subnet: "10.88.0.0/16".into(),
            bridge: "strata0".into(),
            netns_dir: "/run/netns".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cni_conf_template: PathBuf::new(),
            cni_timeout: 60,
        }
    }
}

impl CgroupDriver {
    /// As the configuration and the kubelet write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { root: "/strata".into(), driver: CgroupDriver::Cgroupfs }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            shim: PathBuf::new(),
            shim_oom_score_adj: -998,
            seccomp_dir: "/var/lib/kubelet/seccomp".into(),
            selinux: false,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            handlers: Handlers::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}; name another file with --config, or leave the flag out")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or a key is unknown or of the wrong type.
    #[error("{path}: line {line}, {text:?}: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// On which line, from 1.
        line: usize,
        /// What stands there.
        text: String,
        /// Why.
        why: String,
    },
    /// A value makes no sense.
    #[error("{key} = {value:?}: {why}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Config {
    /// Reads the file that a flag names, or the default one if it is there.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = match path {
            Some(p) => (p, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.into(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count();
            let text = text.lines().nth(line).unwrap_or_default().trim().to_owned();
            ConfigError::Parse { path: path.into(), line: line + 1, text, why: e.message().to_owned() }
        })
    }

    /// Refuses values that would only fail later, somewhere else.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let absolute: [(&'static str, &Path); 7] = [
            ("root", &self.root),
            ("state", &self.state),
            ("socket", &self.socket),
            ("network.netns_dir", &self.network.netns_dir),
            ("network.cni_conf_dir", &self.network.cni_conf_dir),
            ("registry.config_path", &self.registry.config_path),
            ("runtime.boot_id", &self.runtime.boot_id),
        ];
        for (key, path) in absolute {
            if !path.is_absolute() {
                return Err(bad(key, path.display(), "must be an absolute path"));
            }
        }
        for (key, path) in [
            ("runtime.shim", &self.runtime.shim),
            ("network.cni_conf_template", &self.network.cni_conf_template),
        ] {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return Err(bad(key, path.display(), "must be an absolute path or empty"));
            }
        }
        if let Some(dir) = self.network.cni_bin_dirs.iter().find(|d| !d.is_absolute()) {
            return Err(bad("network.cni_bin_dirs", dir.display(), "must be absolute paths"));
        }
        if self.network.cni_timeout == 0 {
            return Err(bad("network.cni_timeout", 0, "must be at least 1"));
        }
        let Cgroup { root, driver } = &self.cgroup;
        if !plain_cgroup(root) {
            let why = "must be an absolute path such as \"/strata\", without dots, and not the root itself";
            return Err(bad("cgroup.root", root, why));
        }
        names::check_configured(*driver, root).map_err(|why| bad("cgroup.root", root, why))?;
        let bridge = &self.network.bridge;
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(|c: char| c == '/' || c.is_whitespace())
        {
            return Err(bad("network.bridge", bridge, "must be an interface name of at most 15 bytes"));
        }
        if !is_ipv4_subnet(&self.network.subnet) {
            return Err(bad(
                "network.subnet",
                &self.network.subnet,
                "must be an IPv4 subnet such as 10.88.0.0/16, of at most 30 bits",
            ));
        }
        if !(-1000..=1000).contains(&self.runtime.shim_oom_score_adj) {
            let why = "must lie between -1000 and 1000 (proc_pid_oom_score_adj(5))";
            return Err(bad("runtime.shim_oom_score_adj", self.runtime.shim_oom_score_adj, why));
        }
        handlers::check(&self.runtime.handlers, self.cgroup.driver)?;
        self.limits.check()?;
        self.registry.check()?;
        self.metrics.parse().map_err(|why| bad("metrics.address", &self.metrics.address, why))?;
        self.streaming.check()?;
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            return Err(bad(
                "log.level",
                &self.log.level,
                "must be a level or a filter such as \"strata=debug,info\"",
            ));
        }
        Ok(())
    }
}

fn bad(key: &'static str, value: impl std::fmt::Display, why: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), why }
}

/// Whether a cgroup's path is absolute, not the root, and without empty, `.` and `..` parts.
pub(crate) fn plain_cgroup(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| !rest.is_empty() && rest.split('/').all(|p| !matches!(p, "" | "." | "..")))
}

fn is_ipv4_subnet(text: &str) -> bool {
    text.split_once('/').is_some_and(|(addr, bits)| {
        addr.parse::<std::net::Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| (8..=30).contains(&b))
    })
}

#[cfg(test)]
mod tests;
