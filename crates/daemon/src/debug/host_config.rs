//! What a container asked of its host and got from it: Docker's `HostConfig` and `NetworkSettings`.

use crate::config::STRATA;
use crate::container::ContainerInfo;
use crate::net::Attachment;
use crate::pod::PodInfo;
use crate::request::NetworkMode;
use serde_json::{Map, Value, json};
use strata_api::cri;

/// What was asked for.
pub(super) fn host_config(info: &ContainerInfo, pod: &PodInfo, network: NetworkMode) -> Value {
    let (asked, extras) = (&info.record.config, info.extras());
    let linux = asked.linux.clone().unwrap_or_default();
    let (context, limits) = (linux.security_context.unwrap_or_default(), linux.resources.unwrap_or_default());
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let namespaces = context.namespace_options.clone().unwrap_or_default();
    let host = |mode: cri::NamespaceMode| if mode == cri::NamespaceMode::Node { "host" } else { "" };
    let binds: Vec<String> = asked
        .mounts
        .iter()
        .map(|m| format!("{}:{}{}", m.host_path, m.container_path, if m.readonly { ":ro" } else { "" }))
        .collect();
    let ulimits: Vec<Value> = extras
        .rlimits
        .iter()
        .map(|(name, soft, hard)| {
            let name = name.strip_prefix("RLIMIT_").unwrap_or(name).to_ascii_lowercase();
            json!({ "Name": name, "Soft": limit(*soft), "Hard": limit(*hard) })
        })
        .collect();
    let mut value = json!({
        "Binds": if binds.is_empty() { Value::Null } else { json!(binds) },
        "NetworkMode": network_name(network, pod),
        "PortBindings": bindings(&pod.config.port_mappings),
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": extras.auto_remove,
        "CapAdd": capabilities.add_capabilities,
        "CapDrop": capabilities.drop_capabilities,
        "Dns": pod.config.dns_config.clone().unwrap_or_default().servers,
        "GroupAdd": extras.groups,
        "IpcMode": host(namespaces.ipc()),
        "PidMode": host(namespaces.pid()),
        "Privileged": context.privileged,
        "ReadonlyRootfs": context.readonly_rootfs,
        "SecurityOpt": security_options(&context, info.extras().unlabelled),
        "Tmpfs": tmpfs(&extras.tmpfs),
        "PidsLimit": if extras.pids_limit > 0 { json!(extras.pids_limit) } else { Value::Null },
        "Ulimits": ulimits,
        "CgroupParent": pod.cgroup_parent,
        "Runtime": if pod.handler.is_empty() { STRATA } else { &pod.handler },
        "MaskedPaths": context.masked_paths,
        "ReadonlyPaths": context.readonly_paths,
    });
    if let Value::Object(object) = &mut value {
        object.extend(limits_of(&limits));
    }
    value
}

fn limits_of(limits: &cri::LinuxContainerResources) -> Map<String, Value> {
    let nano_cpus = match (limits.cpu_quota, limits.cpu_period) {
        (quota, period) if quota > 0 && period > 0 => quota.saturating_mul(1_000_000_000) / period,
        _ => 0,
    };
    let value = json!({
        "Memory": limits.memory_limit_in_bytes,
        "MemorySwap": limits.memory_swap_limit_in_bytes,
        "NanoCpus": nano_cpus,
        "CpuShares": limits.cpu_shares,
        "CpuQuota": limits.cpu_quota,
        "CpuPeriod": limits.cpu_period,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "OomScoreAdj": limits.oom_score_adj,
    });
    value.as_object().cloned().unwrap_or_default()
}

/// Docker writes -1 for no limit.
fn limit(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(-1)
}

fn security_options(context: &cri::LinuxContainerSecurityContext, unlabelled: bool) -> Vec<String> {
    use cri::security_profile::ProfileType;
    let profile = |key: &str, p: &cri::SecurityProfile| match p.profile_type() {
        ProfileType::RuntimeDefault => None,
        ProfileType::Unconfined => Some(format!("{key}=unconfined")),
        ProfileType::Localhost => Some(format!("{key}={}", p.localhost_ref)),
    };
    let privileges = context.no_new_privs.then(|| "no-new-privileges".to_owned());
    let seccomp = context.seccomp.as_ref().and_then(|p| profile("seccomp", p));
    let apparmor = context.apparmor.as_ref().and_then(|p| profile("apparmor", p));
    let parts = context.selinux_options.iter().flat_map(|own| {
        [("user", &own.user), ("role", &own.role), ("type", &own.r#type), ("level", &own.level)]
    });
    let parts = parts.filter(|(_, text)| !text.is_empty()).map(|(part, text)| format!("label={part}:{text}"));
    let free = unlabelled.then(|| "label=disable".to_owned());
    privileges.into_iter().chain(seccomp).chain(apparmor).chain(parts).chain(free).collect()
}

fn tmpfs(list: &[String]) -> Value {
    let pairs = list.iter().map(|text| {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        (target.to_owned(), Value::from(options))
    });
    Value::Object(pairs.collect())
}

fn network_name(mode: NetworkMode, pod: &PodInfo) -> &'static str {
    match mode {
        _ if pod.host_network => "host",
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Cri => "pod",
    }
}

fn bindings(ports: &[cri::PortMapping]) -> Value {
    let mut all = Map::new();
    for p in ports {
        let key = format!("{}/{}", p.container_port, p.protocol().as_str_name().to_ascii_lowercase());
        let port = if p.host_port == 0 { String::new() } else { p.host_port.to_string() };
        push(&mut all, key, json!({ "HostIp": p.host_ip, "HostPort": port }));
    }
    Value::Object(all)
}

fn push(all: &mut Map<String, Value>, key: String, item: Value) {
    if let Value::Array(list) = all.entry(key).or_insert_with(|| json!([])) {
        list.push(item);
    }
}

/// How the pod is connected.
pub(super) fn network(attachment: Option<&Attachment>, mode: NetworkMode) -> Value {
    let none = Attachment::default();
    let a = attachment.unwrap_or(&none);
    let mut ports = Map::new();
    for p in &a.ports {
        let ip = p.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
        let item = json!({ "HostIp": ip, "HostPort": p.host_port.to_string() });
        push(&mut ports, format!("{}/{}", p.container_port, p.protocol), item);
    }
    let ip = a.ips.first().map(ToString::to_string).unwrap_or_default();
    let gateway = a.gateway.map(|g| g.to_string()).unwrap_or_default();
    let end = json!({ "IPAddress": ip, "IPPrefixLen": a.prefix, "Gateway": gateway, "MacAddress": a.mac });
    let mut networks = Map::new();
    if attachment.is_some() {
        let name = if mode == NetworkMode::Bridge { "bridge" } else { a.provider.as_str() };
        networks.insert(name.to_owned(), end.clone());
    }
    let mut all = Map::from_iter([
        ("Ports".to_owned(), Value::Object(ports)),
        ("Networks".to_owned(), networks.into()),
    ]);
    all.extend(end.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_several_bindings_is_one_key() {
        let port = |host_port| cri::PortMapping {
            container_port: 53,
            host_port,
            protocol: cri::Protocol::Udp.into(),
            ..Default::default()
        };
        let all = bindings(&[port(53), port(0)]);
        assert_eq!(all["53/udp"].as_array().map(Vec::len), Some(2));
        assert_eq!(all["53/udp"][1]["HostPort"], "");
    }
}
