//! Space: what takes it up says the same wherever it is asked, what is kept says why, and what nobody needs goes.

use k8s_cri::v1 as cri;
use serde_json::Value;
use strata_api::debug::{SystemDfRequest, SystemDfResponse};
use strata_e2e::node::{Node, container, pod, test};

/// What `system df -v` shows, in bytes. Asking has the containers measured.
fn df(node: &Node) -> SystemDfResponse {
    node.debug(async |mut c| c.system_df(SystemDfRequest { verbose: true }).await).unwrap()
}

fn row<'a>(df: &'a SystemDfResponse, name: &str) -> &'a strata_api::debug::system_df_response::Row {
    df.rows.iter().find(|row| row.r#type == name).unwrap_or_else(|| panic!("{name}: {df:?}"))
}

fn image_fs_info(node: &Node) -> cri::ImageFsInfoResponse {
    node.images(async |mut c| c.image_fs_info(cri::ImageFsInfoRequest {}).await).unwrap()
}

fn remove_image(node: &Node, image: &str) -> Result<(), tonic::Status> {
    let image = cri::ImageSpec { image: image.into(), ..Default::default() };
    let request = cri::RemoveImageRequest { image: Some(image) };
    node.images(async |mut c| c.remove_image(request).await).map(|_| ())
}

/// The used bytes of the one file system of a list.
fn used(filesystems: &[cri::FilesystemUsage]) -> (String, u64) {
    assert_eq!(filesystems.len(), 1, "{filesystems:?}");
    let fs = &filesystems[0];
    let bytes = fs.used_bytes.as_ref().map_or(0, |v| v.value);
    assert!(fs.timestamp > 0 && fs.inodes_used.as_ref().is_some_and(|v| v.value > 0), "{fs:?}");
    (fs.fs_id.as_ref().map(|id| id.mountpoint.clone()).unwrap_or_default(), bytes)
}

#[test]
fn everybody_is_told_the_same_numbers() {
    test(|node| {
        node.pull("busybox");
        node.pull("stacked");
        let config = pod(node, "writer");
        let pod_id = node.run_pod(&config);
        let script = "dd if=/dev/zero of=/data bs=1024 count=3072 2>/dev/null; exec sleep 1000";
        let id = node.run_container(&pod_id, &config, &container(node, "c", script));
        node.strata(&["run", "-d", "--name", "hidden", &node.image("stacked"), "sleep", "1000"]).ok();
        strata_e2e::eventually(20, "the data has been written and measured", || {
            let size = df(node).containers.iter().find(|c| c.id == id).map_or(0, |c| c.disk);
            if size >= 3 << 20 { Ok(()) } else { Err(format!("{size} bytes")) }
        });
        strata_e2e::eventually(20, "ImageFsInfo and system df agree", || {
            let (df, info) = (df(node), image_fs_info(node));
            let (images, containers) = (used(&info.image_filesystems), used(&info.container_filesystems));
            // The kubelet takes two mount points for two file systems.
            assert_eq!((&images.0, &containers.0), (&node.dir("root").display().to_string(), &images.0));
            let said = (row(&df, "Images").size, row(&df, "Containers").size);
            if said == (images.1, containers.1) { Ok(()) } else { Err(format!("{info:?}\n{:?}", df.rows)) }
        });
        let df = df(node);
        // The rows of each table are its total.
        let parts = df.layers.iter().map(|l| l.disk).chain(df.blobs.iter().map(|b| b.disk));
        assert_eq!(parts.sum::<u64>() + df.names, row(&df, "Images").size);
        assert_eq!(df.containers.iter().map(|c| c.disk).sum::<u64>(), row(&df, "Containers").size);
        assert_eq!((row(&df, "Containers").active, row(&df, "Images").active), (2, 2));
        assert_eq!(row(&df, "Images").reclaimable, 0, "both are in use: {:?}", df.rows);
        assert_eq!((row(&df, "Local Volumes").size, row(&df, "Build Cache").size), (0, 0));
        // What CRI says of an image is what it takes up.
        let listed: Value = node.crictl(&["images", "-o", "json"]).ok().json();
        for image in &df.images {
            assert_eq!(image.disk, image.shared_size + image.unique_size);
            let images = listed["images"].as_array().unwrap();
            let own = images.iter().find(|i| i["id"] == image.id.as_str()).unwrap();
            assert_eq!(own["size"], image.disk.to_string(), "{own}");
            assert_eq!(own["pinned"], image.repo_tags[0].contains("stacked"), "of a hidden container");
        }
        let stats = node.cri(async |mut c| {
            c.container_stats(cri::ContainerStatsRequest { container_id: id.clone() }).await
        });
        let layer = stats.unwrap().stats.and_then(|s| s.writable_layer).expect("it has been measured");
        let (mountpoint, bytes) = used(&[layer]);
        let disk = df.containers.iter().find(|c| c.id == id).unwrap().disk;
        assert!(bytes >= 3 << 20 && bytes < disk, "the layer is a part of the container: {bytes} of {disk}");
        assert_eq!(mountpoint, node.dir("root").display().to_string());
        node.crictl(&["imagefsinfo"]).ok().has(&["usedBytes", "mountpoint"]);
        node.strata(&["system", "df"]).ok().has(&[
            "TYPE",
            "RECLAIMABLE",
            "Images",
            "Local Volumes",
            "Build Cache",
        ]);
        node.strata(&["system", "df", "-v"]).ok().has(&[
            "Images space usage:",
            "SHARED SIZE",
            "UNIQUE SIZE",
            "Containers space usage:",
            "Local Volumes space usage:",
            "Build cache usage: 0B",
            "Layers space usage:",
            "Blobs space usage:",
            "Names of images:",
        ]);
        node.strata(&["ps", "-s"]).ok().has(&["hidden", "virtual"]);
    });
}

#[test]
fn what_is_kept_says_why() {
    test(|node| {
        node.pull("busybox");
        let image = node.image("busybox");
        let config = pod(node, "keeper");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "keeping", "exec sleep 1000"));
        let df = df(node);
        let container = format!("container {} (keeping of pod e2e/keeper)", &id[..12]);
        node.strata(&["gc", "--explain", &image]).ok().has(&[
            "image sha256:",
            &format!("named {image}"),
            &container,
        ]);
        let layer = &df.layers[0].key;
        node.strata(&["gc", "--explain", layer]).ok().has(&[
            &format!("layer {layer} ("),
            "bytes on disk)",
            "a layer of image sha256:",
            &image,
            &format!("which {container} stands on"),
        ]);
        node.strata(&["gc", "--explain", &layer[7..27]]).ok().has(&["a layer of image"]);
        let image_id = &df.images[0].id;
        let blob = df.blobs.iter().find(|b| b.digest != *image_id).unwrap();
        node.strata(&["gc", "--explain", &blob.digest])
            .ok()
            .has(&[&format!("blob {}", blob.digest), "of image"]);
        for what in [&id[..12], &id] {
            let explained = node.strata(&["gc", "--explain", what]).ok();
            explained.has(&[
                &container,
                "stays until it is removed",
                &format!("it stands on image {image_id}"),
            ]);
        }
        let missing = node.strata(&["gc", "--explain", "nothing-of-this-name"]).fails();
        assert!(missing.contains("no image, layer, blob or container is called"), "{missing}");
        node.strata(&["gc", "--dry-run"]).ok().has(&["Total reclaimable space: 0B (0 layers, 0 blobs)"]);
    });
}

#[test]
fn images_in_use_stay_by_every_door() {
    test(|node| {
        let image = node.pull("busybox");
        node.strata(&["tag", &image, "other/name:1"]).ok();
        let config = pod(node, "user");
        let pod_id = node.run_pod(&config);
        let id = node.run_container(&pod_id, &config, &container(node, "c", "exec sleep 1000"));
        let image_id = df(node).images[0].id.clone();
        let refused = remove_image(node, &image_id).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(
            refused.message().contains("in use by container") && refused.message().contains(&id[..12]),
            "{refused:?}"
        );
        let refused = node.strata(&["rmi", "-f", &image_id]).fails();
        assert!(refused.contains("cannot be forced") && refused.contains("running container"), "{refused}");
        node.strata(&["image", "prune", "-a", "-f"])
            .ok()
            .has(&["Total reclaimed space: 0B"])
            .lacks(&["Deleted"]);
        // A name may go, as long as there is another.
        remove_image(node, "other/name:1").unwrap();
        remove_image(node, "other/name:1").unwrap();
        assert_eq!(df(node).images[0].repo_tags, std::slice::from_ref(&image));
        node.stop_container(&id, 0).unwrap();
        assert_eq!(remove_image(node, &image).unwrap_err().code(), tonic::Code::FailedPrecondition);
        node.remove_container(&id).unwrap();
        // An ID means the image, with all its names; what is not there any more has been removed.
        node.strata(&["tag", &image, "other/name:2"]).ok();
        remove_image(node, &image_id).unwrap();
        remove_image(node, &image_id).unwrap();
        assert_eq!(df(node).images.len(), 0);
        // So does a digest.
        node.pull("busybox");
        let digest = df(node).images[0].repo_digests[0].clone();
        remove_image(node, &digest).unwrap();
        let left = df(node);
        assert_eq!((left.images.len(), row(&left, "Images").size), (0, 0), "{left:?}");
    });
}

#[test]
fn prune_removes_what_docker_would() {
    test(|node| {
        let image = node.pull("busybox");
        node.strata(&["run", "--name", "one", &image, "sh", "-c", "echo x > /x"]).ok();
        let commit = |label: &str| {
            let change = format!("LABEL kind={label}");
            node.strata(&["commit", "-c", &change, "one"]).ok().text().to_owned()
        };
        let (a, b) = (commit("a"), commit("b"));
        // Nobody says yes.
        let cancelled = node.strata(&["image", "prune"]).fails();
        assert!(cancelled.contains("image prune has been cancelled"), "{cancelled}");
        let would = node.strata(&["image", "prune", "--dry-run", "--filter", "label=kind=a"]).ok();
        would.has(&["Images that would be deleted:", &format!("deleted: {a}"), "Total reclaimable space: "]);
        assert_eq!(df(node).images.len(), 3);
        let refused = node.strata(&["image", "prune", "-f", "--filter", "size=1"]).fails();
        assert!(refused.contains("invalid filter"), "{refused}");
        // Too young.
        node.strata(&["image", "prune", "-f", "--filter", "until=24h"])
            .ok()
            .has(&["Total reclaimed space: 0B"]);
        let before = row(&df(node), "Images").size;
        let pruned = node.strata(&["image", "prune", "-f", "--filter", "label=kind=a"]).ok();
        pruned
            .has(&["Deleted Images:\n", &format!("deleted: {a}\n"), "\n\nTotal reclaimed space: "])
            .lacks(&[&b]);
        assert!(row(&df(node), "Images").size < before);
        // What has a name stays, and so does what a container stands on, with everything asked for.
        node.strata(&["image", "prune", "-f"]).ok().has(&[&format!("deleted: {b}")]);
        node.strata(&["image", "prune", "-a", "-f"]).ok().has(&["Total reclaimed space: 0B"]);
        assert_eq!(df(node).images.len(), 1);
        node.strata(&["rm", "one"]).ok();
        node.strata(&["image", "prune", "-f"]).ok().has(&["Total reclaimed space: 0B"]);
        let all = node.strata(&["image", "prune", "-a", "-f"]).ok();
        all.has(&[&format!("untagged: {image}\n"), "deleted: sha256:"]).lacks(&["reclaimed space: 0B"]);
        let left = df(node);
        assert_eq!((left.images.len(), row(&left, "Images").size), (0, 0), "{left:?}");
    });
}
