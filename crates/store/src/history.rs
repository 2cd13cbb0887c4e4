//! How an image came to be, layer by layer.

use crate::image::Image;
use crate::store::Store;
use strata_oci::Digest;
use strata_oci::config::History;

/// One step, newest first in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image of this node that ends with this step, if there is one.
    pub image: Option<Digest>,
    /// That image's tags.
    pub tags: Vec<String>,
    /// When, in nanoseconds since 1970; 0: unknown.
    pub created_at: i64,
    /// By what command.
    pub created_by: String,
    /// Bytes of the layer's files.
    pub size: u64,
    /// Why.
    pub comment: String,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A time as JSON documents write it.
pub(crate) fn rfc3339(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into()).map(|t| t.to_string()).unwrap_or_default()
}

fn parse(time: Option<&str>) -> i64 {
    let parsed = time.and_then(|t| t.parse::<jiff::Timestamp>().ok());
    parsed.and_then(|t| i64::try_from(t.as_nanosecond()).ok()).unwrap_or(0)
}

impl Image {
    /// When it was made, in nanoseconds since 1970; 0: unknown.
    pub fn created_at(&self) -> i64 {
        parse(self.config.created.as_deref())
    }

    /// Its steps, oldest first. Layers that the history does not mention are at the end, with nothing to say.
    fn steps(&self) -> Vec<(History, Option<usize>)> {
        let mut layer = 0..self.layers.len();
        let mut steps: Vec<_> = self
            .config
            .history
            .iter()
            .map(|h| (h.clone(), if h.empty_layer { None } else { layer.next() }))
            .collect();
        steps.extend(layer.map(|n| (History::default(), Some(n))));
        steps
    }

    /// Whether this image is the first `steps` steps of another.
    fn begins(&self, other: &[(History, Option<usize>)], diff_ids: &[Digest]) -> bool {
        let own = self.steps();
        own.len() <= other.len()
            && diff_ids.starts_with(&self.config.rootfs.diff_ids)
            && own.iter().zip(other).all(|(a, b)| a == b)
    }
}

impl Store {
    /// An image's steps, newest first; each with the image of this node that ends there, if any.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let steps = image.steps();
        let others: Vec<_> = self
            .images()
            .into_iter()
            .filter(|other| other.begins(&steps, &image.config.rootfs.diff_ids))
            .map(|other| (other.steps().len(), other))
            .collect();
        let mut entries: Vec<HistoryEntry> = steps
            .iter()
            .enumerate()
            .map(|(n, (step, layer))| {
                let here = others
                    .iter()
                    .find(|(len, other)| *len == n + 1 && (n + 1 < steps.len() || other.id == image.id));
                HistoryEntry {
                    image: here.map(|(_, i)| i.id.clone()),
                    tags: here.map(|(_, i)| i.repo_tags.clone()).unwrap_or_default(),
                    created_at: parse(step.created.as_deref()),
                    created_by: step.created_by.clone(),
                    size: layer.and_then(|n| image.layers.get(n)).map_or(0, |l| l.size),
                    comment: step.comment.clone(),
                    empty_layer: step.empty_layer,
                }
            })
            .collect();
        // The image itself is here even if it has no step at all to show for it.
        if let Some(last) = entries.last_mut().filter(|e| e.image.is_none()) {
            last.image = Some(image.id.clone());
            last.tags.clone_from(&image.repo_tags);
        }
        entries.reverse();
        entries
    }
}
