//! A container as `docker inspect` shows it.

use super::containers::{image_name, sizes};
use super::diff_commit::execution;
use super::host_config::{host_config, network};
use super::inspect_image::{execution as shown, time};
use crate::container::ContainerInfo;
use crate::container::state::ContainerState;
use crate::error::Result;
use crate::node::Node;
use crate::pod::PodInfo;
use crate::request::{NetworkMode, Origin};
use serde_json::{Value, json};
use std::sync::Arc;
use strata_api::{cri, debug};
use strata_store::{Image, Snapshot};
use strata_sys::signal;

pub(super) async fn inspect(
    node: &Arc<Node>,
    request: debug::InspectRequest,
) -> Result<debug::InspectResponse> {
    let container = node.find_container(&request.r#ref)?;
    let info = container.info();
    let size =
        if request.size { sizes(node, std::slice::from_ref(&info)).await?.remove(info.id()) } else { None };
    let size = size.map(|s| (s.rw, s.image));
    let pod = container.pod();
    let seen = Seen {
        pod: pod.info(),
        network: pod.record().network.mode,
        state_dir: pod.state_dir().to_string_lossy().into_owned(),
        image: node.images.resolve(&info.record.image_id).ok(),
        // One that is being removed has no layers any more, but can still be looked at.
        snapshot: node.store.snapshot(info.id()).ok(),
        size,
    };
    Ok(debug::InspectResponse { json: json!([document(&info, &seen)]).to_string() })
}

/// What is shown beside the container itself.
struct Seen {
    pod: PodInfo,
    network: NetworkMode,
    state_dir: String,
    image: Option<Arc<Image>>,
    snapshot: Option<Snapshot>,
    size: Option<(u64, u64)>,
}

fn document(info: &ContainerInfo, seen: &Seen) -> Value {
    let record = &info.record;
    let file = |name: &str| format!("{}/{name}", seen.state_dir);
    let (path, args) = record.process.args.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let labels = record.selinux.clone().unwrap_or_default();
    let mut value = json!({
        "Id": record.id,
        "Created": time(record.created_at),
        "Path": path,
        "Args": args,
        "State": state(info),
        "Image": record.image_id,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": record.log_path.as_deref().unwrap_or_default(),
        "Name": format!("/{}", info.name),
        "RestartCount": 0,
        "Driver": "overlay",
        "Platform": "linux",
        "AppArmorProfile": record.apparmor.as_deref().unwrap_or_default(),
        "ProcessLabel": labels.process.unwrap_or_default(),
        "MountLabel": labels.file.unwrap_or_default(),
        "ExecIDs": null,
        "HostConfig": host_config(info, &seen.pod, seen.network),
        "GraphDriver": { "Name": "overlay", "Data": graph(seen.snapshot.as_ref()) },
        "Mounts": mounts(info),
        "Config": config(info, seen),
        "NetworkSettings": network(seen.pod.attachment.as_ref(), seen.network),
        "PodId": record.pod_id,
    });
    if let (Value::Object(object), Some((own, image))) = (&mut value, seen.size) {
        object.insert("SizeRw".into(), own.into());
        object.insert("SizeRootFs".into(), own.saturating_add(image).into());
    }
    value
}

fn state(info: &ContainerInfo) -> Value {
    let (live, exit) = (&info.live, info.live.exit.clone().unwrap_or_default());
    let running = info.state() == ContainerState::Running;
    let status = match info.state() {
        ContainerState::Creating | ContainerState::Created => "created",
        ContainerState::Running if live.paused => "paused",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Removing => "removing",
        ContainerState::Unknown => "unknown",
    };
    json!({
        "Status": status,
        "Running": running,
        "Paused": running && live.paused,
        "Restarting": false,
        "OOMKilled": exit.oom_killed,
        "Dead": false,
        "Pid": if running { live.pid } else { 0 },
        "ExitCode": exit.code,
        "Error": exit.message,
        "StartedAt": time(live.started_at),
        "FinishedAt": time(exit.finished_at),
    })
}

fn graph(snapshot: Option<&Snapshot>) -> Value {
    let Some(snapshot) = snapshot else { return Value::Null };
    let lowers: Vec<_> = snapshot.lowers.iter().map(|p| p.to_string_lossy()).collect();
    json!({
        "LowerDir": lowers.join(":"),
        "UpperDir": snapshot.upper.to_string_lossy(),
        "WorkDir": snapshot.work.to_string_lossy(),
    })
}

fn propagation(mount: &cri::Mount) -> &'static str {
    match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => "rprivate",
        cri::MountPropagation::PropagationHostToContainer => "rslave",
        cri::MountPropagation::PropagationBidirectional => "rshared",
    }
}

fn mounts(info: &ContainerInfo) -> Vec<Value> {
    let binds = info.record.config.mounts.iter().map(|m| {
        json!({
            "Type": "bind",
            "Source": m.host_path,
            "Destination": m.container_path,
            "Mode": if m.readonly { "ro" } else { "" },
            "RW": !m.readonly,
            "Propagation": propagation(m),
        })
    });
    let tmpfs = info.extras().tmpfs.iter().map(|text| {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        json!({ "Type": "tmpfs", "Source": "", "Destination": target, "Mode": options, "RW": true, "Propagation": "" })
    });
    binds.chain(tmpfs).collect()
}

fn config(info: &ContainerInfo, seen: &Seen) -> Value {
    let (record, asked) = (&info.record, &info.record.config);
    let mut value = seen.image.as_ref().map_or_else(
        || json!({}),
        |image| {
            let mut config = execution(info, image);
            // What runs, rather than what it was put together from.
            config.env.clone_from(&record.process.env);
            config.working_dir.clone_from(&record.process.cwd);
            if info.origin() == Origin::Kubernetes {
                config.labels.extend(asked.labels.clone());
                if !asked.command.is_empty() {
                    config.entrypoint.clone_from(&asked.command);
                    config.cmd.clone_from(&asked.args);
                } else if !asked.args.is_empty() {
                    config.cmd.clone_from(&asked.args);
                }
            }
            shown(&config)
        },
    );
    if let Value::Object(object) = &mut value {
        let own = json!({
            "Hostname": seen.pod.config.hostname,
            "Domainname": "",
            "Image": image_name(info),
            "Tty": asked.tty,
            "OpenStdin": asked.stdin,
            "StdinOnce": asked.stdin_once,
            "AttachStdin": asked.stdin,
            "AttachStdout": true,
            "AttachStderr": true,
            "StopSignal": signal::name(record.stop_signal),
        });
        object.extend(own.as_object().cloned().unwrap_or_default());
        if let Some(timeout) = info.extras().stop_timeout {
            object.insert("StopTimeout".into(), timeout.into());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Live;
    use crate::container::record::{ContainerRecord, Exit, ProcessRecord, VERSION};
    use crate::net::{Attachment, PortMapping, Protocol};
    use crate::pod::state::PodState;
    use crate::request::Extras;

    fn info(config: cri::ContainerConfig, extras: Extras) -> ContainerInfo {
        let process = ProcessRecord { args: vec!["sh".into(), "-c".into()], ..Default::default() };
        let record = ContainerRecord {
            version: VERSION,
            id: "c".repeat(64),
            pod_id: "d".repeat(64),
            origin: Origin::Strata,
            config,
            extras,
            created_at: 1_700_000_000_000_000_000,
            image_id: format!("sha256:{}", "e".repeat(64)),
            image_ref: String::new(),
            process,
            volumes: Vec::new(),
            mounted: Vec::new(),
            injected: Default::default(),
            apparmor: Some("strata-default".into()),
            selinux: None,
            stop_signal: 15,
            log_path: Some("/log".into()),
            cgroup: String::new(),
            volatile: false,
            runs: 1,
            poststop_owed: false,
            complete: true,
        };
        let mut live = Live::at(ContainerState::Exited);
        live.exit = Some(Exit {
            code: 3,
            oom_killed: true,
            finished_at: 1_700_000_000_000_000_000,
            ..Exit::default()
        });
        ContainerInfo { record: Arc::new(record), name: "web".into(), live }
    }

    fn seen() -> Seen {
        let attachment = Attachment {
            ips: vec!["10.88.0.2".parse().unwrap()],
            ports: vec![PortMapping::parse("", 8080, 80, Protocol::Tcp).unwrap()],
            ..Attachment::default()
        };
        let pod = PodInfo {
            id: "d".repeat(64),
            config: Arc::new(cri::PodSandboxConfig { hostname: "h".into(), ..Default::default() }),
            origin: Origin::Strata,
            handler: String::new(),
            created_at: 0,
            state: PodState::Ready,
            attachment: Some(attachment),
            host_network: false,
            cgroup_parent: "/strata/pods/d".into(),
        };
        Seen {
            pod,
            network: NetworkMode::Bridge,
            state_dir: "/run/strata/pods/d".into(),
            image: None,
            snapshot: Some(Snapshot {
                lowers: vec!["/2".into(), "/1".into()],
                upper: "/u".into(),
                work: "/w".into(),
            }),
            size: Some((5, 7)),
        }
    }

    #[test]
    fn a_container_has_dockers_shape() {
        let mounts = vec![cri::Mount {
            host_path: "/h".into(),
            container_path: "/c".into(),
            readonly: true,
            ..Default::default()
        }];
        let resources =
            cri::LinuxContainerResources { cpu_quota: 150_000, cpu_period: 100_000, ..Default::default() };
        let linux = cri::LinuxContainerConfig { resources: Some(resources), security_context: None };
        let config = cri::ContainerConfig { mounts, linux: Some(linux), tty: true, ..Default::default() };
        let extras = Extras {
            tmpfs: vec!["/t:size=1m".into()],
            auto_remove: true,
            image_name: "busybox".into(),
            ..Default::default()
        };
        let value = document(&info(config, extras), &seen());
        assert_eq!(
            (&value["Name"], &value["Path"], &value["Args"]),
            (&json!("/web"), &json!("sh"), &json!(["-c"]))
        );
        assert_eq!(value["AppArmorProfile"], "strata-default");
        assert_eq!(value["State"]["Status"], "exited");
        assert_eq!((&value["State"]["ExitCode"], &value["State"]["OOMKilled"]), (&json!(3), &json!(true)));
        assert_eq!(value["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(value["State"]["FinishedAt"], "2023-11-14T22:13:20Z");
        assert_eq!(value["HostConfig"]["NanoCpus"], 1_500_000_000_i64);
        assert_eq!(value["HostConfig"]["Binds"], json!(["/h:/c:ro"]));
        assert_eq!(value["HostConfig"]["NetworkMode"], "bridge");
        assert_eq!(value["HostConfig"]["Tmpfs"], json!({ "/t": "size=1m" }));
        assert_eq!(value["HostConfig"]["AutoRemove"], true);
        assert_eq!(value["Config"]["Image"], "busybox");
        assert_eq!(value["Config"]["StopSignal"], "SIGTERM");
        assert_eq!(value["Mounts"].as_array().map(Vec::len), Some(2));
        assert_eq!(value["GraphDriver"]["Data"]["LowerDir"], "/2:/1");
        let network = &value["NetworkSettings"];
        assert_eq!(network["IPAddress"], "10.88.0.2");
        assert_eq!(network["Ports"], json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] }));
        assert_eq!(network["Networks"]["bridge"]["IPAddress"], "10.88.0.2");
        assert_eq!((&value["SizeRw"], &value["SizeRootFs"]), (&json!(5), &json!(12)));
    }
}
