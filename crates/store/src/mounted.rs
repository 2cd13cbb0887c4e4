//! Images that are mounted in a container beside its own (CRI `Mount.image`): layers, merged, that nobody writes to.
//!
//! Each gets a directory below the container's, `images/<n>`. It is the topmost layer of the stack, empty, with the attributes
//! of the image's root directory: those of a merged directory are the topmost one's. So there is always one above the image's
//! layers, too, without which overlayfs refuses to mount a single one.

use crate::containers::{apply_root, check_id, owned, removed_just_now};
use crate::error::{Context, Error, Result};
use crate::image::Image;
use crate::index::Lease;
use crate::record::MountedImage;
use crate::store::Store;
use std::path::PathBuf;
use strata_sys::durable;

impl Store {
    /// Has a container keep one more image from now on. The order of these calls is that of [`Self::mounted_images`].
    ///
    /// They are in the container's record with the next [`put_container`](Self::put_container).
    ///
    /// # Errors
    /// [`NotFound`](crate::Kind::NotFound) if the image or the container is gone.
    pub fn add_mounted_image(&self, lease: &Lease, id: &str, image: &Image) -> Result<()> {
        check_id(id)?;
        let stack = owned(image.stack());
        let number = {
            let mut inner = self.index.lock();
            let there = inner.images.contains_key(&image.id);
            if !there || stack.iter().any(|key| !inner.layers.contains_key(key)) {
                return Err(removed_just_now(image));
            }
            inner.held(lease).layers.extend(stack.iter().cloned());
            let using = inner.containers.get_mut(id).ok_or_else(|| no_such(id))?;
            using.mounted.push(MountedImage { image: image.id.clone(), layers: stack.clone() });
            using.mounted.len() - 1
        };
        let top = self.mounted_top(id, number);
        durable::mkdir_all(&top, 0o700)?;
        let listed = self.stack_records(&stack)?.iter().find_map(|r| r.root.clone());
        apply_root(&top, listed.as_ref()).context(|| format!("attributes of {}", top.display()))
    }

    /// The images that are mounted in a container beside its own, in order: directories to be stacked, topmost first.
    ///
    /// # Errors
    /// If there is no such container, or a layer is missing.
    pub fn mounted_images(&self, id: &str) -> Result<Vec<Vec<PathBuf>>> {
        let mounted = {
            let inner = self.index.lock();
            inner.containers.get(id).ok_or_else(|| no_such(id))?.mounted.clone()
        };
        let stacks = mounted.iter().enumerate().map(|(number, mounted)| {
            let mut stack = vec![self.mounted_top(id, number)];
            stack.extend(self.lowers(&mounted.layers)?);
            Ok(stack)
        });
        stacks.collect()
    }

    fn mounted_top(&self, id: &str, number: usize) -> PathBuf {
        self.layout.containers.path.join(id).join("images").join(number.to_string())
    }
}

fn no_such(id: &str) -> Error {
    Error::not_found(format!("No such container: {id}"))
}
