//! RunPodSandbox: from a request to a pod that containers can be made in.

use super::namespaces::{self, Wanted};
use super::record::{PodKey, PodNetwork, PodRecord, VERSION};
use super::resources::PodResources;
use super::state::{Change, PodState};
use super::sysctl::Sysctls;
use super::{Pod, check, files, short, userns};
use crate::cgroups::{Held, names};
use crate::config::Handler;
use crate::container::plan::modules;
use crate::error::{Error, Kind, Result};
use crate::handlers;
use crate::ids::{new_id, now};
use crate::net::AttachRequest;
use crate::node::Node;
use crate::request::{NetworkMode, Origin, PodRequest};
use crate::shim::{Connected, Shim, process};
use crate::tasks::blocking;
use futures_util::FutureExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_api::cri;
use strata_cgroup::Resources;
use strata_store::RecordKind;
use strata_sys::durable;
use strata_wire::PodPlan;

/// How long a new shim may take to listen.
const SHIM_START: Duration = Duration::from_secs(10);

impl Node {
    /// Makes a pod, or finds the one that the same request has made.
    pub(crate) async fn run_pod(self: &Arc<Self>, request: PodRequest) -> Result<String> {
        check::request(&request)?;
        modules::check_pod(&self.apparmor, &self.selinux, &request.config)?;
        self.defaults(&request)?;
        let key = PodKey::of(&request.config).to_string();
        let (node, same) = (self.clone(), request.clone());
        let making =
            self.making_pods.join(&key, &request, move || async move { node.make_pod(same).await }.boxed());
        match making {
            Some(making) => making.await,
            None => Err(taken(&key, "another request for it is being worked on")),
        }
    }

    async fn make_pod(self: &Arc<Self>, request: PodRequest) -> Result<String> {
        // Nobody else gets the same IDs.
        let choosing = self.pods.choosing.lock().await;
        let record = self.new_record(&request)?;
        let state_dir = self.pod_dir(&record.id);
        let pod = Pod::new(record, state_dir, true, self.events.clone());
        // Nothing is done to it before it is whole, even by somebody who has guessed its ID.
        let _alone = pod.gate.write().await;
        let inserted = self.pods.insert_new(pod.clone());
        drop(choosing);
        if let Err(other) = inserted {
            // One that recovery still looks at may turn out to be dead.
            self.settled(&other).await?;
            return if other.state() == PodState::Ready && other.record().request() == request {
                Ok(other.id().to_owned())
            } else {
                Err(taken(
                    &other.key().to_string(),
                    &format!("pod {} is {}", other.id(), other.state().word()),
                ))
            };
        }
        match self.bring_up(&pod).await {
            Ok(()) => Ok(pod.id().to_owned()),
            Err(e) => {
                pod.change(Change::Discarding)?;
                self.put_discarded(&pod).await;
                self.discard_pod(&pod).await;
                Err(e.context(format!("pod {}", pod.key())))
            }
        }
    }

    /// What the request's handler says.
    fn defaults(&self, request: &PodRequest) -> Result<Handler> {
        if request.origin == Origin::Strata {
            return Ok(Handler::default());
        }
        let defaults = handlers::find(&self.config.runtime.handlers, &request.handler)?;
        let context = request.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        defaults.check_privileged(&request.handler, context.is_some_and(|c| c.privileged), "pods")?;
        Ok(defaults)
    }

    fn new_record(&self, request: &PodRequest) -> Result<PodRecord> {
        let id = new_id()?;
        let defaults = self.defaults(request)?;
        let mapped = self.with_users(request, defaults.user_namespace)?;
        let config = mapped.as_ref().unwrap_or(&request.config).clone();
        let linux = config.linux.clone().unwrap_or_default();
        let options = namespace_options(&config);
        let host_network = request.network == NetworkMode::Host
            || (request.network == NetworkMode::Cri && options.network() == cri::NamespaceMode::Node);
        let given = linux.cgroup_parent.trim_end_matches('/');
        let owns_cgroup = given.is_empty() || request.origin == Origin::Strata;
        let cgroup_parent = match owns_cgroup {
            true => names::inner(&self.pods_cgroup(&defaults.cgroup_parent), &id),
            false => names::parent(self.config.cgroup.driver, given)?,
        };
        let dir = self.pod_dir(&id);
        let wanted = Wanted {
            net: (!host_network).then(|| self.netns_of(&id)),
            ipc: (options.ipc() != cri::NamespaceMode::Node).then(|| dir.join("ipc")),
            uts: (!host_network).then(|| (dir.join("uts"), String::new())),
            user: userns::of_pod(&config)?.map(|ids| (dir.join("user"), ids)),
            sysctls: Sysctls::default(),
        };
        let provider = match request.network {
            _ if host_network => None,
            NetworkMode::Cri => self.cri_network(&defaults),
            NetworkMode::Bridge => Some(self.bridge.name()),
            NetworkMode::Host | NetworkMode::None => None,
        };
        let taken = || self.pods.all().into_iter().filter_map(|pod| pod.record().selinux_level).collect();
        let asked = linux.security_context.as_ref().and_then(|c| c.selinux_options.as_ref());
        let selinux_level = self.selinux.level(asked, taken)?;
        Ok(PodRecord {
            version: VERSION,
            id,
            origin: request.origin,
            handler: request.handler.clone(),
            defaults,
            asked: mapped.map(|_| request.config.clone()),
            config,
            created_at: now(),
            boot_id: self.boot_id.clone(),
            state: PodState::Creating,
            cgroup_parent,
            owns_cgroup,
            namespaces: wanted.paths(),
            network: PodNetwork {
                mode: request.network,
                provider: provider.map(str::to_owned),
                owed: provider.is_some(),
                ..PodNetwork::default()
            },
            selinux_level,
            resources: PodResources::default(),
        })
    }

    /// Brings up everything that a pod is made of; used for new pods, and for those of the strata command that start
    /// again.
    pub(crate) async fn bring_up(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let record = pod.record();
        let network = self.provider_of(&record)?;
        let mut request = None;
        if let Some(provider) = &network {
            let status = provider.status().await;
            if !status.ready {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the pod network is not ready: {}", status.message),
                ));
            }
            let mut wanted = attach_request(pod, &record)?;
            wanted.intent = provider
                .intent(&wanted)
                .await
                .map_err(|e| e.context(format!("network of {}", wanted.owner)))?;
            pod.edit(|r| r.network.intent.clone_from(&wanted.intent));
            request = Some((provider, wanted));
        }
        let (node, own) = (self.clone(), pod.clone());
        let prepare = blocking(move || node.prepare(&own));
        // The intent is durable before anything is attached: no address can be lost.
        // A pod that starts again has a container to keep: should this daemon die now, it was stopped and not half made.
        let again = !self.containers.of_pod(pod.id()).is_empty();
        let state = if again { PodState::NotReady } else { PodState::Creating };
        let intent = async {
            if network.is_some() {
                self.put_record(PodRecord { state, ..pod.record() }).await
            } else {
                Ok(())
            }
        };
        let (prepared, intended) = tokio::join!(prepare, intent);
        // Until the shim has its own process in there.
        let _held = prepared?;
        intended?;
        let attach = async {
            let attachment = match request {
                None => None,
                Some((provider, request)) => {
                    let what = format!("network of {}", request.owner);
                    let work = provider.attach(request);
                    let attached = self.metrics.networks.timed(provider.name(), "attach", work).await;
                    Some(attached.map_err(|e| e.context(what))?)
                }
            };
            // Recorded as ready while its shim starts: should this daemon die now, the next one sees that it is unfinished.
            pod.edit(|r| {
                r.network.attachment.clone_from(&attachment);
                r.boot_id.clone_from(&self.boot_id);
            });
            self.put_record(PodRecord { state: PodState::Ready, ..pod.record() }).await?;
            Ok::<_, Error>(attachment)
        };
        // Both have ended before either's failure takes the pod down.
        let (attachment, connected) = tokio::join!(attach, self.start_shim(pod));
        if let Ok(connected) = &connected {
            pod.set_shim(Some(connected.shim.clone()));
        }
        let (attachment, connected) = (attachment?, connected?);
        let ips = attachment.map(|a| a.ips).unwrap_or_default();
        files::write_hosts(pod.state_dir(), &hostname(&record), &ips, record.namespaces.net.is_none())?;
        files::give(pod.state_dir(), userns::of_pod(&record.config)?)?;
        files::finish(pod.state_dir())?;
        pod.change(Change::Ready)?;
        tokio::spawn(self.clone().watch_pod(pod.clone(), connected.events));
        Ok(())
    }

    /// Directories, files, namespaces, cgroups.
    fn prepare(&self, pod: &Pod) -> Result<Held> {
        let record = pod.record();
        let fail = |e: strata_sys::Error| Error::internal(e.to_string());
        let dir = pod.state_dir();
        durable::mkdir_all(dir, 0o711).map_err(fail)?;
        files::begin(dir)?;
        if record.origin == Origin::Kubernetes && record.config.log_directory.starts_with('/') {
            durable::mkdir_all(Path::new(&record.config.log_directory), 0o755).map_err(fail)?;
        }
        let own_ipc = record.namespaces.ipc.is_some();
        let hostname = hostname(&record);
        let ids = userns::of_pod(&record.config)?;
        files::write(dir, &hostname, record.config.dns_config.as_ref())?;
        if own_ipc {
            files::mount_shm(dir, ids)?;
        }
        let asked = record.config.linux.as_ref().map(|l| l.sysctls.clone()).unwrap_or_default();
        let path = |p: &Option<String>| p.as_ref().map(PathBuf::from);
        let wanted = Wanted {
            net: path(&record.namespaces.net),
            ipc: path(&record.namespaces.ipc),
            uts: path(&record.namespaces.uts).map(|p| (p, hostname)),
            user: path(&record.namespaces.user).zip(ids),
            sysctls: Sysctls::new(&asked, record.namespaces.net.is_some(), own_ipc)?.for_users(ids),
        };
        if wanted.net.is_some() {
            durable::mkdir_all(&self.config.network.netns_dir, 0o755).map_err(fail)?;
        }
        namespaces::make(&wanted)?;
        self.make_parent(&record.cgroup_parent)?;
        if !shared_pid(&record.config) {
            return Ok(Held::nothing());
        }
        let what = format!("Init of the processes of pod {}", record.id);
        self.make_leaf(&pause_cgroup(&record), &Resources::default(), &what)
    }

    async fn start_shim(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<Connected> {
        let (node, own) = (self.clone(), pod.clone());
        blocking(move || {
            let record = own.record();
            let plan = PodPlan {
                id: record.id.clone(),
                state_dir: own.state_dir().to_string_lossy().into_owned(),
                shim_cgroup: node.shim_cgroup()?.unwrap_or_default(),
                namespaces: record.namespaces.clone(),
                ids: userns::of_pod(&record.config)?,
                shared_pid: shared_pid(&record.config),
                pause_cgroup: if shared_pid(&record.config) { pause_cgroup(&record) } else { String::new() },
                oom_score_adj: Some(node.config.runtime.shim_oom_score_adj),
            };
            node.metrics.shims_started.inc();
            node.spawner.spawn(own.state_dir(), &plan)
        })
        .await?;
        let begun = Instant::now();
        loop {
            match Shim::connect(pod.state_dir(), pod.id()).await {
                Ok(connected) => {
                    self.free_shim(pod.id(), pod.state_dir()).await;
                    return Ok(connected);
                }
                // It listens from the start, but may end before it takes the connection.
                Err(e) if begun.elapsed() > SHIM_START => return Err(self.explain_shim(pod, Error::from(e))),
                Err(_) if !process::lives(pod.state_dir()) => {
                    let gone = Error::internal("the pod's shim ended at once");
                    return Err(self.explain_shim(pod, gone));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Adds what the shim left in its log.
    fn explain_shim(&self, pod: &Pod, error: Error) -> Error {
        let log = std::fs::read_to_string(pod.state_dir().join("shim.log")).unwrap_or_default();
        match log.lines().last() {
            Some(line) => error.context(format!("shim: {line}")),
            None => error,
        }
    }

    /// Writes durably that a pod is being taken apart: should this daemon die, the next one goes on from the record. If that
    /// cannot be written, the next one finds a pod without a shim instead.
    pub(crate) async fn put_discarded(&self, pod: &Pod) {
        if let Err(e) = self.put_pod(pod).await {
            tracing::warn!(pod = short(pod.id()), error = %e, "the pod's record cannot be written");
        }
    }

    /// Writes a pod's record durably.
    pub(crate) async fn put_pod(&self, pod: &Pod) -> Result<()> {
        self.put_record(pod.record()).await
    }

    async fn put_record(&self, record: PodRecord) -> Result<()> {
        let store = self.store.clone();
        blocking(move || {
            let json =
                serde_json::to_vec(&record).map_err(|e| Error::internal(format!("pod record: {e}")))?;
            Ok(store.put_record(RecordKind::Pod, &record.id, &json)?)
        })
        .await
    }
}

fn taken(key: &str, why: &str) -> Error {
    Error::new(
        Kind::AlreadyExists,
        format!("pod {key} exists already: {why}; remove it, or use another attempt number"),
    )
}

/// CRI's namespace options of a pod.
pub(crate) fn namespace_options(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let context = config.linux.as_ref().and_then(|l| l.security_context.clone());
    context.and_then(|c| c.namespace_options).unwrap_or_default()
}

/// Whether a pod's containers share one PID namespace.
fn shared_pid(config: &cri::PodSandboxConfig) -> bool {
    let has_context = config.linux.as_ref().is_some_and(|l| l.security_context.is_some());
    has_context && namespace_options(config).pid() == cri::NamespaceMode::Pod
}

fn pause_cgroup(record: &PodRecord) -> String {
    names::leaf(&record.cgroup_parent, &record.id)
}

/// The pod's host name: its own, or the node's.
pub(crate) fn hostname(record: &PodRecord) -> String {
    if record.namespaces.uts.is_some() && !record.config.hostname.is_empty() {
        return record.config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn attach_request(pod: &Pod, record: &PodRecord) -> Result<AttachRequest> {
    let metadata = record.config.metadata.clone().unwrap_or_default();
    let ports = check::ports(&record.config, record.origin)?;
    let netns =
        record.namespaces.net.as_ref().ok_or_else(|| Error::internal("a network without a namespace"))?;
    Ok(AttachRequest {
        pod_id: record.id.clone(),
        owner: format!("{}/{}", metadata.namespace, metadata.name),
        netns: netns.into(),
        ports,
        config: pod.config().clone(),
        intent: None,
    })
}
