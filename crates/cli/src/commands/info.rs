//! `strata info`

use super::Context;
use crate::error::Result;
use crate::output::{Output, complain};
use crate::template::Template;
use crate::units;
use serde_json::{Value, json};
use strata_api::debug::{InfoRequest, InfoResponse};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `json` or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let info = client.info(InfoRequest {}).await?.into_inner();
    match args.format.as_deref() {
        None | Some("") => Output::Stdout.bytes(text(&info).as_bytes())?,
        Some("json") => Output::Stdout.line(value(&info).to_string())?,
        Some(template) => {
            let shown = Template::parse(template).and_then(|t| t.render(&value(&info)));
            Output::Stdout.line(shown.map_err(crate::error::Error::Local)?)?;
        }
    }
    if args.format.is_none() {
        info.warnings.iter().for_each(|w| complain(format!("WARNING: {w}")));
    }
    Ok(0)
}

fn text(i: &InfoResponse) -> String {
    let stopped = i.containers.saturating_sub(i.containers_running.saturating_add(i.containers_paused));
    let ready =
        if i.network_ready { "ready".to_owned() } else { format!("not ready: {}", i.network_message) };
    let lines = [
        format!("Client:\n Version: {}\n\nServer:", env!("CARGO_PKG_VERSION")),
        format!(" Containers: {}", i.containers),
        format!(
            "  Running: {}\n  Paused: {}\n  Stopped: {stopped}",
            i.containers_running, i.containers_paused
        ),
        format!(" Pods: {}\n Images: {}\n Layers: {}", i.pods, i.images, i.layers),
        format!(" Server Version: {}", i.version),
        format!(" Network: {} ({ready})", i.network),
        format!(" Runtimes: {}", i.handlers.join(" ")),
        format!(" Cgroup Driver: {}\n Cgroup Mode: {}", i.cgroup_driver, i.cgroup_mode),
        format!(" Kernel Version: {}\n Operating System: {}", i.kernel, i.operating_system),
        format!(" Architecture: {}\n CPUs: {}", i.architecture, i.cpus),
        format!(" Total Memory: {}", units::binary_size(i.memory)),
        format!(" Root Dir: {}\n State Dir: {}\n Process ID: {}\n", i.root, i.state, i.pid),
    ];
    lines.join("\n")
}

fn value(i: &InfoResponse) -> Value {
    json!({
        "ServerVersion": i.version,
        "Containers": i.containers,
        "ContainersRunning": i.containers_running,
        "ContainersPaused": i.containers_paused,
        "Pods": i.pods,
        "Images": i.images,
        "Layers": i.layers,
        "Network": { "Name": i.network, "Ready": i.network_ready, "Message": i.network_message },
        "CgroupDriver": i.cgroup_driver,
        "CgroupMode": i.cgroup_mode,
        "KernelVersion": i.kernel,
        "OperatingSystem": i.operating_system,
        "Architecture": i.architecture,
        "NCPU": i.cpus,
        "MemTotal": i.memory,
        "RootDir": i.root,
        "StateDir": i.state,
        "Pid": i.pid,
        "Runtimes": i.handlers,
        "Warnings": i.warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown() {
        let info = InfoResponse {
            containers: 3,
            containers_running: 1,
            memory: 8 << 30,
            network: "cni".into(),
            network_message: "no configuration in /etc/cni/net.d".into(),
            ..InfoResponse::default()
        };
        let shown = text(&info);
        assert!(shown.contains("\n  Stopped: 2\n") && shown.contains("\n Total Memory: 8GiB\n"));
        assert!(shown.contains("Network: cni (not ready: no configuration in /etc/cni/net.d)"));
        assert_eq!(value(&info)["Network"]["Ready"], false);
    }
}
