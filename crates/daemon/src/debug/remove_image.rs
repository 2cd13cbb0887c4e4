//! `rmi`: which names go, whether the image goes with them, and Docker's words where it may not.
//!
//! ```text
//!   by a name   others remain      that name goes
//!               the last one       the image goes; with containers: conflict, or forced: the name only
//!   by ID       one repository     all names go, and the image
//!               several            conflict, or forced
//!               running container  conflict, always
//!               stopped container  conflict, or forced: all names go, and the image waits for the container
//! ```

use super::images::{familiar, find};
use crate::container::state::ContainerState;
use crate::error::{Error, Result};
use crate::images::{Removal, name_of};
use crate::node::Node;
use crate::pod::short;
use std::collections::BTreeSet;
use std::sync::Arc;
use strata_api::debug;
use strata_oci::Reference;
use strata_store::Image;

pub(super) async fn remove(
    node: &Arc<Node>,
    request: debug::RemoveImageRequest,
) -> Result<debug::RemoveImageResponse> {
    let image = find(node, &request.r#ref)?;
    let name = name_of(&image, &request.r#ref);
    if name.is_none() {
        check_by_id(&image, &users(node, &image), request.force)?;
    }
    let removal = Removal { id: image.id.clone(), name: name.clone(), force: request.force };
    let own = node.clone();
    let in_use = move |ids: &[String]| match &name {
        Some(name) => using(name, ids, &image),
        None => used(&image, &users(&own, &image)).map_or_else(|| using("", ids, &image), |c| c.text),
    };
    let removed = node.remove_image(removal, in_use).await?;
    let deleted = match request.no_prune {
        // Docker's layers are images; Strata's go with the last image that has them, whatever was asked.
        true => removed.deleted.into_iter().take(1).collect(),
        false => removed.deleted,
    };
    Ok(debug::RemoveImageResponse { untagged: removed.untagged, deleted })
}

/// A container that stands on an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    id: String,
    running: bool,
}

fn users(node: &Node, image: &Image) -> Vec<User> {
    let id = image.id.to_string();
    let infos = node.container_infos().into_iter().filter(|i| i.record.image_id == id);
    infos
        .map(|i| User {
            id: i.id().to_owned(),
            running: matches!(i.state(), ContainerState::Running | ContainerState::Unknown),
        })
        .collect()
}

struct Conflict {
    text: String,
    forceable: bool,
}

/// Refuses by ID what Docker refuses.
fn check_by_id(image: &Image, users: &[User], force: bool) -> Result<()> {
    let refuse = |c: Conflict| if c.forceable && force { Ok(()) } else { Err(Error::precondition(c.text)) };
    if let Some(conflict) = used(image, users) {
        refuse(conflict)?;
    }
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    let repositories: BTreeSet<String> =
        names.filter_map(|n| Reference::parse(n).ok()).map(|r| r.name()).collect();
    if repositories.len() > 1 {
        return refuse(Conflict {
            text: format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                image.id.short()
            ),
            forceable: true,
        });
    }
    Ok(())
}

fn used(image: &Image, users: &[User]) -> Option<Conflict> {
    let user = users.iter().find(|u| u.running).or_else(|| users.first())?;
    let (how, what) =
        if user.running { ("cannot be forced", "running") } else { ("must be forced", "stopped") };
    let text = format!(
        "conflict: unable to delete {} ({how}) - image is being used by {what} container {}",
        image.id.short(),
        short(&user.id)
    );
    Some(Conflict { text, forceable: !user.running })
}

fn using(name: &str, ids: &[String], image: &Image) -> String {
    format!(
        "conflict: unable to remove repository reference \"{}\" (must force) - container {} is using its referenced \
         image {}",
        familiar(name),
        ids.first().map_or("", |id| short(id)),
        image.id.short()
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use strata_oci::ImageConfig;

    fn image(tags: &[&str]) -> Image {
        samples::image("x", tags, ImageConfig::default())
    }

    #[test]
    fn a_name_is_told_from_an_id() {
        let i = image(&["docker.io/library/a:latest"]);
        assert_eq!(name_of(&i, "a").as_deref(), Some("docker.io/library/a:latest"));
        assert_eq!(name_of(&i, "a:latest").as_deref(), Some("docker.io/library/a:latest"));
        assert_eq!(name_of(&i, i.id.short()), None);
        assert_eq!(name_of(&i, i.id.as_str()), None);
    }

    #[test]
    fn conflicts_are_in_dockers_words() {
        let one = image(&["docker.io/library/a:1", "docker.io/library/a:2"]);
        let user = |running| vec![User { id: "c".repeat(64), running }];
        assert!(check_by_id(&one, &[], false).is_ok());
        let text = |users: &[User], force| check_by_id(&one, users, force).unwrap_err().to_string();
        let short_id = one.id.short();
        assert_eq!(
            text(&user(false), false),
            format!(
                "conflict: unable to delete {short_id} (must be forced) - image is being used by stopped container \
                 cccccccccccc"
            )
        );
        assert!(check_by_id(&one, &user(false), true).is_ok());
        assert!(
            text(&user(true), true).contains("(cannot be forced) - image is being used by running container")
        );
        let two = image(&["docker.io/library/a:1", "docker.io/library/b:1"]);
        assert!(check_by_id(&two, &[], false).unwrap_err().to_string().ends_with("in multiple repositories"));
        assert!(check_by_id(&two, &[], true).is_ok());
        assert_eq!(
            using("docker.io/library/a:1", &["c".repeat(64)], &one),
            format!(
                "conflict: unable to remove repository reference \"a:1\" (must force) - container cccccccccccc is using \
                 its referenced image {short_id}"
            )
        );
    }
}
