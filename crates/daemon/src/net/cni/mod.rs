//! The cluster's CNI plugins.
//!
//! ```text
//!   list.rs  which network          template.rs  one made from the node's pod CIDR
//!   args.rs  what plugins are told  exec.rs      running one           result.rs  what ADD answers
//!   strays.rs  plugins that another daemon left running    leases.rs  what a power cut left of addresses
//!
//!   intent ─▶ pod.json: the list, interface, arguments      ADD: each plugin in order, given the one before's result
//!   ADD's result ─▶ pod.json                                DEL: the recorded list backwards, given ADD's last result
//! ```
//!
//! The directory is read whenever it is needed: a change counts at once. What is recorded is what a pod is detached with,
//! whatever has become of the list. Verbs are used from the version on that has them: CHECK 0.4.0 (once for each pod when
//! stratad starts), STATUS (readiness) and GC (when stratad starts, while nothing else runs) 1.1.0.

mod args;
mod exec;
mod leases;
mod list;
mod result;
mod strays;
mod template;
mod upkeep;

#[cfg(test)]
mod tests;

use super::{
    AttachRequest, Attachment, DetachRequest, Held, Intent, NetworkStatus, PodCidrs, PortMapping, Provider,
};
use crate::config;
use crate::error::{Error, Result};
use crate::tasks::blocking;
use exec::{Call, Failure, Runner, code};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
pub(crate) use leases::Boot;
use list::{List, Version, type_of};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What [`Attachment::provider`] says.
pub(crate) const NAME: &str = "cni";
/// The interface inside a pod, as Kubernetes has it.
const INTERFACE: &str = "eth0";
/// The first version in which DEL and CHECK are given ADD's result.
const PREV_RESULT: Version = Version(0, 4, 0);

/// Answers for Kubernetes' pods while `[network] cri = "cni"`, and afterwards for those that it has attached.
#[derive(Clone, Debug)]
pub(crate) struct Cni(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    conf_dir: PathBuf,
    template: PathBuf,
    runner: Runner,
    cidrs: Mutex<Option<PodCidrs>>,
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    /// Shared by what concerns one pod; GC is alone, as it would take what an ADD is about to answer for left behind.
    traffic: tokio::sync::RwLock<()>,
    gc_due: AtomicBool,
    boot: Boot,
    /// Held while empty records are removed.
    mending: tokio::sync::Mutex<()>,
    probe: tokio::sync::Mutex<Option<upkeep::Probe>>,
    warned: Mutex<BTreeSet<String>>,
}

/// A pod that holds something, or is about to.
#[derive(Debug)]
struct Pod {
    network: String,
    interface: String,
    /// One verb at a time (specification, section 3); whether nothing of an earlier one can be running any more.
    quiet: tokio::sync::Mutex<bool>,
}

/// What a pod is attached and detached with. Kept in pod.json: fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Journal {
    list: List,
    interface: String,
    args: String,
    capabilities: Map<String, Value>,
}

impl Journal {
    fn parse(intent: &Intent) -> Result<Self> {
        serde_json::from_value(intent.clone())
            .map_err(|e| Error::internal(format!("what the pod was attached with cannot be read: {e}")))
    }

    /// What a plugin is given on standard input (specification 1.1, section 3, "Deriving request configuration").
    fn configuration(&self, plugin: &Map<String, Value>, previous: Option<&Value>) -> Map<String, Value> {
        let mut config = with_network(&self.list, plugin);
        // Its question, of which runtimeConfig is the answer.
        config.remove("capabilities");
        let wanted = |(name, _): &(&String, &Value)| list::has_capability(plugin, name);
        let told: Map<String, Value> = self
            .capabilities
            .iter()
            .filter(wanted)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            config.insert("runtimeConfig".into(), told.into());
        }
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        config
    }
}

/// A plugin's part of a list, with what it has from the list. What only a runtime says is not taken from a file.
fn with_network(list: &List, plugin: &Map<String, Value>) -> Map<String, Value> {
    let mut config = plugin.clone();
    config.retain(|key, _| key != "prevResult" && !key.starts_with("cni.dev/"));
    config.insert("name".into(), list.name.clone().into());
    config.insert("cniVersion".into(), list.version.clone().into());
    config
}

impl Cni {
    /// A provider for what the configuration names, with the pod CIDR as far as it is known.
    pub(crate) fn new(config: &config::Network, cidrs: Option<PodCidrs>, boot: Boot) -> Self {
        Self(Arc::new(Shared {
            conf_dir: config.cni_conf_dir.clone(),
            template: config.cni_conf_template.clone(),
            runner: Runner {
                bin_dirs: config.cni_bin_dirs.clone(),
                timeout: Duration::from_secs(config.cni_timeout),
            },
            cidrs: Mutex::new(cidrs),
            pods: Mutex::default(),
            traffic: tokio::sync::RwLock::default(),
            gc_due: AtomicBool::new(false),
            boot,
            mending: tokio::sync::Mutex::default(),
            probe: tokio::sync::Mutex::default(),
            warned: Mutex::default(),
        }))
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cidrs(&self) -> Option<PodCidrs> {
        self.0.cidrs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The network as the directory has it now.
    async fn list(&self) -> Result<List> {
        let dir = self.0.conf_dir.clone();
        let list = blocking(move || list::load(&dir)).await?;
        self.mend_if_due(&list).await;
        self.collect_if_due(&list);
        Ok(list)
    }

    /// Notes that a pod holds something; one that is known already stays as it is.
    fn hold(&self, pod_id: &str, journal: &Journal, quiet: bool) -> Arc<Pod> {
        let pod = || {
            Arc::new(Pod {
                network: journal.list.name.clone(),
                interface: journal.interface.clone(),
                quiet: tokio::sync::Mutex::new(quiet),
            })
        };
        self.pods().entry(pod_id.to_owned()).or_insert_with(pod).clone()
    }

    async fn journal(&self, request: &AttachRequest) -> Result<Intent> {
        let list = self.list().await?;
        let capabilities = args::capabilities(request, self.cidrs().as_ref())?;
        self.warn_of_lacking(&list, &capabilities);
        let journal =
            Journal { list, interface: INTERFACE.into(), args: args::environment(request)?, capabilities };
        serde_json::to_value(journal).map_err(|e| Error::internal(format!("the network list: {e}")))
    }

    /// Says what the network will not do. No error: networks that have no portmap may see to host ports themselves.
    fn warn_of_lacking(&self, list: &List, capabilities: &Map<String, Value>) {
        for (name, what) in [("portMappings", "host ports"), ("bandwidth", "bandwidth annotations")] {
            if !capabilities.contains_key(name) || list.has_capability(name) {
                continue;
            }
            let text = format!(
                "no plugin of network {} has the capability {name}: {what} of pods have no effect unless the network sees to them itself",
                list.name
            );
            if self.0.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
                tracing::warn!("{text} (said once)");
            }
        }
    }

    /// Runs one plugin for a pod.
    async fn call(
        &self,
        verb: &'static str,
        place: (&str, &str),
        journal: &Journal,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, Failure> {
        let (pod_id, netns) = place;
        let config = journal.configuration(plugin, previous);
        let call = Call {
            verb,
            network: &journal.list.name,
            program: type_of(plugin),
            config: &config,
            pod_id,
            netns,
            interface: &journal.interface,
            args: &journal.args,
        };
        self.0.runner.run(&call).await
    }

    async fn connect(&self, request: &AttachRequest) -> Result<Attachment> {
        let intent = request.intent.as_ref();
        let journal = intent.ok_or_else(|| Error::internal("nothing is recorded to attach it with"))?;
        let journal = Journal::parse(journal)?;
        let pod = self.hold(&request.pod_id, &journal, true);
        let _traffic = self.0.traffic.read().await;
        let mut quiet = pod.quiet.lock().await;
        *quiet = false;
        let netns = request.netns.to_string_lossy();
        let added = self.add(&request.pod_id, &netns, &journal).await;
        // What failed may hang in the kernel, and take an address when it goes on.
        *quiet = added.is_ok();
        let result = added?;
        let addresses = result::addresses(&result, &journal.interface)?;
        let (ips, prefixes): (Vec<_>, Vec<_>) = addresses.ips.into_iter().unzip();
        Ok(Attachment {
            provider: NAME.into(),
            owner: request.owner.clone(),
            interface: journal.interface,
            ips,
            prefix: prefixes.first().copied().unwrap_or_default(),
            gateway: addresses.gateway,
            mac: addresses.mac,
            ports: ports_of(&journal.list, &request.ports),
            result: Some(result),
        })
    }

    async fn add(&self, pod_id: &str, netns: &str, journal: &Journal) -> Result<Value> {
        let mut result = None;
        for plugin in &journal.list.plugins {
            let answer = self.call("ADD", (pod_id, netns), journal, plugin, result.as_ref()).await;
            let answer = answer.map_err(|f| f.error)?;
            let read = result::parse(&answer, &journal.list.version);
            result = Some(read.map_err(|e| e.context(format!("CNI plugin {}", type_of(plugin))))?);
        }
        result.ok_or_else(|| Error::internal("the recorded network list has no plugins"))
    }

    async fn disconnect(&self, request: &DetachRequest) -> Result<()> {
        // Without notes it has not come to attaching.
        let Some(intent) = &request.intent else { return Ok(()) };
        let journal = Journal::parse(intent)?;
        let pod = self.hold(&request.pod_id, &journal, false);
        let _traffic = self.0.traffic.read().await;
        let mut quiet = pod.quiet.lock().await;
        if !*quiet {
            strays::end(&request.pod_id).await?;
        }
        *quiet = false;
        self.remove(request, &journal).await?;
        self.pods().remove(&request.pod_id);
        Ok(())
    }

    async fn remove(&self, request: &DetachRequest, journal: &Journal) -> Result<()> {
        let netns = request.netns.as_ref().map(|n| n.to_string_lossy()).unwrap_or_default();
        let result = request.attachment.as_ref().and_then(|a| a.result.as_ref());
        let result = result.filter(|_| journal.list.at_least(PREV_RESULT));
        for plugin in journal.list.plugins.iter().rev() {
            match self.call("DEL", (&request.pod_id, &netns), journal, plugin, result).await {
                Err(f) if f.code != Some(code::UNKNOWN) => return Err(f.error),
                _ => {}
            }
        }
        Ok(())
    }

    fn take_over(&self, held: Vec<Held>) {
        let mut live = Vec::new();
        for pod in held {
            let Some(journal) = pod.intent.as_ref().map(Journal::parse) else { continue };
            match journal {
                Ok(journal) => {
                    self.hold(&pod.pod_id, &journal, false);
                    if pod.live && pod.ready {
                        live.push((pod, journal));
                    }
                }
                Err(e) => tracing::error!(pod = pod.pod_id, error = %e, "the pod's network"),
            }
        }
        self.begin_upkeep(live);
    }
}

/// The host ports that some plugin was told of.
fn ports_of(list: &List, ports: &[PortMapping]) -> Vec<PortMapping> {
    if list.has_capability("portMappings") { ports.to_vec() } else { Vec::new() }
}

impl Provider for Cni {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> BoxFuture<'_, NetworkStatus> {
        async move {
            let ready = async { self.ready(self.list().await?).await };
            match ready.await {
                Ok(()) => NetworkStatus::ready(),
                Err(e) => NetworkStatus {
                    ready: false,
                    reason: "NetworkPluginNotReady".into(),
                    message: e.to_string(),
                },
            }
        }
        .boxed()
    }

    fn intent<'a>(&'a self, request: &'a AttachRequest) -> BoxFuture<'a, Result<Option<Intent>>> {
        async move { self.journal(request).await.map(Some) }.boxed()
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment>> {
        async move { self.connect(&request).await }.boxed()
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<()>> {
        async move { self.disconnect(&request).await }.boxed()
    }

    fn detach_lost(&self, mut request: DetachRequest) -> BoxFuture<'_, Result<()>> {
        async move {
            if request.intent.as_ref().is_none_or(|intent| Journal::parse(intent).is_err()) {
                // What it was attached with is not known: most likely it was the network of today. Plugins look for what
                // they remove by the pod's ID.
                let pod = AttachRequest { pod_id: request.pod_id.clone(), ..AttachRequest::default() };
                request.intent = Some(self.journal(&pod).await?);
            }
            self.disconnect(&request).await
        }
        .boxed()
    }

    fn recover(&self, held: Vec<Held>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.take_over(held);
            Ok(())
        }
        .boxed()
    }

    fn set_pod_cidr(&self, cidrs: PodCidrs) -> BoxFuture<'_, Result<()>> {
        async move {
            *self.0.cidrs.lock().unwrap_or_else(PoisonError::into_inner) = Some(cidrs.clone());
            let (template, dir) = (self.0.template.clone(), self.0.conf_dir.clone());
            if template.as_os_str().is_empty() {
                return Ok(());
            }
            blocking(move || upkeep::write_list(&template, &dir, &cidrs)).await
        }
        .boxed()
    }
}
