//! What is said twice: the same twice is said once, of two mounts the later one is seen, and a field holds against its
//! deprecated predecessor.

use super::containers::{device, mount, profile};
use super::scene::{Case, Scene, fine};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{self as cri, ContainerConfig};
use strata_e2e::node::{container, security as context};

/// A container that is to be made, and a script that sees in it what became of what was said.
fn seen<'a>(
    scene: &'a Scene<'_>,
    input: &'static str,
    script: &str,
    change: impl FnOnce(&mut ContainerConfig),
) -> Case<'a> {
    let node = scene.node;
    let mut config = container(node, "twice", script);
    config.log_path.clear();
    change(&mut config);
    fine("CreateContainer", input, move || {
        let id = node.try_create(&scene.pod_id, &scene.pod, &config)?;
        node.try_start(&id)?;
        let status = node.wait_exit(&id);
        assert_eq!(status.exit_code, 0, "{input}: {status:?}");
        node.remove_container(&id)
    })
}

pub(crate) fn containers<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    let volume = |name: &str| {
        let dir = scene.node.dir(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), "").unwrap();
        mount(dir.to_str().unwrap(), "/data")
    };
    let mounts = [volume("earlier"), volume("later")].concat();
    let devices = [device("/dev/null", "/dev/mine", "r"), device("/dev/null", "/dev/mine", "w")].concat();
    vec![
        seen(scene, "a mount's target twice", "[ \"$(ls /data)\" = later ]", |c| c.mounts = mounts),
        seen(scene, "a device twice", "cat /dev/mine && echo > /dev/mine", |c| c.devices = devices),
        seen(scene, "seccomp in both fields", "grep -q '^Seccomp:.*0$' /proc/self/status", |c| {
            context(c).seccomp = profile(ProfileType::Unconfined, "");
            set_old(context(c));
        }),
        seen(scene, "AppArmor in both fields", "! grep -q absent /proc/self/attr/current", |c| {
            context(c).apparmor = profile(ProfileType::Unconfined, "");
            set_old(context(c));
        }),
    ]
}

/// Sets what was used before to profiles that are not there.
#[allow(deprecated)]
fn set_old(context: &mut cri::LinuxContainerSecurityContext) {
    if context.seccomp.is_some() {
        context.seccomp_profile_path = "localhost/absent.json".into();
    } else {
        context.apparmor_profile = "localhost/absent".into();
    }
}

pub(crate) fn pods<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    vec![fine("RunPodSandbox", "a host port twice", || {
        let port = cri::PortMapping { container_port: 80, host_port: 18081, ..Default::default() };
        let config = scene.pod(|c| c.port_mappings = vec![port.clone(), port]);
        let id = scene.node.try_run_pod(&config)?;
        scene.node.remove_pod(&id)
    })]
}
