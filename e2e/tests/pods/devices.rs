//! CDI devices.

use super::{refused, sleeper};
use k8s_cri::v1 as cri;
use serde_json::json;
use strata_e2e::node::{Node, pod, security, test};
use tonic::Code;

fn install(node: &Node) {
    let library = node.dir("vendor-lib");
    std::fs::create_dir(&library).unwrap();
    std::fs::write(library.join("libvendor"), "library\n").unwrap();
    let gpu = json!({
        "cdiVersion": "0.7.0", "kind": "vendor.example/gpu",
        "devices": [
            { "name": "0", "containerEdits": {
                "deviceNodes": [
                    { "path": "/dev/gpu0", "hostPath": "/dev/full", "permissions": "rw" },
                    { "path": "/dev/gpu-pipe", "type": "p", "fileMode": 384 },
                ],
                "env": ["GPU=zero"], "additionalGids": [4242],
            } },
            { "name": "lost", "containerEdits": {
                "hooks": [{ "hookName": "createContainer", "path": "/usr/bin/no-such-hook" }],
            } },
            { "name": "rdt", "containerEdits": { "intelRdt": { "closID": "x" } } },
            { "name": "gone", "containerEdits": { "deviceNodes": [{ "path": "/dev/no-such-gpu" }] } },
        ],
        "containerEdits": { "mounts": [
            { "hostPath": library, "containerPath": "/vendor", "options": ["ro", "nosuid", "nodev", "rbind"] },
            { "hostPath": "tmpfs", "containerPath": "/scratch", "type": "tmpfs", "options": ["size=64k"] },
        ] },
    });
    std::fs::write(node.dir("cdi/gpu.json"), gpu.to_string()).unwrap();
    let net = "cdiVersion: 0.5.0\nkind: other.example/net\ndevices:\n- name: a\n  containerEdits:\n    env: [NET=a, GPU=taken]\n";
    std::fs::write(node.dir("cdi/net.yaml"), net).unwrap();
}

fn device(name: &str) -> cri::CdiDevice {
    cri::CdiDevice { name: name.into() }
}

#[test]
fn devices_bring_nodes_mounts_variables_and_groups() {
    test(|node| {
        install(node);
        let (_, id) = sleeper(node, "gpu", |_, config| {
            config.cdi_devices = vec![device("vendor.example/gpu=0")];
            config.annotations.insert("cdi.k8s.io/plugin".into(), "other.example/net=a".into());
            security(config).run_as_user = Some(cri::Int64Value { value: 1000 });
        });
        let script = "test -c /dev/gpu0 && test -p /dev/gpu-pipe && stat -c '%u %a' /dev/gpu0 /dev/gpu-pipe; \
                      (echo x > /dev/gpu0) 2>&1 | grep -c 'No space'; cat /vendor/libvendor; \
                      touch /vendor/x 2>/dev/null || echo refused; df -k /scratch | tail -n 1 | awk '{print $2}'; \
                      echo $GPU $NET; id -G";
        let out = node.exec(&id, script);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("1000 ") && lines[1] == "1000 600", "{out}");
        assert_eq!(lines[2..7], ["1", "library", "refused", "64", "taken a"], "{out}");
        assert!(lines[7].split(' ').any(|g| g == "4242"), "{out}");
        assert!(node.status(&id).user.unwrap().linux.unwrap().supplemental_groups.contains(&4242));
    });
}

/// What a FIFO of that name would say, nobody may ever write.
#[test]
fn a_file_that_is_none_holds_no_container_up() {
    test(|node| {
        install(node);
        std::fs::create_dir(node.dir("cdi/directory.yaml")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(node.dir("cdi/pipe.json")).status().unwrap();
        assert!(made.success());
        let (pod_id, id) = sleeper(node, "gpu", |_, config| {
            config.cdi_devices = vec![device("vendor.example/gpu=0")];
        });
        assert_eq!(node.exec(&id, "cat /vendor/libvendor"), "library\n");
        let (code, message) = refused(node, &pod_id, "other", |config| {
            config.cdi_devices = vec![device("vendor.example/gpu=9")];
        });
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.contains("pipe.json: it is no regular file"), "{message}");
    });
}

#[test]
fn devices_that_cannot_be_had_are_named() {
    test(|node| {
        install(node);
        node.pull("busybox");
        let pod_id = node.run_pod(&pod(node, "none"));
        for (name, code, why) in [
            ("vendor.example/gpu=9", Code::InvalidArgument, "not known"),
            ("vendor.example/gpu=rdt", Code::Unimplemented, "intelRdt"),
            ("vendor.example/gpu=gone", Code::InvalidArgument, "/dev/no-such-gpu"),
            ("gpu0", Code::InvalidArgument, "vendor/class=name"),
        ] {
            let (found, message) =
                refused(node, &pod_id, "none", |config| config.cdi_devices = vec![device(name)]);
            assert!(found == code && message.contains(why) && message.contains(name), "{found:?} {message}");
        }
        let (code, message) = refused(node, &pod_id, "none", |config| {
            config.cdi_devices = vec![device("vendor.example/gpu=lost")];
        });
        assert!(code == Code::Internal && message.contains("/usr/bin/no-such-hook"), "{code:?} {message}");
        // What is wrong with a hook is found out before anything is run.
        for (from, to, why) in [
            ("createContainer", "preCreate", "hookName \"preCreate\" is not known"),
            ("/usr/bin/no-such-hook", "no-such-hook", "must be absolute"),
        ] {
            let file = node.dir("cdi/gpu.json");
            let good = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, good.replace(from, to)).unwrap();
            let (code, message) = refused(node, &pod_id, "none", |config| {
                config.cdi_devices = vec![device("vendor.example/gpu=lost")];
            });
            assert!(code == Code::InvalidArgument && message.contains(why), "{code:?} {message}");
            std::fs::write(&file, good).unwrap();
        }
        let (code, message) = refused(node, &pod_id, "none", |config| {
            config.annotations.insert("cdi.k8s.io/x".into(), "vendor.example/gpu=8".into());
        });
        assert!(code == Code::InvalidArgument && message.contains("vendor.example/gpu=8"), "{message}");
    });
}
