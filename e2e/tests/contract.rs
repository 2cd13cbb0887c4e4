//! What the kubelet relies on: codes, idempotence, readiness, and that every call is built but the one that says so by name.

use k8s_cri::v1::{self as cri, CgroupDriver, PodSandboxState};
use strata_e2e::node::{Node, container, pod, test};
use tonic::{Code, Status};

const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("an error").code()
}

/// A call that is there, whatever it says to this.
#[track_caller]
fn built<T: std::fmt::Debug>(method: &str, result: Result<T, Status>) {
    if let Err(status) = result {
        assert_ne!(status.code(), Code::Unimplemented, "{method}: {status:?}");
    }
}

#[test]
fn every_call_is_built_but_one_that_says_so() {
    test(|node| {
        let id = || UNKNOWN.to_owned();
        let exec = cri::ExecRequest {
            container_id: id(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        built("Exec", node.cri(async |mut c| c.exec(exec).await));
        let attach = cri::AttachRequest { container_id: id(), stdout: true, ..Default::default() };
        built("Attach", node.cri(async |mut c| c.attach(attach).await));
        let forward = cri::PortForwardRequest { pod_sandbox_id: id(), port: vec![80] };
        built("PortForward", node.cri(async |mut c| c.port_forward(forward).await));
        let checkpoint = cri::CheckpointContainerRequest { container_id: id(), ..Default::default() };
        let missing = node.cri(async |mut c| c.checkpoint_container(checkpoint).await).unwrap_err();
        assert_eq!(missing.code(), Code::Unimplemented, "{missing:?}");
        // For whoever reads the kubelet's log.
        assert!(missing.message().contains("CheckpointContainer"), "{missing:?}");
        let update = cri::UpdateContainerResourcesRequest { container_id: id(), ..Default::default() };
        built("UpdateContainerResources", node.cri(async |mut c| c.update_container_resources(update).await));
        built(
            "GetContainerEvents",
            node.cri(async |mut c| c.get_container_events(cri::GetEventsRequest {}).await).map(drop),
        );
        built(
            "ListMetricDescriptors",
            node.cri(async |mut c| c.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await),
        );
        built(
            "ListPodSandboxMetrics",
            node.cri(async |mut c| c.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await),
        );
        let stats = cri::PodSandboxStatsRequest { pod_sandbox_id: id() };
        built("PodSandboxStats", node.cri(async |mut c| c.pod_sandbox_stats(stats).await));
        let stats = cri::ListPodSandboxStatsRequest { filter: None };
        built("ListPodSandboxStats", node.cri(async |mut c| c.list_pod_sandbox_stats(stats).await));
        let config = cri::UpdateRuntimeConfigRequest { runtime_config: None };
        built("UpdateRuntimeConfig", node.cri(async |mut c| c.update_runtime_config(config).await));
        let reopen = cri::ReopenContainerLogRequest { container_id: id() };
        built("ReopenContainerLog", node.cri(async |mut c| c.reopen_container_log(reopen).await));
    });
}

/// Status as the kubelet reads it: the runtime's condition.
fn runtime_condition(node: &Node) -> cri::RuntimeCondition {
    let answer = node.cri(async |mut c| c.status(cri::StatusRequest { verbose: false }).await).unwrap();
    let conditions = answer.status.unwrap().conditions;
    conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady").unwrap()
}

/// A read-only file system over a directory, gone when this is.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn over(dir: std::path::PathBuf) -> Self {
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some("size=64k")).unwrap();
        Self(dir)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// As after errors of a disk, for which kernels mount it read-only.
#[test]
fn a_runtime_that_cannot_write_is_not_ready() {
    test(|node| {
        let ready = runtime_condition(node);
        assert!(ready.status && ready.reason.is_empty(), "{ready:?}");
        for dir in ["root", "state"] {
            // The state's is made for the first pod.
            std::fs::create_dir_all(node.dir(dir)).unwrap();
            let covered = ReadOnly::over(node.dir(dir));
            let told = runtime_condition(node);
            assert!(!told.status && told.reason == "ReadOnlyFileSystem", "{told:?}");
            assert!(told.message.contains(node.dir(dir).to_str().unwrap()), "{told:?}");
            drop(covered);
            assert!(runtime_condition(node).status);
        }
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    test(|node| {
        let id = || UNKNOWN.to_owned();
        assert_eq!(code(node.try_status(UNKNOWN)), Code::NotFound);
        assert_eq!(code(node.try_start(UNKNOWN)), Code::NotFound);
        assert_eq!(code(node.try_exec(UNKNOWN, "true", 5)), Code::NotFound);
        let status = cri::PodSandboxStatusRequest { pod_sandbox_id: id(), verbose: false };
        assert_eq!(code(node.cri(async |mut c| c.pod_sandbox_status(status).await)), Code::NotFound);
        let stats = cri::ContainerStatsRequest { container_id: id() };
        assert_eq!(code(node.cri(async |mut c| c.container_stats(stats).await)), Code::NotFound);
        let pod = pod(node, "nowhere");
        assert_eq!(code(node.try_create(UNKNOWN, &pod, &container(node, "x", "true"))), Code::NotFound);
        // What is to be gone, and is gone, is as asked for.
        node.stop_pod(UNKNOWN).unwrap();
        node.remove_pod(UNKNOWN).unwrap();
        node.remove_container(UNKNOWN).unwrap();
        node.stop_container(UNKNOWN, 1).unwrap();
        remove_image(node, "127.0.0.1:5000/e2e/absent:latest").unwrap();
        let image = cri::ImageSpec { image: "127.0.0.1:5000/e2e/absent:latest".into(), ..Default::default() };
        let status = cri::ImageStatusRequest { image: Some(image), verbose: false };
        assert_eq!(node.images(async |mut c| c.image_status(status).await).unwrap().image, None);
        assert_eq!(code(node.try_pull("127.0.0.1:5000/e2e/absent:latest")), Code::NotFound);
        node.stop_registry();
        let refused = node.try_pull(&node.image("busybox")).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    });
}

#[test]
fn what_makes_no_sense_is_invalid() {
    test(|node| {
        assert_eq!(code(node.try_run_pod(&cri::PodSandboxConfig::default())), Code::InvalidArgument);
        let none = cri::RunPodSandboxRequest::default();
        assert_eq!(code(node.cri(async |mut c| c.run_pod_sandbox(none).await)), Code::InvalidArgument);
        assert_eq!(code(node.try_status("")), Code::InvalidArgument);
        for name in ["", "registry.example/UPPER", "a b", "host/name@sha256:12", "../../etc"] {
            assert_eq!(code(node.try_pull(name)), Code::InvalidArgument, "{name:?}");
        }
        let image = node.pull("busybox");
        let pod = pod(node, "odd");
        let pod_id = node.run_pod(&pod);
        let refuse = |change: &dyn Fn(&mut cri::ContainerConfig)| {
            let mut config = container(node, "odd", "true");
            change(&mut config);
            code(node.try_create(&pod_id, &pod, &config))
        };
        assert_eq!(refuse(&|c| c.metadata = None), Code::InvalidArgument);
        assert_eq!(refuse(&|c| c.image = None), Code::InvalidArgument);
        assert_eq!(refuse(&|c| c.log_path = "../../escape".into()), Code::InvalidArgument);
        assert_eq!(refuse(&|c| c.image = Some(spec("127.0.0.1:5000/e2e/absent:latest"))), Code::NotFound);
        assert_eq!(refuse(&|c| c.mounts = vec![mount("", "/x")]), Code::InvalidArgument);
        // Nothing of a refused container is left, nor does it hold the image.
        assert_eq!(list(node).len(), 0);
        remove_image(node, &image).unwrap();
    });
}

#[test]
fn a_container_that_cannot_be_made_leaves_nothing() {
    test(|node| {
        node.pull("busybox");
        let pod = pod(node, "fail");
        let pod_id = node.run_pod(&pod);
        let mut absent = container(node, "absent", "true");
        absent.command = vec!["/no/such/program".into()];
        match node.try_create(&pod_id, &pod, &absent) {
            Err(e) => assert!(e.message().contains("/no/such/program"), "{e:?}"),
            // Some only find out at the start.
            Ok(id) => {
                let refused = node.try_start(&id).unwrap_err();
                assert!(refused.message().contains("/no/such/program"), "{refused:?}");
                let status = node.wait_exit(&id);
                assert!(matches!(status.exit_code, 126..=128), "{status:?}");
                assert_eq!(status.reason, "StartError");
                node.remove_container(&id).unwrap();
            }
        }
        // A host path is made, as other runtimes do; one that cannot be is an error that names it.
        let missing = node.dir("volumes/made").display().to_string();
        let blocked = node.dir("config.toml/below-a-file").display().to_string();
        let mut source = container(node, "source", "true");
        source.mounts = vec![mount(&missing, "/data"), mount(&blocked, "/more")];
        let refused = node.try_create(&pod_id, &pod, &source).unwrap_err();
        assert!(refused.message().contains(&blocked), "{refused:?}");
        assert_eq!(list(node), Vec::<String>::new());
        source.mounts.pop();
        let id = node.run_container(&pod_id, &pod, &source);
        assert_eq!(node.wait_exit(&id).exit_code, 0);
        assert!(std::path::Path::new(&missing).is_dir());
    });
}

#[test]
fn the_same_call_twice_is_one() {
    test(|node| {
        let image = node.pull("busybox");
        let config = pod(node, "twice");
        let pod_id = node.run_pod(&config);
        assert_eq!(node.run_pod(&config), pod_id);
        let mut other = config.clone();
        other.hostname = "another".into();
        assert_eq!(code(node.try_run_pod(&other)), Code::AlreadyExists);
        let wanted = container(node, "one", "sleep 1000");
        let id = node.create(&pod_id, &config, &wanted);
        assert_eq!(node.create(&pod_id, &config, &wanted), id);
        let mut other = wanted.clone();
        other.args = vec!["sleep 2000".into()];
        assert_eq!(code(node.try_create(&pod_id, &config, &other)), Code::AlreadyExists);
        other.metadata.as_mut().unwrap().attempt = 1;
        let second = node.create(&pod_id, &config, &other);
        assert_ne!(second, id);
        node.try_start(&id).unwrap();
        assert_eq!(list(node), sorted([id.clone(), second.clone()]));

        let refused = remove_image(node, &image).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(
            refused.message().contains(&id[..12]) || refused.message().contains(&second[..12]),
            "{refused:?}"
        );

        node.stop_container(&id, 0).unwrap();
        node.stop_container(&id, 0).unwrap();
        assert_eq!(node.status(&id).exit_code, 137);
        node.remove_container(&id).unwrap();
        node.remove_container(&id).unwrap();
        for _ in 0..2 {
            node.stop_pod(&pod_id).unwrap();
            assert_eq!(node.pod_status(&pod_id).state(), PodSandboxState::SandboxNotready);
        }
        let refused = node.try_create(&pod_id, &config, &container(node, "late", "true")).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        node.remove_pod(&pod_id).unwrap();
        node.remove_pod(&pod_id).unwrap();
        // The pod's containers went with it, and so the image is free.
        assert_eq!(list(node), Vec::<String>::new());
        remove_image(node, &image).unwrap();
        remove_image(node, &image).unwrap();
    });
}

#[test]
fn many_at_once() {
    test(|node| {
        node.pull("busybox");
        std::thread::scope(|scope| {
            for n in 0..8 {
                scope.spawn(move || {
                    let config = pod(node, &format!("p{n}"));
                    let pod_id = node.run_pod(&config);
                    let script = format!("echo {n} > /file; exec sleep 1000");
                    let id = node.run_container(&pod_id, &config, &container(node, "c", &script));
                    let read = strata_e2e::eventually(20, "the file is there", || {
                        match node.try_exec(&id, "cat /file", 10) {
                            Ok((out, _, 0)) if !out.is_empty() => Ok(out),
                            other => Err(format!("{other:?}")),
                        }
                    });
                    assert_eq!(read, format!("{n}\n"));
                    node.stop_pod(&pod_id).unwrap();
                    node.remove_pod(&pod_id).unwrap();
                });
            }
        });
        // The same pod and image asked for by several at once.
        let config = pod(node, "same");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| node.run_pod(&config))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| node.pull("zstd"));
            }
        });
    });
}

#[test]
fn the_kubelet_is_told_the_cgroup_driver() {
    test(|node| {
        let answer = node.cri(async |mut c| c.runtime_config(cri::RuntimeConfigRequest {}).await).unwrap();
        assert_eq!(answer.linux.unwrap().cgroup_driver(), CgroupDriver::Cgroupfs);
        let version = node.version().unwrap();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("strata", "v1"));
    });
}

fn spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.into(), ..Default::default() }
}

fn mount(host: &str, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.into(), container_path: inside.into(), ..Default::default() }
}

fn remove_image(node: &Node, image: &str) -> Result<(), Status> {
    let request = cri::RemoveImageRequest { image: Some(spec(image)) };
    node.images(async |mut c| c.remove_image(request).await).map(drop)
}

/// The IDs of all containers, sorted.
fn list(node: &Node) -> Vec<String> {
    let request = cri::ListContainersRequest { filter: None };
    let listed = node.cri(async |mut c| c.list_containers(request).await).unwrap();
    let mut ids: Vec<String> = listed.containers.into_iter().map(|c| c.id).collect();
    ids.sort();
    ids
}

fn sorted<const N: usize>(mut ids: [String; N]) -> Vec<String> {
    ids.sort();
    ids.into()
}
