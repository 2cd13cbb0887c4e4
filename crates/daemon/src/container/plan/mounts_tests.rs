use super::*;
use crate::error::Kind;

fn pod() -> PodFiles {
    PodFiles {
        shm: "/run/pod/shm".into(),
        hosts: "/pod/hosts".into(),
        hostname: "/pod/hostname".into(),
        resolv_conf: "/pod/resolv.conf".into(),
    }
}

fn asked(host: &str, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.into(), container_path: inside.into(), ..Default::default() }
}

fn targets(list: &[Mount]) -> Vec<&str> {
    list.iter().map(|m| m.target.as_str()).collect()
}

#[test]
fn parents_come_before_what_lies_below() {
    let (all, root) = mounts(&Wanted::default(), &pod()).unwrap();
    let targets = targets(&all);
    let at = |t: &str| targets.iter().position(|x| *x == t).unwrap();
    assert!(at("/dev") < at("/dev/pts") && at("/dev") < at("/dev/shm") && at("/sys") < at("/sys/fs/cgroup"));
    assert_eq!(root, Propagation::Private);
    assert!(all.iter().find(|m| m.target == "/sys").unwrap().attrs.readonly);
    let (all, _) = mounts(&Wanted { privileged: true, ..Default::default() }, &pod()).unwrap();
    assert!(!all.iter().find(|m| m.target == "/sys").unwrap().attrs.readonly);
}

#[test]
fn a_mount_takes_the_place_of_a_default_one() {
    let tmp = tempfile::tempdir().unwrap();
    let host = tmp.path().to_str().unwrap();
    let list = [asked(host, "/etc/hosts"), asked(host, "/dev/shm/"), asked(host, "data/../data/x")];
    let (all, _) = mounts(&Wanted { mounts: &list, ..Default::default() }, &pod()).unwrap();
    for target in ["/etc/hosts", "/dev/shm", "/data/x"] {
        let found: Vec<_> = all.iter().filter(|m| m.target == target).collect();
        assert_eq!(found.len(), 1, "{target}");
        assert!(matches!(&found[0].kind, MountKind::Bind { source, .. } if source == host), "{target}");
    }
}

#[test]
fn what_lies_below_a_mount_stays_however_it_was_listed() {
    let tmp = tempfile::tempdir().unwrap();
    let host = tmp.path().to_str().unwrap();
    let list = [asked(host, "/data/sub"), asked(host, "/data"), asked(host, "/etc"), asked(host, "/sys")];
    let (all, _) = mounts(&Wanted { mounts: &list, ..Default::default() }, &pod()).unwrap();
    let there = targets(&all);
    let at = |t: &str| there.iter().position(|x| *x == t).unwrap_or_else(|| panic!("{t}: {there:?}"));
    assert!(at("/data") < at("/data/sub") && at("/etc") < at("/etc/resolv.conf"));
    assert!(at("/sys") < at("/sys/fs/cgroup"));
    // The node's devices come with its terminals; memory is shared with the pod all the same.
    let list = [asked("/dev", "/dev")];
    let (all, _) = mounts(&Wanted { mounts: &list, ..Default::default() }, &pod()).unwrap();
    let below: Vec<_> = targets(&all).into_iter().filter(|t| t.starts_with("/dev/")).collect();
    assert_eq!(below, ["/dev/shm"]);
}

#[test]
fn a_missing_host_path_becomes_a_directory() {
    let tmp = tempfile::tempdir().unwrap();
    let missing = tmp.path().join("a/b");
    let list = [asked(missing.to_str().unwrap(), "/data")];
    mounts(&Wanted { mounts: &list, ..Default::default() }, &pod()).unwrap();
    assert!(missing.is_dir());
    std::fs::write(tmp.path().join("file"), "").unwrap();
    let list = [asked(tmp.path().join("file/x").to_str().unwrap(), "/data")];
    let error = mounts(&Wanted { mounts: &list, ..Default::default() }, &pod()).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let of =
        |m: cri::Mount| mounts(&Wanted { mounts: &[m], ..Default::default() }, &pod()).unwrap_err().kind();
    assert_eq!(of(asked("relative", "/x")), Kind::InvalidArgument);
    assert_eq!(of(asked("/tmp", "/")), Kind::InvalidArgument);
    assert_eq!(of(asked("/tmp", "/../..")), Kind::InvalidArgument);
    let recursive = cri::Mount { recursive_read_only: true, ..asked("/tmp", "/x") };
    assert_eq!(of(recursive), Kind::InvalidArgument);
    let image = cri::Mount {
        image: Some(cri::ImageSpec { image: "busybox".into(), ..Default::default() }),
        ..asked("", "/x")
    };
    assert_eq!(of(image), Kind::InvalidArgument);
}

#[test]
fn images_are_mounted_in_their_order() {
    let image = |inside: &str| cri::Mount {
        readonly: true,
        image: Some(cri::ImageSpec { image: "data".into(), ..Default::default() }),
        image_sub_path: "etc".into(),
        ..asked("", inside)
    };
    let list = [image("/one"), asked("/tmp", "/host"), image("/two")];
    let layers = [vec![PathBuf::from("/top/0"), "/layer".into()], vec![PathBuf::from("/top/1")]];
    let (all, root) =
        mounts(&Wanted { mounts: &list, images: &layers, ..Default::default() }, &pod()).unwrap();
    assert_eq!(root, Propagation::Private);
    for (target, top) in [("/one", "/top/0"), ("/two", "/top/1")] {
        let mount = all.iter().find(|m| m.target == target).unwrap();
        assert!(mount.attrs.readonly && !mount.attrs.noexec, "{mount:?}");
        let MountKind::Image { lowers, subpath } = &mount.kind else { panic!("{mount:?}") };
        assert_eq!((lowers[0].as_str(), subpath.as_str()), (top, "etc"));
    }
}

#[test]
fn volumes_of_the_image_give_way_to_mounts() {
    let volumes = ["/data", "/etc", "/srv/www", "/sys/fs/cgroup", "/", "relative"].map(str::to_owned);
    let list = [asked("/tmp", "/srv"), asked("/tmp", "/data")];
    let injected = [Mount { target: "/vendor".into(), kind: MountKind::Own, attrs: ATTRS }];
    let wanted = Wanted { mounts: &list, volumes: &volumes, injected: &injected, ..Default::default() };
    let (all, _) = mounts(&wanted, &pod()).unwrap();
    let own: Vec<&str> = all.iter().filter(|m| m.kind == MountKind::Own).map(|m| m.target.as_str()).collect();
    assert_eq!(own, ["/etc", "/relative", "/vendor"]);
    assert!(all.iter().any(|m| m.target == "/etc/hosts") && all.iter().any(|m| m.kind == MountKind::Cgroup));
}

#[test]
fn recursive_read_only_is_passed_on() {
    let m = cri::Mount { readonly: true, recursive_read_only: true, ..asked("/tmp", "/x") };
    let (all, _) = mounts(&Wanted { mounts: &[m], ..Default::default() }, &pod()).unwrap();
    let mount = all.iter().find(|m| m.target == "/x").unwrap();
    assert!(mount.attrs.readonly && mount.attrs.recursive_readonly);
}

#[test]
fn tmpfs_options_are_dockers() {
    let list = ["/run:size=64m,exec,uid=5".to_owned(), "/tmp".to_owned()];
    let (all, _) = mounts(&Wanted { tmpfs: &list, ..Default::default() }, &pod()).unwrap();
    let run = all.iter().find(|m| m.target == "/run").unwrap();
    assert!(!run.attrs.noexec && run.attrs.nosuid);
    let MountKind::Fs { options, .. } = &run.kind else { panic!("{run:?}") };
    assert!(options.contains(&("size".into(), Some("64m".into()))), "{options:?}");
    let bad = ["/run:bogus".to_owned()];
    assert!(mounts(&Wanted { tmpfs: &bad, ..Default::default() }, &pod()).is_err());
}
