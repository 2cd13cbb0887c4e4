//! CreateContainer.

use super::scene::{Case, Scene, UNKNOWN, fails, fine};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{self as cri, ContainerConfig};
use strata_e2e::node::security as context;
use tonic::Code;

type Change = Box<dyn FnOnce(&mut ContainerConfig)>;

/// Lines of a table of CreateContainer, in the scene's pod.
fn creations<'a>(
    scene: &'a Scene<'_>,
    bad: Vec<(&'static str, Code, &'static str, Change)>,
) -> Vec<Case<'a>> {
    bad.into_iter()
        .map(|(input, code, says, change)| {
            let config = scene.container(change);
            fails("CreateContainer", input, code, says, move || {
                scene.node.try_create(&scene.pod_id, &scene.pod, &config).map(drop)
            })
        })
        .collect()
}

fn image(name: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: name.into(), ..Default::default() })
}

pub(super) fn mount(host: &str, inside: &str) -> Vec<cri::Mount> {
    vec![cri::Mount { host_path: host.into(), container_path: inside.into(), ..Default::default() }]
}

pub(super) fn device(host: &str, inside: &str, permissions: &str) -> Vec<cri::Device> {
    let (host_path, container_path) = (host.into(), inside.into());
    vec![cri::Device { host_path, container_path, permissions: permissions.into() }]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn create<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    let node = scene.node;
    let taken = |c: &mut ContainerConfig| c.metadata.as_mut().unwrap().name = "running".into();
    let mut cases = creations(
        scene,
        vec![
            ("no metadata", InvalidArgument, "metadata", Box::new(|c| c.metadata = None)),
            ("no name", InvalidArgument, "name", Box::new(|c| c.metadata.as_mut().unwrap().name.clear())),
            ("no image", InvalidArgument, "image", Box::new(|c| c.image = None)),
            ("image without a name", InvalidArgument, "image", Box::new(|c| c.image = image(""))),
            ("malformed image", NotFound, "A b", Box::new(|c| c.image = image("A b"))),
            (
                "unknown image",
                NotFound,
                "pulled",
                Box::new(|c| c.image = image("127.0.0.1:5000/e2e/absent:1")),
            ),
            // The caller's word is in the message, which is a header: a long one must not end the connection.
            (
                "an image's name of 100 kB",
                NotFound,
                "bytes] ",
                Box::new(|c| c.image = image(&"x".repeat(100_000))),
            ),
            ("unknown image ID", NotFound, "pulled", Box::new(|c| c.image = image(UNKNOWN))),
            (
                "log path that leaves",
                InvalidArgument,
                "log path",
                Box::new(|c| c.log_path = "../../x".into()),
            ),
            ("mount of nothing", InvalidArgument, "/x", Box::new(|c| c.mounts = mount("", "/x"))),
            ("mount nowhere", InvalidArgument, "mount on", Box::new(|c| c.mounts = mount("/tmp", ""))),
            ("mount on the root", InvalidArgument, "mount on", Box::new(|c| c.mounts = mount("/tmp", "/"))),
            (
                "mount that leaves",
                InvalidArgument,
                "mount on",
                Box::new(|c| c.mounts = mount("/tmp", "/a/../..")),
            ),
            ("relative source", InvalidArgument, "tmp", Box::new(|c| c.mounts = mount("tmp", "/x"))),
            // Found out by the container's own process only.
            (
                "file on a directory",
                InvalidArgument,
                "is a file",
                Box::new(|c| c.mounts = mount("/proc/version", "/bin")),
            ),
            (
                "directory on a file",
                InvalidArgument,
                "is a directory",
                Box::new(|c| c.mounts = mount("/tmp", "/bin/busybox")),
            ),
            (
                "mount's propagation",
                InvalidArgument,
                "propagation",
                Box::new(|c| {
                    c.mounts = mount("/tmp", "/x");
                    c.mounts[0].propagation = 99;
                }),
            ),
            // What is not known must not become the default, which may be less strict.
            (
                "groups' policy",
                InvalidArgument,
                "supplemental_groups_policy 9",
                Box::new(|c| context(c).supplemental_groups_policy = 9),
            ),
            (
                "seccomp's type",
                InvalidArgument,
                "profile_type 9",
                Box::new(|c| {
                    let profile = cri::SecurityProfile { profile_type: 9, ..Default::default() };
                    context(c).seccomp = Some(profile);
                }),
            ),
            (
                "AppArmor's type",
                InvalidArgument,
                "profile_type 9",
                Box::new(|c| {
                    let profile = cri::SecurityProfile { profile_type: 9, ..Default::default() };
                    context(c).apparmor = Some(profile);
                }),
            ),
            (
                "no such device",
                InvalidArgument,
                "/dev/absent",
                Box::new(|c| c.devices = device("/dev/absent", "", "rwm")),
            ),
            (
                "no device",
                InvalidArgument,
                "/etc/passwd",
                Box::new(|c| c.devices = device("/etc/passwd", "", "rwm")),
            ),
            (
                "device's permissions",
                InvalidArgument,
                "rwx",
                Box::new(|c| c.devices = device("/dev/null", "", "rwx")),
            ),
            (
                "two devices under one path",
                InvalidArgument,
                "/dev/twice: asked for twice",
                Box::new(|c| {
                    c.devices =
                        [device("/dev/null", "/dev/twice", ""), device("/dev/zero", "/dev/twice", "")]
                            .concat();
                }),
            ),
            (
                "relative directory",
                InvalidArgument,
                "working directory",
                Box::new(|c| c.working_dir = "tmp".into()),
            ),
            ("NUL in an argument", InvalidArgument, "NUL", Box::new(|c| c.args.push("a\0b".into()))),
            (
                "variable without a name",
                InvalidArgument,
                "environment",
                Box::new(|c| c.envs.push(cri::KeyValue { key: String::new(), value: "x".into() })),
            ),
            (
                "equals sign in a variable's name",
                InvalidArgument,
                "environment",
                Box::new(|c| c.envs.push(cri::KeyValue { key: "A=B".into(), value: "x".into() })),
            ),
            ("taken by another configuration", AlreadyExists, "remove it", Box::new(taken)),
        ],
    );
    let call = |id: &str, config: Option<ContainerConfig>| {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: id.into(),
            config,
            sandbox_config: Some(scene.pod.clone()),
        };
        node.cri(async |mut c| c.create_container(request).await).map(drop)
    };
    let good = || Some(scene.container(|_| {}));
    cases.extend([
        fails("CreateContainer", "nothing", InvalidArgument, "missing", move || call("", None)),
        fails("CreateContainer", "no configuration", InvalidArgument, "configuration", move || {
            call(&scene.pod_id, None)
        }),
        fails("CreateContainer", "no pod", InvalidArgument, "ID", move || call("", good())),
        fails("CreateContainer", "unknown pod", NotFound, UNKNOWN, move || call(UNKNOWN, good())),
        fails("CreateContainer", "stopped pod", FailedPrecondition, "ready", move || {
            call(&scene.stopped_pod, good())
        }),
        fine("CreateContainer", "the same again", || {
            let same = strata_e2e::node::container(node, "running", "exec sleep 1000");
            node.try_create(&scene.pod_id, &scene.pod, &same).map(|id| assert_eq!(id, scene.running))
        }),
    ]);
    cases
}

pub(super) fn profile(kind: ProfileType, file: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() })
}

fn capabilities(add: &str) -> Option<cri::Capability> {
    Some(cri::Capability { add_capabilities: vec![add.into()], ..Default::default() })
}

pub(crate) fn security<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::{FailedPrecondition, InvalidArgument};
    let mut bad: Vec<(&'static str, Code, &'static str, Change)> = vec![
        (
            "capability",
            InvalidArgument,
            "NONSENSE",
            Box::new(|c| context(c).capabilities = capabilities("NONSENSE")),
        ),
        (
            "seccomp without a file",
            InvalidArgument,
            "seccomp",
            Box::new(|c| context(c).seccomp = profile(ProfileType::Localhost, "")),
        ),
        (
            "unknown seccomp profile",
            InvalidArgument,
            "absent.json",
            Box::new(|c| context(c).seccomp = profile(ProfileType::Localhost, "absent.json")),
        ),
        (
            "seccomp profile that leaves",
            InvalidArgument,
            "seccomp",
            Box::new(|c| context(c).seccomp = profile(ProfileType::Localhost, "../../../etc/passwd")),
        ),
        (
            "negative user",
            InvalidArgument,
            "-1",
            Box::new(|c| context(c).run_as_user = Some(cri::Int64Value { value: -1 })),
        ),
        (
            "group without a user",
            InvalidArgument,
            "run_as_group",
            Box::new(|c| context(c).run_as_group = Some(cri::Int64Value { value: 1 })),
        ),
        (
            "unknown user",
            InvalidArgument,
            "nobody-here",
            Box::new(|c| context(c).run_as_username = "nobody-here".into()),
        ),
        ("negative group", InvalidArgument, "-5", Box::new(|c| context(c).supplemental_groups = vec![-5])),
        (
            "PID mode",
            InvalidArgument,
            "namespace",
            Box::new(|c| {
                context(c).namespace_options = Some(cri::NamespaceOption { pid: 99, ..Default::default() });
            }),
        ),
        (
            "the pod's PID namespace, where it has none",
            InvalidArgument,
            "PID namespace",
            Box::new(|c| context(c).namespace_options = Some(cri::NamespaceOption::default())),
        ),
        (
            "privileged in a pod that is not",
            FailedPrecondition,
            "privileged",
            Box::new(|c| context(c).privileged = true),
        ),
    ];
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        bad.push((
            "AppArmor without AppArmor",
            FailedPrecondition,
            "AppArmor",
            Box::new(|c| context(c).apparmor = profile(ProfileType::Localhost, "mine")),
        ));
    }
    if !std::path::Path::new("/sys/fs/selinux").exists() {
        let label = cri::SeLinuxOption { user: "u".into(), ..Default::default() };
        bad.push((
            "SELinux without SELinux",
            FailedPrecondition,
            "SELinux",
            Box::new(move |c| context(c).selinux_options = Some(label)),
        ));
    }
    creations(scene, bad)
}

fn limited(change: impl FnOnce(&mut cri::LinuxContainerResources)) -> impl FnOnce(&mut ContainerConfig) {
    move |c| change(c.linux.get_or_insert_default().resources.get_or_insert_default())
}

pub(crate) fn limits<'a>(scene: &'a Scene<'_>) -> Vec<Case<'a>> {
    use Code::InvalidArgument;
    creations(
        scene,
        vec![
            (
                "negative memory",
                InvalidArgument,
                "memory",
                Box::new(limited(|r| r.memory_limit_in_bytes = -5)),
            ),
            (
                "less memory and swap than memory",
                InvalidArgument,
                "memory_swap_limit_in_bytes",
                Box::new(limited(|r| {
                    r.memory_limit_in_bytes = 64 << 20;
                    r.memory_swap_limit_in_bytes = 32 << 20;
                })),
            ),
            ("negative shares", InvalidArgument, "cpu_shares", Box::new(limited(|r| r.cpu_shares = -5))),
            ("negative quota", InvalidArgument, "cpu_quota", Box::new(limited(|r| r.cpu_quota = -5))),
            ("negative period", InvalidArgument, "cpu_period", Box::new(limited(|r| r.cpu_period = -5))),
            (
                "no list of CPUs",
                InvalidArgument,
                "nonsense",
                Box::new(limited(|r| r.cpuset_cpus = "nonsense".into())),
            ),
            ("no such CPU", InvalidArgument, "9999", Box::new(limited(|r| r.cpuset_cpus = "9999".into()))),
            (
                "oom_score_adj",
                InvalidArgument,
                "oom_score_adj",
                Box::new(limited(|r| r.oom_score_adj = 5000)),
            ),
            (
                "size of huge pages",
                InvalidArgument,
                "3XB",
                Box::new(limited(|r| {
                    r.hugepage_limits = vec![cri::HugepageLimit { page_size: "3XB".into(), limit: 1 << 20 }];
                })),
            ),
            (
                "no file of a cgroup",
                InvalidArgument,
                "../x",
                Box::new(limited(|r| _ = r.unified.insert("../x".into(), "1".into()))),
            ),
        ],
    )
}
