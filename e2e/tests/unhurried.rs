//! What takes long, or would, is nobody's business but a thread's of low priority: deleting, and walking through trees.

use crate::hung::Hung;
use k8s_cri::v1 as cri;
use rustix::fs::inotify;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use strata_api::debug::SystemDfRequest;
use strata_e2e::eventually;
use strata_e2e::node::{Node, container, leaks, pod, test};

fn image_fs_info(node: &Node) -> cri::ImageFsInfoResponse {
    node.images(async |mut c| c.image_fs_info(cri::ImageFsInfoRequest {}).await).unwrap()
}

#[test]
fn a_deletion_that_hangs_holds_up_nobody() {
    test(|node| {
        node.pull("busybox");
        node.stop();
        let stuck = node.dir("root/trash/stuck");
        let hung = Hung::mount(&stuck.join("mounted"));
        // What an earlier stratad has not deleted is deleted from the start on, which does not wait for it.
        node.launch();
        let Some(hung) = hung else { return };
        eventually(20, "the deleting thread hangs", || match hung.waiting() {
            0 => Err("nobody waits".into()),
            n => Ok(n),
        });

        let stacked = node.pull("stacked");
        node.strata(&["run", "--name", "work", &stacked, "sh", "-c", "echo new > /new; mkdir /dir"]).ok();
        node.strata(&["commit", "work", "mine:1"]).ok();
        node.strata(&["run", "--rm", "mine:1", "cat", "/new"]).ok().has(&["new"]);
        let config = pod(node, "pod");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        assert_eq!(node.exec(&id, "echo here"), "here\n");
        node.stop_container(&id, 0).unwrap();
        node.remove_container(&id).unwrap();
        node.remove_pod(&pod_id).unwrap();
        node.strata(&["rm", "work"]).ok();
        node.strata(&["rmi", "mine:1"]).ok();
        node.strata(&["rmi", &stacked]).ok();
        node.pull("stacked");
        node.strata(&["image", "prune", "-a", "-f"]).ok().has(&["deleted: sha256:"]);
        node.strata(&["gc"]).ok();
        assert_eq!(node.strata(&["images", "-q"]).ok().text(), "");
        image_fs_info(node);
        node.strata(&["system", "df", "-v"]).ok();
        node.strata(&["fsck"]).ok().has(&["no problems"]);

        // All of that was deleted while the thread waited still.
        assert_eq!(hung.waiting(), 1);
        let waits = leaks::names(&node.dir("root/trash"));
        assert!(waits.len() > 5, "{waits:?}");
        assert_eq!(leaks::names(&node.dir("root/layers")), Vec::<String>::new());
        hung.answer();
        drop(hung);
        eventually(40, "everything is deleted", || match leaks::names(&node.dir("root/trash")) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join(", ")),
        });
    });
}

/// Sees each directory that is read (inotify(7): `IN_ACCESS`, with `IN_ISDIR`).
struct Watch {
    inotify: OwnedFd,
    directories: BTreeMap<i32, PathBuf>,
}

impl Watch {
    fn new() -> Self {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        Self { inotify, directories: BTreeMap::new() }
    }

    fn add(&mut self, dir: &Path) {
        let number = inotify::add_watch(&self.inotify, dir, inotify::WatchFlags::ACCESS).unwrap();
        self.directories.insert(number, dir.to_owned());
    }

    /// A directory and all below it.
    fn add_tree(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                self.add_tree(&entry.path());
            }
        }
        self.add(dir);
    }

    /// The directories that were read since this was asked last.
    fn read(&self) -> BTreeSet<PathBuf> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut found = BTreeSet::new();
        loop {
            match events.next() {
                Err(rustix::io::Errno::WOULDBLOCK) => return found,
                Err(e) => panic!("{e}"),
                Ok(event) => {
                    assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW), "too much is read");
                    // With a name it is what is in the directory that was read: that has a watch of its own, or is a file.
                    let itself = event.file_name().is_none();
                    if itself && event.events().contains(inotify::ReadFlags::ISDIR) {
                        found.extend(self.directories.get(&event.wd()).cloned());
                    }
                }
            }
        }
    }
}

/// Asks everything that tells of images, containers and space.
fn ask(node: &Node, image: &str, id: &str, pod_id: &str) {
    image_fs_info(node);
    let listed =
        node.images(async |mut c| c.list_images(cri::ListImagesRequest { filter: None }).await).unwrap();
    assert_eq!(listed.images.len(), 2, "{listed:?}");
    for verbose in [false, true] {
        let image = cri::ImageSpec { image: image.into(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose };
        assert!(node.images(async |mut c| c.image_status(request).await).unwrap().image.is_some());
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose };
        assert!(node.cri(async |mut c| c.container_status(request).await).unwrap().status.is_some());
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod_id.into(), verbose };
        assert!(node.cri(async |mut c| c.pod_sandbox_status(request).await).unwrap().status.is_some());
        let df = node.debug(async |mut c| c.system_df(SystemDfRequest { verbose }).await).unwrap();
        assert!(df.rows.iter().any(|row| row.size > 0), "{df:?}");
    }
    let listed =
        node.cri(async |mut c| c.list_containers(cri::ListContainersRequest::default()).await).unwrap();
    assert_eq!(listed.containers.len(), 1, "{listed:?}");
    node.cri(async |mut c| c.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await).unwrap();
    let stats = cri::ListContainerStatsRequest::default();
    assert_eq!(node.cri(async |mut c| c.list_container_stats(stats).await).unwrap().stats.len(), 1);
    for command in [
        &["image", "ls"][..],
        &["image", "inspect", image],
        &["history", image],
        &["ps", "-a", "-s"],
        &["system", "df", "-v"],
        &["gc", "--explain", image],
    ] {
        node.strata(command).ok();
    }
}

#[test]
fn no_question_walks_through_a_tree() {
    test(|node| {
        let image = node.pull("busybox");
        node.pull("stacked");
        let config = pod(node, "pod");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        ask(node, &image, &id, &pod_id);
        eventually(20, "nothing is being written or deleted", || match leaks::unfinished(&node.dir("")) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join(", ")),
        });
        let mut watch = Watch::new();
        // What is below `containers` a thread measures now and then.
        for tree in ["layers", "blobs", "refs", "pods", "mountpoints", "tmp", "trash"] {
            watch.add_tree(&node.dir("root").join(tree));
        }
        for dir in [node.dir("root"), node.dir("root/containers")] {
            watch.add(&dir);
        }
        let layers = leaks::names(&node.dir("root/layers"));
        assert_eq!(layers.len(), 2);
        // Finding them was a walk.
        watch.read();
        for _ in 0..3 {
            ask(node, &image, &id, &pod_id);
        }
        assert_eq!(watch.read(), BTreeSet::new());

        // One that reads a directory is seen, and one that walks.
        let one = node.dir("root/layers").join(&layers[0]).join("fs");
        assert!(std::fs::read_dir(&one).unwrap().count() > 0);
        assert_eq!(watch.read(), [one].into());
        node.strata(&["fsck"]).ok();
        let read = watch.read();
        let walked = |layer: &String| read.contains(&node.dir("root/layers").join(layer).join("fs"));
        assert!(layers.iter().all(walked) && read.contains(&node.dir("root/layers")), "{read:?}");
        assert!(read.len() > 20, "{read:?}");
    });
}
