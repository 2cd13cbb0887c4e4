//! CRI's ImageService.

use super::lists;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::ids::now;
use crate::images::{PullRequest, Removal, name_of};
use crate::node::Node;
use crate::request::Origin;
use futures_util::stream::BoxStream;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use strata_api::cri;
use strata_oci::config::chain_ids;
use strata_store::Image;
use tonic::{Request, Response, Status};

/// Serves ImageService.
#[derive(Debug)]
pub(crate) struct ImageService {
    node: Arc<Node>,
}

impl ImageService {
    /// The service of a node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn list(&self, filter: Option<&cri::ImageFilter>) -> Result<Vec<cri::Image>> {
        let wanted =
            filter.and_then(|f| f.image.as_ref()).map(|i| i.image.as_str()).filter(|i| !i.is_empty());
        let images = match wanted {
            None => self.node.store.images(),
            Some(name) => self.find(name)?.into_iter().collect(),
        };
        let kept = kept_images(&self.node);
        let usage = self.node.store.usage();
        let disks: HashMap<_, _> = usage.images.iter().map(|u| (&u.image.id, u.disk())).collect();
        let disk = |i: &Image| disks.get(&i.id).copied().unwrap_or(i.content_size);
        Ok(images.iter().map(|i| cri_image(i, disk(i), &kept)).collect())
    }

    /// The image that a text means; absence is an answer.
    fn find(&self, what: &str) -> Result<Option<Arc<Image>>> {
        match self.node.images.resolve(what) {
            Ok(image) => Ok(Some(image)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn remove(&self, what: &str) -> Result<()> {
        let Some(image) = self.find(what)? else { return Ok(()) };
        let (node, name) = (self.node.clone(), name_of(&image, what));
        let removal = Removal { id: image.id.clone(), name, force: false };
        let what = what.to_owned();
        match self.node.remove_image(removal, move |users| in_use(&node, &what, users)).await {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Says which containers keep an image.
fn in_use(node: &Node, what: &str, users: &[String]) -> String {
    let names: Vec<String> = users
        .iter()
        .map(|id| {
            let name = node.containers.get(id).map(|c| format!(" ({})", c.name())).unwrap_or_default();
            format!("{}{name}", crate::pod::short(id))
        })
        .collect();
    let s = if names.len() == 1 { "" } else { "s" };
    format!("image {what} is in use by container{s} {}; remove them first", names.join(", "))
}

/// The images of containers that the kubelet does not see: it would take them for unused.
fn kept_images(node: &Node) -> HashSet<String> {
    let infos = node.container_infos().into_iter().filter(|i| i.origin() == Origin::Strata);
    infos.map(|i| i.record.image_id.clone()).collect()
}

/// `disk` is what the image takes up, which is what its removal may free: the kubelet's image GC counts on it.
fn cri_image(image: &Image, disk: u64, kept: &HashSet<String>) -> cri::Image {
    let id = image.id.to_string();
    let (uid, username) = user(&image.config.config.user);
    cri::Image {
        pinned: image.irreplaceable() || kept.contains(&id),
        id,
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: disk,
        uid,
        username,
        spec: None,
    }
}

/// `user[:group]` as CRI tells it apart: a number, a name, or neither for root.
fn user(text: &str) -> (Option<cri::Int64Value>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(uid) => (Some(cri::Int64Value { value: uid.into() }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn verbose(image: &Image) -> HashMap<String, String> {
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|l| json!({ "diffID": l.diff_id, "key": l.key, "size": l.size, "blob": l.blob.digest }))
        .collect();
    let info = json!({
        "chainID": chain_ids(&image.config.rootfs.diff_ids).last(),
        "imageSpec": image.config,
        "manifest": image.manifest.digest,
        "layers": layers,
        "size": image.size,
        "contentSize": image.content_size,
    });
    [("info".to_owned(), info.to_string())].into()
}

fn name(image: Option<&cri::ImageSpec>) -> Result<&str, Status> {
    match image.map(|i| i.image.as_str()) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Error::invalid("no image is named: set image.image").into()),
    }
}

fn fs_usage(mountpoint: &str, timestamp: i64, bytes: u64, inodes: u64) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: Some(cri::UInt64Value { value: bytes }),
        inodes_used: Some(cri::UInt64Value { value: inodes }),
    }
}

type Pieces = BoxStream<'static, Result<cri::StreamImagesResponse, Status>>;

#[tonic::async_trait]
impl cri::image_service_server::ImageService for ImageService {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = self.list(request.get_ref().filter.as_ref())?;
        Ok(Response::new(lists::whole(cri::ListImagesResponse { images }, "StreamImages")?))
    }

    type StreamImagesStream = Pieces;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.list(request.get_ref().filter.as_ref())?;
        Ok(Response::new(lists::pieces(images, |images| cri::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.get_ref();
        let Some(image) = self.find(name(request.image.as_ref())?)? else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let info = if request.verbose { verbose(&image) } else { HashMap::new() };
        let disk = self.node.store.image_disk(&image.id);
        let image = Some(cri_image(&image, disk, &kept_images(&self.node)));
        Ok(Response::new(cri::ImageStatusResponse { image, info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let reference = name(request.image.as_ref())?.to_owned();
        // The kubelet sends empty credentials where it has none.
        let auth = request.auth.filter(|a| *a != cri::AuthConfig::default());
        // Not in a task of its own: a client that goes away gives its place up, and the last one ends the pull.
        let request = PullRequest { reference, auth, platform: None, deadline };
        let outcome = self.node.images.pull(request, None).await?;
        let image_ref = outcome.image.id.to_string();
        Ok(Response::new(cri::PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        self.remove(name(request.get_ref().image.as_ref())?).await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let usage = self.node.store.usage();
        // One mount point for both: the kubelet takes two as two file systems.
        let root = self.node.store.root().to_string_lossy().into_owned();
        // A sum is as old as the oldest of what it is of.
        let measured = usage.containers.iter().filter_map(|c| c.writable).map(|w| w.measured_at).min();
        let (images, containers) = (usage.image_bytes, usage.container_bytes);
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![fs_usage(&root, now(), images, usage.image_inodes)],
            container_filesystems: vec![fs_usage(
                &root,
                measured.unwrap_or_else(now),
                containers,
                usage.container_inodes,
            )],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        let number = |n| Some(cri::Int64Value { value: n });
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("0"), (number(0), String::new()));
        assert_eq!(user("1000:app"), (number(1000), String::new()));
        assert_eq!(user("nobody:nogroup"), (None, "nobody".into()));
    }

    #[test]
    fn an_image_must_be_named() {
        assert!(name(None).is_err() && name(Some(&cri::ImageSpec::default())).is_err());
        let spec = cri::ImageSpec { image: "busybox".into(), ..Default::default() };
        assert_eq!(name(Some(&spec)).unwrap(), "busybox");
    }
}
