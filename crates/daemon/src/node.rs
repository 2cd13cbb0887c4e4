//! The node: what everything in this daemon hangs on. It composes; the work is done in the modules it names.
//!
//! * pods: [`crate::pod`] (`run`, `stop`, `remove`, `teardown`, `follow`)
//! * containers: [`crate::container`] (`create`, `start`, `stop`, `remove`, `exec`)
//! * finding everything again after a restart: [`crate::recover`]

use crate::apparmor::AppArmor;
use crate::cgroups::{self, Systemd};
use crate::config::Config;
use crate::container::plan::security::Filters;
use crate::container::plan::user;
use crate::container::{Container, ContainerInfo, Containers};
use crate::error::{Error, Result};
use crate::events::Hub;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::net::bridge::Bridge;
use crate::net::cni::{self, Cni};
use crate::net::{PodCidrs, Provider};
use crate::pod::{Pod, PodInfo, Pods};
use crate::registry;
use crate::request::{ContainerRequest, PodRequest};
use crate::selinux::SeLinux;
use crate::shim::Spawner;
use crate::streaming::Streaming;
use crate::tasks::Flights;
use crate::usage::rates::Rates;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strata_cgroup::Hierarchy;
use strata_store::{Options, Store};

/// Everything that one daemon has.
#[derive(Debug)]
pub(crate) struct Node {
    /// The configuration.
    pub(crate) config: Config,
    /// Images, layers, containers' writable layers, and durable records.
    pub(crate) store: Arc<Store>,
    /// Images: pulled, found, named.
    pub(crate) images: Arc<Images>,
    /// The cgroup hierarchies.
    pub(crate) cgroups: Hierarchy,
    /// Who makes cgroups that are units.
    pub(crate) systemd: Systemd,
    /// What connects Kubernetes' pods.
    pub(crate) network: Arc<dyn Provider>,
    /// The cluster's plugins, configured for CRI or not: a handler may name them, and pods may still hold their addresses.
    pub(crate) cni: Arc<dyn Provider>,
    /// What connects pods of the strata command.
    pub(crate) bridge: Arc<dyn Provider>,
    /// All pods.
    pub(crate) pods: Pods,
    /// All containers.
    pub(crate) containers: Containers,
    /// What shims are started from.
    pub(crate) spawner: Spawner,
    /// The security module that confines containers by profiles.
    pub(crate) apparmor: AppArmor,
    /// The kernel's SELinux.
    pub(crate) selinux: SeLinux,
    /// Compiled seccomp filters.
    pub(crate) filters: Filters,
    /// Exec, Attach and PortForward.
    pub(crate) streaming: Streaming,
    /// User databases of images.
    pub(crate) users: user::Known,
    /// This daemon's capability bounding set: what containers can have at most.
    pub(crate) bounding: u64,
    /// Which boot this is.
    pub(crate) boot_id: String,
    /// Pods that are being made.
    pub(crate) making_pods: Flights<PodRequest>,
    /// Containers that are being made.
    pub(crate) making_containers: Flights<ContainerRequest>,
    /// What happens to pods and containers, for those who follow it.
    pub(crate) events: Hub,
    /// What is counted while it happens.
    pub(crate) metrics: Metrics,
    /// How fast CPU time is used.
    pub(crate) rates: Rates,
    warned: Mutex<BTreeSet<String>>,
}

/// What the configuration says about the store.
pub(crate) fn store_options(config: &Config) -> Options {
    Options { discard_blobs: config.store.discard_blobs, limits: config.limits.of_images() }
}

/// pivot_root(2) would change nothing for a container that is made in a chroot, and an exec would enter the node's real root.
fn refuse_chroot() -> Result<()> {
    match strata_sys::ns::in_chroot() {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::precondition(
            "stratad was started in a chroot, from which containers could reach the node's real root; start it without \
             chroot(8), or in a root of its own made by pivot_root(8), as systemd's RootDirectory= does",
        )),
        Err(e) => {
            tracing::debug!(error = %e, "whether this is a chroot cannot be seen");
            Ok(())
        }
    }
}

/// Otherwise every pod or image would fail by itself, half-way.
fn refuse_kernel() -> Result<()> {
    let missing = strata_sys::kernel::missing();
    if missing.is_empty() {
        return Ok(());
    }
    let calls: Vec<_> = missing.iter().map(|(call, since)| format!("{call} (Linux {since})")).collect();
    Err(Error::precondition(format!(
        "this kernel does not answer {}, which Strata cannot do without; use a newer kernel, or start stratad without the \
         seccomp filter that hides it",
        calls.join(", ")
    )))
}

impl Node {
    /// Opens the store and finds out what this machine is.
    ///
    /// # Errors
    /// If another daemon has the store open, or the machine lacks what nothing can do without.
    pub(crate) fn open(config: Config) -> Result<Arc<Self>> {
        refuse_chroot()?;
        refuse_kernel()?;
        let store = Store::open(&config.root, store_options(&config))?;
        let images =
            Arc::new(Images::new(store.clone(), registry::Client::new(&config.registry)?, &config.registry));
        let cgroups = cgroups::detect()?;
        let cidrs = PodCidrs::kept(&config.root);
        let boot_id = std::fs::read_to_string(&config.runtime.boot_id)
            .map_err(|e| Error::internal(format!("{}: {e}", config.runtime.boot_id.display())))?;
        let boot_id = boot_id.trim().to_owned();
        let boot = cni::Boot::new(&config.state, &boot_id);
        let cni: Arc<dyn Provider> = Arc::new(Cni::new(&config.network, cidrs.clone(), boot));
        let builtin = config.network.cri == crate::config::CriNetwork::Builtin;
        let bridge: Arc<dyn Provider> =
            Arc::new(Bridge::new(&config.network, cidrs.as_ref().filter(|_| builtin))?);
        let network = if builtin { bridge.clone() } else { cni.clone() };
        let node = Arc::new(Self {
            spawner: Spawner::new(&config.runtime.shim)?,
            bounding: strata_sys::caps::bounding().map_err(|e| Error::internal(e.to_string()))?,
            boot_id,
            streaming: Streaming::open(&config.streaming)?,
            store,
            images,
            cgroups,
            systemd: Systemd::default(),
            network,
            cni,
            bridge,
            pods: Pods::default(),
            containers: Containers::default(),
            apparmor: AppArmor::of_kernel(),
            selinux: SeLinux::of_kernel(config.runtime.selinux),
            filters: Filters::default(),
            users: user::Known::default(),
            making_pods: Flights::default(),
            making_containers: Flights::default(),
            events: Hub::default(),
            metrics: Metrics::default(),
            rates: Rates::default(),
            warned: Mutex::default(),
            config,
        });
        node.warn_of_limits();
        Ok(node)
    }

    /// Says what this machine does not give, before the first pod has to do without.
    fn warn_of_limits(&self) {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|t| t.trim().parse::<i32>().ok());
        let resource = strata_oci::caps::by_name("CAP_SYS_RESOURCE").unwrap_or(0);
        if self.bounding & resource == 0
            && own.is_some_and(|own| own > self.config.runtime.shim_oom_score_adj)
        {
            self.warn_once(
                "without CAP_SYS_RESOURCE oom_score_adj cannot be lowered: shims and containers keep that of stratad",
            );
        }
    }

    /// Warns of what this node cannot give; once for each text.
    pub(crate) fn warn_once(&self, text: &str) {
        if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
            tracing::warn!("{text} (said once)");
        }
    }

    /// What has been warned of.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warned.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until recovery has dealt with a pod, within its bound.
    pub(crate) async fn settled(&self, pod: &Pod) -> Result<()> {
        pod.settled(Duration::from_secs(self.config.limits.recovery_timeout)).await
    }

    /// Waits until recovery has dealt with every pod, within its bound: what is told before that may be wrong. A container
    /// whose state is unknown would be killed and replaced.
    pub(crate) async fn recovered(&self) {
        for pod in self.pods.all() {
            if let Err(e) = self.settled(&pod).await {
                tracing::debug!(error = %e, "told before it is known");
            }
        }
    }

    /// The container that a person means: an ID, a name, or an unambiguous prefix of an ID; of every origin.
    pub(crate) fn find_container(&self, what: &str) -> Result<Arc<Container>> {
        self.containers.find(what)
    }

    /// The pod with this ID or unambiguous prefix; of every origin.
    pub(crate) fn find_pod(&self, what: &str) -> Result<Arc<Pod>> {
        self.pods.find(what)
    }

    /// Every container of every origin, newest first.
    pub(crate) fn container_infos(&self) -> Vec<ContainerInfo> {
        use crate::pod::state::PodState;
        let mut all = self.containers.all();
        // A removed pod that still owes something is nobody's to see, and so are its containers.
        all.retain(|c| c.pod().state() != PodState::Discarding);
        let mut infos: Vec<_> = all.iter().map(|c| c.info()).collect();
        infos.retain(ContainerInfo::is_shown);
        infos.sort_by_key(|i| std::cmp::Reverse(i.record.created_at));
        infos
    }

    /// Every pod of every origin, newest first.
    pub(crate) fn pod_infos(&self) -> Vec<PodInfo> {
        use crate::pod::state::PodState;
        let mut infos: Vec<_> = self.pods.all().iter().map(|p| p.info()).collect();
        infos.retain(|i| !matches!(i.state, PodState::Creating | PodState::Discarding));
        infos.sort_by_key(|i| std::cmp::Reverse(i.created_at));
        infos
    }
}
