//! Images as volumes (CRI `Mount.image`; kubernetes.io, "Use an Image Volume With a Pod").

use crate::error::{Error, Result};
use std::path::PathBuf;
use strata_api::cri;
use strata_wire::plan::{Mount, MountAttrs, MountKind};

/// The image that a mount shows; `None`: it is a mount of the host's.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for an image mount that could be written to or is of two
/// things at once, and for a sub path of no image.
pub(crate) fn image_of(mount: &cri::Mount) -> Result<Option<&str>> {
    let bad = |why: &str| Err(Error::invalid(format!("mount on {}: {why}", mount.container_path)));
    let Some(spec) = &mount.image else {
        return if mount.image_sub_path.is_empty() {
            Ok(None)
        } else {
            bad("image_sub_path is set, but no image; name the image too")
        };
    };
    if spec.image.is_empty() {
        return bad("its image has no name; set image.image, or leave image out");
    }
    if !mount.host_path.is_empty() {
        return bad("it has an image and a host path; leave one of them out");
    }
    if !mount.readonly {
        return bad("an image volume can only be read; set readonly");
    }
    if mount.propagation() != cri::MountPropagation::PropagationPrivate {
        return bad("nothing is mounted below an image, so mount propagation must be private");
    }
    let path = &mount.image_sub_path;
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return bad(&format!("sub path {path:?} must be relative to the image's root, without \"..\""));
    }
    Ok(Some(&spec.image))
}

/// The mount of an image whose layers are these, topmost first.
pub(crate) fn mount(asked: &cri::Mount, target: String, lowers: &[PathBuf]) -> Mount {
    Mount {
        target,
        kind: MountKind::Image {
            lowers: lowers.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            subpath: asked.image_sub_path.clone(),
        },
        // Programs of it may run, as those of the container's own image; its device nodes are of no use.
        attrs: MountAttrs { readonly: true, nodev: true, ..MountAttrs::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(image: &str) -> cri::Mount {
        cri::Mount {
            container_path: "/x".into(),
            readonly: true,
            image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_makes_sense_is_taken() {
        assert_eq!(image_of(&asked("data")).unwrap(), Some("data"));
        let host = cri::Mount { host_path: "/tmp".into(), ..Default::default() };
        assert_eq!(image_of(&host).unwrap(), None);
        let below = cri::Mount { image_sub_path: "etc/conf.d".into(), ..asked("data") };
        assert_eq!(image_of(&below).unwrap(), Some("data"));
        for bad in [
            asked(""),
            cri::Mount { readonly: false, ..asked("data") },
            cri::Mount { host_path: "/tmp".into(), ..asked("data") },
            cri::Mount { propagation: 1, ..asked("data") },
            cri::Mount { image_sub_path: "/etc".into(), ..asked("data") },
            cri::Mount { image_sub_path: "a/../..".into(), ..asked("data") },
            cri::Mount { image: None, image_sub_path: "etc".into(), ..asked("data") },
        ] {
            let error = image_of(&bad).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::InvalidArgument, "{bad:?}");
            assert!(error.to_string().contains("/x"), "{error}");
        }
    }
}
