//! CNI with the plugins of Debian's containernetworking-plugins, each behind a script that can hold it up or make it fail.

use k8s_cri::v1 as cri;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use strata_e2e::eventually;
use strata_e2e::node::{Node, container, leaks, pod, process, test};

/// Where Debian has them.
const PLUGINS: &str = "/usr/lib/cni";

/// Runs the plugin of the same name, and says so in `log`. Where `hold.<plugin>.<verb>.<before or after>` is, it waits until
/// that is gone; where `fail.<plugin>.<verb>` is, it asks to be tried again later.
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
struct Net<'a> {
    node: &'a Node,
    bin: PathBuf,
    conf: PathBuf,
    data: PathBuf,
}

/// Runs a test on a node whose Kubernetes pods get CNI.
fn with_cni(f: impl FnOnce(&Net<'_>)) {
    if !Path::new(PLUGINS).join("bridge").exists() {
        println!("skipped: needs containernetworking-plugins");
        return;
    }
    test(|node| {
        let net =
            Net { node, bin: node.dir("cni/bin"), conf: node.dir("cni/conf"), data: node.dir("cni/data") };
        for dir in [&net.bin, &net.conf, &net.data] {
            std::fs::create_dir_all(dir).unwrap();
        }
        for plugin in ["bridge", "host-local", "portmap", "bandwidth"] {
            net.install(&format!("gated-{plugin}"), GATE);
        }
        net.install("newest", NEWEST);
        let config = std::fs::read_to_string(node.dir("config.toml")).unwrap();
        let cni = format!(
            "cri = \"cni\"\ncni_conf_dir = {:?}\ncni_bin_dirs = [{:?}, \"{PLUGINS}\"]\ncni_timeout = 5\ncni_conf_template = {:?}\n",
            net.conf,
            net.bin,
            node.dir("cni/template")
        );
        node.stop();
        std::fs::write(node.dir("config.toml"), config.replace("cri = \"builtin\"\n", &cni)).unwrap();
        node.launch();
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
    fn bridge_list(&self, name: &str, second: u8) -> String {
        let data = self.data.display();
        format!(
            r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[
            {{"type":"gated-bridge","bridge":"cni{second}","isGateway":true,"ipMasq":true,"hairpinMode":true,
             "ipam":{{"type":"gated-host-local","dataDir":"{data}","ranges":[[{{"subnet":"10.{second}.0.0/24"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
            {{"type":"gated-portmap","capabilities":{{"portMappings":true}}}},
            {{"type":"gated-bandwidth","capabilities":{{"bandwidth":true}}}}]}}"#
        )
    }

    fn put_list(&self, file: &str, text: &str) {
        let beside = self.conf.join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.conf.join(file)).unwrap();
    }

    /// The addresses that host-local holds.
    fn addresses(&self) -> Vec<String> {
        let networks = leaks::names(&self.data).into_iter().map(|n| self.data.join(n));
        let files = networks.flat_map(|dir| leaks::names(&dir));
        files.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.bin.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn switch(&self, what: &str, on: bool) {
        let path = self.bin.join(what);
        if on { std::fs::write(path, "").unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    #[track_caller]
    fn given_back(&self, point: &str) {
        eventually(30, "the address is given back", || match self.addresses() {
            held if held.is_empty() => Ok(()),
            held => Err(format!("{point}: {held:?}")),
        });
    }

    fn ready(&self) -> Result<(), String> {
        let request = cri::StatusRequest { verbose: false };
        let status = self.node.cri(async |mut c| c.status(request).await).unwrap().status.unwrap();
        let network = status.conditions.into_iter().find(|c| c.r#type == "NetworkReady").unwrap();
        if network.status { Ok(()) } else { Err(format!("{}: {}", network.reason, network.message)) }
    }

    fn ip(&self, pod_id: &str) -> String {
        self.node.pod_status(pod_id).network.unwrap().ip
    }

    fn fetch(&self, address: &str) -> Result<String, String> {
        let fetched = self.node.within(|| -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(address)?;
            stream.set_read_timeout(Some(strata_e2e::patience(5)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = fetched.map_err(|e| format!("{address}: {e}"))?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(answer)
    }

    /// Runs `call` until a plugin is held up at `point`, and then what is to happen there; tells the call's success.
    fn at<T: Send>(&self, point: &str, call: impl FnOnce() -> T + Send, then: impl FnOnce(i32)) -> T {
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
fn busy_pod(node: &Node, name: &str, host_port: i32) -> cri::PodSandboxConfig {
    let mut config = pod(node, name);
    config.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "20M".into());
    config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port, ..Default::default() }];
    config
}

#[test]
fn pods_get_what_the_list_says() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        net.ready().unwrap();
        node.pull("busybox");
        let (one, two) = (busy_pod(node, "one", 8083), pod(node, "two"));
        let (one_id, two_id) = (node.run_pod(&one), node.run_pod(&two));
        let (ip, other) = (net.ip(&one_id), net.ip(&two_id));
        assert!(ip.starts_with("10.77.0.") && other.starts_with("10.77.0.") && ip != other, "{ip} {other}");
        let serve = "echo by cni > /index.html; exec httpd -f -p 80 -h /";
        node.run_container(&one_id, &one, &container(node, "web", serve));
        let client = node.run_container(&two_id, &two, &container(node, "client", "exec sleep 1000"));
        let by = |address: &str| eventually(20, "the pod answers", || net.fetch(address));
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        assert_eq!(by("10.77.0.1:8083"), "by cni\n", "by the node's port");
        let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ip} 80 | tail -n 1");
        assert_eq!(node.exec(&client, &get), "by cni\n");
        assert!(node.exec(&client, "ip -o addr show lo").contains("127.0.0.1"), "loopback is up");
        let told = std::fs::read_to_string(net.bin.join("last.bandwidth.ADD")).unwrap();
        assert!(!told.contains("ingressRate"), "the second pod asks for none: {told}");
        let shaped = node.run("tc", &["qdisc", "show"]).ok();
        assert!(shaped.stdout.contains("tbf") && shaped.stdout.contains("20Mbit"), "{shaped}");

        // Over a restart; the new daemon looks whether they are as they were made.
        node.crash();
        assert_eq!(by(&format!("{ip}:80")), "by cni\n");
        eventually(20, "CHECK", || {
            if net.log().iter().filter(|l| *l == "bridge.CHECK").count() == 2 {
                Ok(())
            } else {
                Err(format!("{:?}", net.log()))
            }
        });
        // Of what Debian's portmap and bandwidth say then the daemon only warns: the pods go on.
        // Stopping gives everything back, and again is fine.
        node.crictl(&["stopp", &one_id]).ok();
        node.crictl(&["stopp", &one_id]).ok();
        assert_eq!(net.addresses(), [other]);
        net.fetch("10.77.0.1:8083").unwrap_err();
        assert!(!node.run("tc", &["qdisc", "show"]).ok().stdout.contains("20Mbit"));
        let told = std::fs::read_to_string(net.bin.join("last.portmap.DEL")).unwrap();
        assert!(told.contains("prevResult") && told.contains(&ip), "{told}");
        node.crictl(&["rmp", "-f", &two_id]).ok();
        assert!(net.addresses().is_empty());
    });
}

/// Who dies at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Plugin,
    Daemon,
}

fn strike(net: &Net<'_>, victim: Victim, plugin: i32) {
    match victim {
        Victim::Plugin => process::kill(plugin),
        Victim::Daemon => net.node.kill9(),
    }
}

#[test]
fn no_address_is_lost_whoever_dies_during_add() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        for (number, point) in [
            "bridge.ADD.before",
            "host-local.ADD.before",
            "host-local.ADD.after",
            "bridge.ADD.after",
            "portmap.ADD.after",
        ]
        .into_iter()
        .enumerate()
        {
            for victim in [Victim::Plugin, Victim::Daemon] {
                let what = format!("{point} {victim:?}");
                let config = busy_pod(node, &format!("p{number}{victim:?}").to_lowercase(), 8083);
                let ran = net.at(point, || node.try_run_pod(&config), |pid| strike(net, victim, pid));
                ran.expect_err(&what);
                if victim == Victim::Daemon {
                    node.launch();
                }
                // What was held up is killed before that: let go, it would take the address again.
                eventually(30, "no plugin of it runs", || match process::naming(&net.bin) {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("{what}: {left:?}")),
                });
                net.given_back(&what);
                net.switch(&format!("hold.{point}"), false);
                std::thread::sleep(std::time::Duration::from_millis(150));
                net.given_back(&what);
            }
        }
        // One that hangs is killed.
        let refused =
            net.at("host-local.ADD.before", || node.try_run_pod(&pod(node, "hangs")), |_| {}).unwrap_err();
        assert!(refused.message().contains("no answer for 5 s"), "{refused}");
        net.switch("hold.host-local.ADD.before", false);
        net.given_back("hangs");
        let id = node.run_pod(&busy_pod(node, "after", 8083));
        assert_eq!(net.addresses(), [net.ip(&id)]);
    });
}

#[test]
fn no_address_is_lost_whoever_dies_during_del() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        for (number, point) in
            ["portmap.DEL.before", "bridge.DEL.before", "host-local.DEL.before", "bridge.DEL.after"]
                .into_iter()
                .enumerate()
        {
            for victim in [Victim::Plugin, Victim::Daemon] {
                let what = format!("{point} {victim:?}");
                let config = busy_pod(node, &format!("p{number}{victim:?}").to_lowercase(), 8083);
                let id = node.run_pod(&config);
                net.at(point, || node.stop_pod(&id), |pid| strike(net, victim, pid)).expect_err(&what);
                net.switch(&format!("hold.{point}"), false);
                if victim == Victim::Daemon {
                    node.launch();
                }
                // Nobody asks again.
                net.given_back(&what);
                node.stop_pod(&id).unwrap();
                node.remove_pod(&id).unwrap();
            }
        }
        // A pod that is removed while its network cannot be is gone, and its address is given back once it can.
        let id = node.run_pod(&pod(node, "removed"));
        net.switch("fail.bridge.DEL", true);
        let refused = node.stop_pod(&id).unwrap_err();
        assert!(refused.message().contains("the test says no"), "{refused}");
        node.remove_pod(&id).unwrap();
        node.crash();
        assert_eq!(net.addresses().len(), 1);
        net.switch("fail.bridge.DEL", false);
        net.given_back("removed");
    });
}

#[test]
fn addresses_are_given_back_after_a_reboot() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let ready = node.run_pod(&busy_pod(node, "ready", 8083));
        let half = |pid: i32| {
            node.kill9();
            process::kill(pid);
            for (pid, _) in process::naming(&net.bin) {
                process::kill(pid);
            }
        };
        net.at("host-local.ADD.after", || node.try_run_pod(&pod(node, "half")), half).unwrap_err();
        net.switch("hold.host-local.ADD.after", false);
        assert_eq!(net.addresses().len(), 2);
        // The first attempts fail, and the list has gone: the recorded one counts.
        net.switch("fail.portmap.DEL", true);
        std::fs::remove_file(net.conf.join("10-pods.conflist")).unwrap();
        node.reboot();
        assert_eq!(node.pod_status(&ready).state(), cri::PodSandboxState::SandboxNotready);
        assert_eq!(net.addresses().len(), 2);
        net.switch("fail.portmap.DEL", false);
        net.given_back("reboot");
        node.stop_pod(&ready).unwrap();
    });
}

#[test]
fn the_address_of_a_pod_whose_record_is_damaged_is_given_back() {
    with_cni(|net| {
        let node = net.node;
        net.put_list("10-pods.conflist", &net.bridge_list("pods", 77));
        let cut = node.run_pod(&busy_pod(node, "cut", 8083));
        let newer = node.run_pod(&pod(node, "newer"));
        node.kill9();
        let record = |id: &str| node.dir("root/pods").join(id).join("pod.json");
        std::fs::write(record(&cut), "{").unwrap();
        // What is in this one is taken at its word where it can be read.
        let text = std::fs::read_to_string(record(&newer)).unwrap();
        std::fs::write(record(&newer), text.replacen("\"version\":1,", "\"version\":2,", 1)).unwrap();
        // Not yet: it is tried again.
        net.switch("fail.portmap.DEL", true);
        node.launch();
        assert_eq!(net.addresses().len(), 2);
        net.switch("fail.portmap.DEL", false);
        net.given_back("damaged");
        eventually(20, "the records are put away", || match leaks::names(&node.dir("root/pods")).len() {
            0 => Ok(()),
            n => Err(n.to_string()),
        });
    });
}

#[test]
fn lists_come_and_go_without_a_restart() {
    with_cni(|net| {
        let node = net.node;
        assert!(net.ready().unwrap_err().contains("no network list"));
        let refused = node.try_run_pod(&pod(node, "early")).unwrap_err();
        assert!(refused.message().contains("not ready"), "{refused}");
        // The kubelet says the pod CIDR: the template becomes a list.
        std::fs::write(
            node.dir("cni/template"),
            net.bridge_list("made", 77).replace("10.77.0.0/24", "{{.PodCIDR}}"),
        )
        .unwrap();
        let say = |cidr: &str| {
            let network_config = Some(cri::NetworkConfig { pod_cidr: cidr.into() });
            let runtime_config = Some(cri::RuntimeConfig { network_config });
            node.cri(async |mut c| {
                c.update_runtime_config(cri::UpdateRuntimeConfigRequest { runtime_config }).await
            })
        };
        say("").unwrap();
        assert_eq!(say("nonsense").unwrap_err().code(), tonic::Code::InvalidArgument);
        say("10.78.3.0/24").unwrap();
        net.ready().unwrap();
        let made = node.run_pod(&pod(node, "made"));
        assert!(net.ip(&made).starts_with("10.78.3."), "{}", net.ip(&made));
        // An add-on's list counts from now on; one that is half written is no reason to take another.
        net.put_list("05-addon.conflist", "{");
        assert!(net.ready().unwrap_err().contains("05-addon.conflist"));
        net.put_list("05-addon.conflist", &net.bridge_list("addon", 79));
        net.ready().unwrap();
        let addon = node.run_pod(&pod(node, "addon"));
        assert!(net.ip(&addon).starts_with("10.79.0."), "{}", net.ip(&addon));
        say("10.78.4.0/24").unwrap();
        assert!(
            std::fs::read_to_string(net.conf.join("10-strata-net.conflist"))
                .unwrap()
                .contains("10.78.3.0/24")
        );
        // Each goes by the list that it came with.
        for file in leaks::names(&net.conf) {
            std::fs::remove_file(net.conf.join(file)).unwrap();
        }
        node.remove_pod(&made).unwrap();
        node.remove_pod(&addon).unwrap();
        assert!(net.addresses().is_empty(), "{:?}", net.addresses());
    });
}

#[test]
fn status_and_garbage_collection() {
    with_cni(|net| {
        let node = net.node;
        let list = r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0"],"name":"newest","plugins":[{"type":"newest"}]}"#;
        net.put_list("10-newest.conflist", list);
        net.ready().unwrap();
        let id = node.run_pod(&pod(node, "pod"));
        assert_eq!(net.ip(&id), "192.0.2.7");
        node.crash();
        // The first daemon's, which had no pod yet, comes before it.
        let valid = serde_json::json!([{ "containerID": id, "ifname": "eth0" }]);
        eventually(20, "GC", || {
            let text = std::fs::read_to_string(net.bin.join("last.newest.GC")).map_err(|e| e.to_string())?;
            let told: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let right = told["cni.dev/valid-attachments"] == valid && told["cniVersion"] == "1.1.0";
            if right { Ok(()) } else { Err(text) }
        });
        net.switch("unready", true);
        eventually(20, "the network is not ready", || match net.ready() {
            Err(why) if why.contains("the agent is away") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        node.stop_pod(&id).unwrap();
        net.switch("unready", false);
        eventually(20, "the network is ready again", || net.ready());
        // A list whose plugins are not there.
        net.put_list("10-newest.conflist", &list.replace("\"type\":\"newest\"", "\"type\":\"absent\""));
        assert!(net.ready().unwrap_err().contains("absent"));
    });
}
