//! The place of the cluster's CNI plugins. They are not run yet: the provider says so, and attaches nothing.

use super::{AttachRequest, Attachment, DetachRequest, NetworkStatus, Provider};
use crate::error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;

/// Answers for Kubernetes' pods while `[network] cri = "cni"`.
#[derive(Debug)]
pub(crate) struct Cni {
    conf_dir: PathBuf,
}

impl Cni {
    /// A provider for the network lists in a directory.
    pub(crate) fn new(conf_dir: PathBuf) -> Self {
        Self { conf_dir }
    }

    fn message(&self) -> String {
        format!(
            "CNI plugins are not supported yet, so the network lists in {} are not used; \
             set cri = \"builtin\" under [network] to connect pods to Strata's own bridge",
            self.conf_dir.display()
        )
    }
}

impl Provider for Cni {
    fn name(&self) -> &'static str {
        "cni"
    }

    fn status(&self) -> NetworkStatus {
        NetworkStatus { ready: false, reason: "NetworkPluginNotReady".into(), message: self.message() }
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment>> {
        let error = Error::unimplemented(self.message()).context(format!("network of {}", request.owner));
        std::future::ready(Err(error)).boxed()
    }

    fn detach(&self, _: DetachRequest) -> BoxFuture<'_, Result<()>> {
        // Nothing was ever attached.
        std::future::ready(Ok(())).boxed()
    }

    fn recover(&self, _: Vec<(String, Attachment)>) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn it_says_that_it_is_not_built() {
        let cni = Cni::new("/etc/cni/net.d".into());
        assert!(!cni.status().ready && cni.status().message.contains("/etc/cni/net.d"));
        let request = AttachRequest {
            pod_id: "p".into(),
            owner: "default/web".into(),
            netns: "/run/netns/p".into(),
            ports: Vec::new(),
        };
        let error = cni.attach(request).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unimplemented);
        assert!(error.to_string().contains("default/web"), "{error}");
        cni.detach(DetachRequest { pod_id: "p".into(), netns: None, attachment: None }).await.unwrap();
    }
}
