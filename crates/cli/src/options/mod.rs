//! What `run` and `create` take, and the request that it makes.

pub(crate) mod env;
pub(crate) mod mounts;
pub(crate) mod ports;
mod request;
pub(crate) mod ulimits;

use clap::{ArgAction, ValueEnum};
use std::path::PathBuf;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// If this node has none.
    #[default]
    Missing,
    /// Before every run.
    Always,
    /// Never.
    Never,
}

/// Options of `run` and `create`.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Environment variable NAME=value, or NAME to pass on this shell's
    #[arg(short, long, value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// User: name or uid, and :group or :gid
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// Host name of the container
    #[arg(short = 'h', long, default_value = "", hide_default_value = true)]
    pub(crate) hostname: String,
    /// Bind mount: /host/path:/path[:ro|rw|rshared|rslave|rprivate]
    #[arg(short, long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// Mount: type=bind|tmpfs,source=,target=[,readonly][,bind-propagation=]
    #[arg(long, value_name = "MOUNT")]
    pub(crate) mount: Vec<String>,
    /// tmpfs: /path[:options]
    #[arg(long, value_name = "PATH")]
    pub(crate) tmpfs: Vec<String>,
    /// Publish a port: [ip:][hostPort:]containerPort[/tcp|udp|sctp], or ranges of them
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Network: bridge, host or none
    #[arg(long, visible_alias = "net", default_value = "", hide_default_value = true)]
    pub(crate) network: String,
    /// Label NAME=value
    #[arg(short, long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// Every capability, every device, no seccomp filter
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Make the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Add a capability (ALL: every one)
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability (ALL: every one)
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// Memory limit, such as 64m
    #[arg(short, long, value_name = "BYTES", value_parser = crate::units::parse_binary)]
    pub(crate) memory: Option<i64>,
    /// Number of CPUs, such as 1.5
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub(crate) cpus: Option<i64>,
    /// Relative weight of CPU time
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_shares: i64,
    /// CPUs to run on, such as 0-2,4
    #[arg(long, value_name = "CPUS", default_value = "", hide_default_value = true)]
    pub(crate) cpuset_cpus: String,
    /// Limit of processes and threads (-1: none)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) pids_limit: i64,
    /// Security option: seccomp=FILE|unconfined, apparmor=PROFILE, no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    pub(crate) stop_signal: String,
    /// Seconds to wait after it before SIGKILL
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) stop_timeout: Option<i64>,
    /// PID namespace: host
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) pid: String,
    /// IPC namespace: host or private
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) ipc: String,
    /// Resource limit NAME=soft[:hard]
    #[arg(long, value_name = "ULIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Additional group of the process
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Run an init that passes signals on and reaps
    #[arg(long)]
    pub(crate) init: bool,
    /// Program instead of the image's entry point; "" clears it
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// When to pull the image
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) pull: PullPolicy,
    /// Do not show the pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the container's ID to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Image, then the command and its arguments
    #[arg(value_name = "IMAGE", required = true, trailing_var_arg = true)]
    pub(crate) image_and_command: Vec<String>,
}

fn parse_cpus(text: &str) -> Result<i64, String> {
    match crate::units::decimal(text, 1_000_000_000) {
        Some(n) if n > 0 => Ok(n),
        _ => Err(format!("invalid value for cpus: '{text}'; give a number such as 1.5")),
    }
}

impl Options {
    /// The image.
    pub(crate) fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// What replaces the image's command.
    pub(crate) fn command(&self) -> &[String] {
        self.image_and_command.get(1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &[&str]) -> Options {
        Line::try_parse_from(std::iter::once("run").chain(line.iter().copied())).unwrap().options
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        let o = parse(&["-it", "-h", "web", "busybox", "sh", "-c", "ls -l", "--rm", "--", "-x"]);
        assert!(o.interactive && o.tty && !o.rm);
        assert_eq!((o.hostname.as_str(), o.image()), ("web", "busybox"));
        assert_eq!(o.command(), ["sh", "-c", "ls -l", "--rm", "--", "-x"]);
        assert_eq!(parse(&["busybox", "-i"]).command(), ["-i"]);
        assert!(!parse(&["busybox", "-i"]).interactive);
    }

    #[test]
    fn unknown_flags_before_the_image_are_refused() {
        assert!(Line::try_parse_from(["run", "--nope", "busybox"]).is_err());
        assert!(Line::try_parse_from(["run"]).is_err());
        assert!(Line::try_parse_from(["run", "-m", "x", "busybox"]).is_err());
    }

    #[test]
    fn sizes_and_shares_are_numbers() {
        let o = parse(&["-m", "64m", "--cpus", "1.5", "--pids-limit", "-1", "--entrypoint", "", "x"]);
        assert_eq!((o.memory, o.cpus, o.pids_limit), (Some(64 << 20), Some(1_500_000_000), -1));
        assert_eq!(o.entrypoint.as_deref(), Some(""));
    }
}
