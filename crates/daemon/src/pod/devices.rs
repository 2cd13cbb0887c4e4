//! Network devices that a pod's containers ask for by CDI: they are the pod's from the first such container's creation until the last
//! one has been removed, or the pod is stopped. Its record says so, durably, before anything is moved.

use super::{Pod, short};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::net::devices::{self, Lent, NetDevice};
use crate::node::Node;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_sys::ns;

impl Node {
    /// Moves what a container asks for into its pod, as far as it is not there.
    ///
    /// # Errors
    /// What has been moved by then goes back with the container.
    pub(crate) async fn lend_devices(&self, container: &Container) -> Result<()> {
        let (record, pod) = (container.record(), container.pod());
        if record.injected.net_devices.is_empty() {
            return Ok(());
        }
        let _one = pod.devices.lock().await;
        for wanted in &record.injected.net_devices {
            let lent = self.lend_device(pod, wanted).await;
            lent.map_err(|e| e.context(format!("network device {} of a CDI device", wanted.host)))?;
        }
        Ok(())
    }

    async fn lend_device(&self, pod: &Pod, wanted: &NetDevice) -> Result<()> {
        let record = pod.record();
        let Some(netns) = record.namespaces.net.as_ref().map(Path::new) else {
            return Err(Error::precondition("the pod is on the node's network, where it is already"));
        };
        let known = record.network.devices.iter().find(|lent| lent.device.host == wanted.host);
        let lent = match known {
            Some(lent) if lent.device == *wanted => lent.clone(),
            Some(lent) => {
                return Err(Error::precondition(format!(
                    "the pod has it as {}, and {} is asked for",
                    lent.device.name, wanted.name
                )));
            }
            None => {
                let lent = devices::look(netns, wanted).await.map_err(|e| self.blame_other(e, wanted))?;
                pod.edit(|r| r.network.devices.push(lent.clone()));
                if let Err(e) = self.put_pod(pod).await {
                    pod.edit(|r| r.network.devices.retain(|other| *other != lent));
                    return Err(e);
                }
                lent
            }
        };
        devices::lend(pod.id(), netns, &lent).await
    }

    /// Says which pod has what the node has not.
    fn blame_other(&self, error: Error, wanted: &NetDevice) -> Error {
        let has = |pod: &Arc<Pod>| pod.record().network.devices.iter().any(|l| l.device.host == wanted.host);
        match self.pods.all().iter().find(|pod| has(pod)) {
            Some(pod) => error.context(format!("pod {} has it", short(pod.id()))),
            None => error,
        }
    }

    /// Gives back what none of a pod's containers asks for, `gone` not counted.
    ///
    /// # Errors
    /// If something cannot be given back now.
    pub(crate) async fn give_back_unused(&self, pod: &Pod, gone: Option<&str>) -> Result<()> {
        if pod.record().network.devices.is_empty() {
            return Ok(());
        }
        let _one = pod.devices.lock().await;
        let others = self.containers.of_pod(pod.id()).into_iter().filter(|c| Some(c.id()) != gone);
        let used: Vec<NetDevice> = others.flat_map(|c| c.record().injected.net_devices.clone()).collect();
        self.give_back(pod, |lent| !used.contains(&lent.device)).await?;
        self.put_pod(pod).await
    }

    /// Gives back all that a pod has. Its record, which the caller writes, does not say so any more then.
    ///
    /// # Errors
    /// If something cannot be given back now.
    pub(crate) async fn give_back_all(&self, pod: &Pod) -> Result<()> {
        let _one = pod.devices.lock().await;
        self.give_back(pod, |_| true).await
    }

    async fn give_back(&self, pod: &Pod, which: impl Fn(&Lent) -> bool) -> Result<()> {
        let record = pod.record();
        let netns = record.namespaces.net.map(PathBuf::from).filter(|path| ns::is_pinned(path));
        for lent in record.network.devices.iter().filter(|lent| which(lent)) {
            let back = devices::give_back(pod.id(), netns.as_deref(), lent).await;
            back.map_err(|e| {
                e.context(format!("network device {} of pod {}", lent.device.host, short(pod.id())))
            })?;
            pod.edit(|r| r.network.devices.retain(|other| other != lent));
        }
        Ok(())
    }
}
