//! RemovePodSandbox: a pod goes with its containers and its record.

use super::state::{Change, PodState};
use crate::error::Result;
use crate::node::Node;
use crate::tasks::detached;
use std::sync::Arc;

impl Node {
    /// Removes a pod with its containers. A pod that is not there is success.
    pub(crate) async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.pods.find_or_going(id) else { return Ok(()) };
        let node = self.clone();
        detached(async move {
            node.settled(&pod).await?;
            let _alone = pod.gate.write().await;
            if pod.state() == PodState::Discarding {
                // Removed while this waited for its turn.
                return Ok(());
            }
            node.end_containers(&pod).await;
            pod.change(Change::Discarding)?;
            node.containers.of_pod(pod.id()).iter().for_each(|c| node.containers.free_name(c.id()));
            // From here on it is gone for everybody.
            node.put_discarded(&pod).await;
            node.discard_pod(&pod).await;
            Ok(())
        })
        .await
    }
}
