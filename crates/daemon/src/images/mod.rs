//! Images: pulled, found, named.
//!
//! ```text
//!   pull ─▶ flight.rs   one download however many wait for it; cancelled when the last of them leaves
//!             └─▶ fetch.rs   reference → (index →) manifest → config → layers → commit
//!                   └─▶ layer.rs   registry stream ─▶ bridge.rs ─▶ store, on a blocking thread
//!           refetch.rs   one blob of an image that is here, again
//!           board.rs   how far it has come: a state that every waiter samples at its own pace
//! ```

mod board;
mod bridge;
mod errors;
mod fetch;
mod flight;
mod layer;
mod refetch;
mod remove;

#[cfg(test)]
mod tests;

pub(crate) use errors::of_content;
pub(crate) use remove::{Removal, name_of};

use crate::config;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::metrics::Pulls;
use crate::registry;
use flight::{Flights, Key};
use std::sync::Arc;
use strata_api::{cri, debug};
use strata_oci::{Digest, Platform, Reference};
use strata_store::{Image, Store};
use tokio::sync::{Semaphore, mpsc};

/// The node's images.
#[derive(Debug)]
pub(crate) struct Images {
    store: Arc<Store>,
    registry: registry::Client,
    flights: Flights,
    /// Held while a layer is fetched, so that pulls of different images do not fetch it twice.
    turns: layer::Turns,
    downloads: Downloads,
    pulls: Pulls,
}

/// How many layers are fetched at a time.
#[derive(Debug)]
struct Downloads {
    per_image: usize,
    of_node: Arc<Semaphore>,
}

/// What is to be pulled.
#[derive(Clone, Debug, Default)]
pub(crate) struct PullRequest {
    /// As people write it: `busybox`, `registry.example/team/app:1.2`, with a digest perhaps.
    pub(crate) reference: String,
    /// Credentials for its registry.
    pub(crate) auth: Option<cri::AuthConfig>,
    /// For which platform; `None`: this node's.
    pub(crate) platform: Option<Platform>,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Deadline>,
}

/// What was pulled.
#[derive(Clone, Debug)]
pub(crate) struct PullOutcome {
    /// The image.
    pub(crate) image: Arc<Image>,
    /// Of the manifest or index, as the registry knows it.
    pub(crate) digest: Digest,
    /// The whole reference, defaults filled in.
    pub(crate) name: String,
    /// Whether nothing had to be fetched and no name moved.
    pub(crate) up_to_date: bool,
}

impl Images {
    /// The images of a store.
    pub(crate) fn new(store: Arc<Store>, registry: registry::Client, config: &config::Registry) -> Self {
        let count = |n: u32| usize::try_from(n).unwrap_or(1);
        let downloads = Downloads {
            per_image: count(config.max_concurrent_downloads),
            of_node: Arc::new(Semaphore::new(count(config.max_node_downloads))),
        };
        Self {
            store,
            registry,
            flights: Flights::default(),
            turns: layer::Turns::default(),
            downloads,
            pulls: Pulls::default(),
        }
    }

    /// Pulls an image, or joins a pull of the same that is under way. Dropping the future leaves it; once everybody has,
    /// the pull is cancelled and nothing of it stays.
    ///
    /// `progress` gets what the reference led to first, then the layers' progress some ten times a second, the result last.
    ///
    /// # Errors
    /// What the registry or the store says, with the image and the blob it is about;
    /// [`Kind::DeadlineExceeded`](crate::error::Kind::DeadlineExceeded) if the caller's time is over.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        progress: Option<mpsc::Sender<debug::PullProgress>>,
    ) -> Result<PullOutcome> {
        let reference = Reference::parse(&request.reference)
            .map_err(|e| Error::invalid(format!("cannot pull {:?}: {e}", request.reference)))?;
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let key = Key::new(&reference, &platform, request.auth.as_ref());
        let seat = Flights::join(self, key, |board| fetch::Fetch {
            images: Arc::clone(self),
            reference,
            platform,
            auth: request.auth,
            board,
        });
        match request.deadline {
            None => seat.wait(progress).await,
            Some(deadline) => {
                let name = &request.reference;
                deadline.limit(seat.wait(progress)).await.map_err(|e| e.context(format!("pull of {name}")))?
            }
        }
    }

    /// What is counted of pulls.
    pub(crate) fn pulls(&self) -> &Pulls {
        &self.pulls
    }

    /// What images are pulled from and pushed to.
    pub(crate) fn registry(&self) -> &registry::Client {
        &self.registry
    }

    /// The image that a text means: a name, a name with a digest, an ID or the beginning of one.
    ///
    /// # Errors
    /// If there is none, or the beginning is one of several.
    pub(crate) fn resolve(&self, what: &str) -> Result<Arc<Image>> {
        Ok(self.store.resolve(what)?)
    }
}
