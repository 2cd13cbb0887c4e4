//! A node whose Kubernetes pods get CNI, with plugins that can be held up.

use k8s_cri::v1 as cri;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use strata_e2e::eventually;
use strata_e2e::node::{Node, cni, pod, process, test};

/// Runs the plugin of the same name, and says so in `log`. Where `hold.<plugin>.<verb>.<before or after>` is, it waits until
/// that is gone; where `fail.<plugin>.<verb>` is, it asks to be tried again later; where `hang.<plugin>.<verb>` is, it asks the
/// file system `hung`.
const GATE: &str = r#"#!/bin/sh
dir=${0%/*}
real=${0##*/gated-}
config=$(cat)
point=$real.$CNI_COMMAND
echo "$point" >>"$dir/log"
printf '%s\n' "$config" >"$dir/last.$point"
if [ -e "$dir/fail.$point" ]; then
	echo '{"cniVersion":"1.0.0","code":11,"msg":"the test says no"}'
	exit 1
fi
hold() {
	[ -e "$dir/hold.$point.$1" ] || return 0
	echo $$ >"$dir/held.new" && mv "$dir/held.new" "$dir/held"
	while [ -e "$dir/hold.$point.$1" ]; do sleep 0.05; done
}
[ ! -e "$dir/hang.$point" ] || exec cat "$dir/hung/name"
hold before
out=$(printf %s "$config" | /usr/lib/cni/"$real")
code=$?
hold after
printf %s "$out"
exit $code
"#;

/// Answers every verb of version 1.1.0 as files say.
const NEWEST: &str = r#"#!/bin/sh
dir=${0%/*}
cat >"$dir/last.newest.$CNI_COMMAND"
echo "newest.$CNI_COMMAND" >>"$dir/log"
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"interface":0,"address":"192.0.2.7/24"}]}' ;;
STATUS)
	if [ -e "$dir/unready" ]; then
		echo '{"cniVersion":"1.1.0","code":50,"msg":"the agent is away"}'
		exit 1
	fi
	;;
esac
"#;

/// A node's plugins and lists.
pub(super) struct Net<'a> {
    pub(super) node: &'a Node,
    pub(super) bin: PathBuf,
    pub(super) conf: PathBuf,
}

/// Runs a test on a node whose Kubernetes pods get CNI.
pub(super) fn with_cni(f: impl FnOnce(&Net<'_>)) {
    with_network("cni", "", f);
}

/// Runs a test on a node with CNI plugins whose Kubernetes pods get this network, with further tables for the configuration.
pub(super) fn with_network(cri: &str, tables: &str, f: impl FnOnce(&Net<'_>)) {
    if let Some(why) = cni::lacking() {
        strata_e2e::skip(why);
        return;
    }
    test(|node| {
        let net = Net { node, bin: node.dir("cni/bin"), conf: cni::conf_dir(node) };
        std::fs::create_dir_all(&net.bin).unwrap();
        for plugin in ["bridge", "host-local", "portmap", "bandwidth"] {
            net.install(&format!("gated-{plugin}"), GATE);
        }
        net.install("newest", NEWEST);
        let lines = format!(
            "cri = \"{cri}\"\n{}cni_timeout = 10\ncni_conf_template = {:?}\n",
            cni::settings(node, &[&net.bin]),
            node.dir("cni/template")
        );
        node.reconfigure(|text| text.replace("cri = \"builtin\"\n", &lines) + tables);
        f(&net);
        eventually(20, "the plugins have ended", || {
            let left = process::naming(&net.bin);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    });
}

impl Net<'_> {
    fn install(&self, name: &str, script: &str) {
        std::fs::write(self.bin.join(name), script).unwrap();
        std::fs::set_permissions(self.bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Bridge, addresses of `10.<second>.0.0/24`, host ports, bandwidth; all of them gated.
    pub(super) fn bridge_list(&self, name: &str, second: u8) -> String {
        cni::list(self.node, name, second, "gated-", &["portmap", "bandwidth"])
    }

    pub(super) fn put_list(&self, file: &str, text: &str) {
        cni::put_list(self.node, file, text);
    }

    /// The addresses that host-local holds.
    pub(super) fn addresses(&self) -> Vec<String> {
        cni::addresses(self.node)
    }

    pub(super) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.bin.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn switch(&self, what: &str, on: bool) {
        let path = self.bin.join(what);
        if on { std::fs::write(path, "").unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    #[track_caller]
    pub(super) fn given_back(&self, point: &str) {
        eventually(30, "the address is given back", || match self.addresses() {
            held if held.is_empty() => Ok(()),
            held => Err(format!("{point}: {held:?}")),
        });
    }

    pub(super) fn ready(&self) -> Result<(), String> {
        let request = cri::StatusRequest { verbose: false };
        let status = self.node.cri(async |mut c| c.status(request).await).unwrap().status.unwrap();
        let network = status.conditions.into_iter().find(|c| c.r#type == "NetworkReady").unwrap();
        if network.status { Ok(()) } else { Err(format!("{}: {}", network.reason, network.message)) }
    }

    pub(super) fn ip(&self, pod_id: &str) -> String {
        self.node.pod_status(pod_id).network.unwrap().ip
    }

    /// Runs `call` until a plugin is held up at `point`, and then what is to happen there; tells the call's success.
    pub(super) fn at<T: Send>(
        &self,
        point: &str,
        call: impl FnOnce() -> T + Send,
        then: impl FnOnce(i32),
    ) -> T {
        let _ = std::fs::remove_file(self.bin.join("held"));
        self.switch(&format!("hold.{point}"), true);
        std::thread::scope(|scope| {
            let call = scope.spawn(call);
            let pid = eventually(30, "a plugin is held up", || {
                let text =
                    std::fs::read_to_string(self.bin.join("held")).map_err(|e| format!("{point}: {e}"))?;
                text.trim().parse::<i32>().map_err(|e| e.to_string())
            });
            then(pid);
            call.join().unwrap()
        })
    }
}

/// What a pod's annotations, ports and names become.
pub(super) fn busy_pod(node: &Node, name: &str, host_port: i32) -> cri::PodSandboxConfig {
    let mut config = pod(node, name);
    config.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "20M".into());
    config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port, ..Default::default() }];
    config
}
