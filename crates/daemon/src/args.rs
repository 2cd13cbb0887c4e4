//! The command line.

use crate::config::{Config, ConfigError, LogFormat};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The Strata container runtime: serves Kubernetes' CRI, and the strata command, on a unix socket.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "stratad", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/strata/config.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Where images and records are kept [default: /var/lib/strata]
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// Where sockets and pins are kept until the next reboot [default: /run/strata]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The gRPC socket [default: /run/strata/strata.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How logs are written [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<LogFormat>,
    /// A level or a filter such as stratad=debug,info [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// Check the configuration, print "ok" or what is wrong with it, and exit
    #[arg(long)]
    pub(crate) check_config: bool,
    /// What to do instead of serving
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What stratad can do while it does not serve.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the store, while no stratad serves it; `strata fsck` does it while one does
    Fsck(Fsck),
}

/// How the store is checked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fsck {
    /// Repair what can be repaired: from blobs that are here, or from the registries
    #[arg(long)]
    pub(crate) repair: bool,
    /// Read no file's content: sizes and attributes only
    #[arg(long)]
    pub(crate) quick: bool,
}

impl Args {
    /// The configuration: the file, with the flags over it.
    pub(crate) fn configuration(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        let socket_follows = self.socket.is_none() && config.socket == Config::default().socket;
        if let Some(state) = &self.state {
            config.state.clone_from(state);
            // A private state directory has its own socket, or two daemons would fight over the default one.
            if socket_follows {
                config.socket = state.join("strata.sock");
            }
        }
        let set = |to: &mut PathBuf, from: &Option<PathBuf>| {
            if let Some(path) = from {
                to.clone_from(path);
            }
        };
        set(&mut config.root, &self.root);
        set(&mut config.socket, &self.socket);
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("c.toml");
        std::fs::write(&file, "root = \"/file\"\nstate = \"/file-state\"\n[log]\nformat = \"json\"\n")
            .unwrap();
        let parse = |args: &[&str]| {
            let mut all = vec!["stratad", "--config", file.to_str().unwrap()];
            all.extend(args);
            Args::parse_from(all).configuration().unwrap()
        };
        let config = parse(&["--root", "/flag"]);
        assert_eq!((config.root, config.state), ("/flag".into(), "/file-state".into()));
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(parse(&["--log-format", "text"]).log.format, LogFormat::Text);
        assert_eq!(parse(&["--state", "/s"]).socket, PathBuf::from("/s/strata.sock"));
        assert_eq!(parse(&["--state", "/s", "--socket", "/x"]).socket, PathBuf::from("/x"));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
