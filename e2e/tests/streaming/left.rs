//! Sessions that nobody comes for, and those whose client goes without a word.

use super::*;

/// How many descriptors a process has.
fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn until(node: &Node, id: &str, what: &str, number: usize) {
    eventually(30, "processes begin or end", || match count(node, id, what) {
        n if n == number => Ok(()),
        n => Err(format!("{n} of {what}")),
    });
}

/// A session of a program that is told nothing: with its output, without input.
fn silent(node: &Node, id: &str, command: &[&str]) -> Client {
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        stdout: true,
        ..Default::default()
    };
    Client::connect(node, &exec_url(node, request).unwrap(), "v4.channel.k8s.io")
}

#[test]
fn a_client_that_goes_leaves_nothing_but_its_program() {
    test(|node| {
        let (pod_id, id) = running(node, "exec sleep 1000", |config| config.stdin = true);
        let attach = || {
            let request = cri::AttachRequest {
                container_id: id.clone(),
                stdin: true,
                stdout: true,
                ..Default::default()
            };
            let url = node.cri(async |mut c| c.attach(request).await).unwrap().url;
            Client::connect(node, &url, "v5.channel.k8s.io")
        };
        // What the first sessions make is there from now on.
        drop(attach());
        silent(node, &id, &["echo", "first"]).all();
        let processes = [node.pid(), node.shim(&pod_id)];
        let before = processes.map(descriptors);
        let clients: Vec<Client> = (0..10)
            .flat_map(|_| {
                [
                    attach(),
                    silent(node, &id, &["sleep", "4321"]),
                    silent(node, &id, &["sh", "-c", "while echo written; do sleep 0.05; done"]),
                ]
            })
            .collect();
        until(node, &id, "sleep 4321", 10);
        until(node, &id, "echo written", 10);
        drop(clients);
        // As with ssh, docker and containerd: a program learns of it when it reads, writes or has a terminal. One that does none of
        // it goes on, and stratad keeps nothing for it.
        until(node, &id, "echo written", 0);
        eventually(30, "stratad has forgotten the sessions", || {
            let now = descriptors(processes[0]);
            if now <= before[0] + 2 { Ok(()) } else { Err(format!("{} before, {now} now", before[0])) }
        });
        assert_eq!(count(node, &id, "sleep 4321"), 10);
        node.exec(&id, "kill $(ps -o pid,args | awk '/[s]leep 4321/ { print $1 }')");
        until(node, &id, "sleep 4321", 0);
        eventually(30, "the shim has forgotten the programs", || {
            let now = descriptors(processes[1]);
            if now <= before[1] { Ok(()) } else { Err(format!("{} before, {now} now", before[1])) }
        });
    });
}

/// In a shared PID namespace the end of the container's first process ends nobody else.
#[test]
fn a_program_without_its_client_ends_with_its_container() {
    test(|node| {
        node.pull("busybox");
        let mut config = pod(node, "shared");
        let shared =
            || Some(cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..Default::default() });
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options = shared();
        let pod_id = node.run_pod(&config);
        let [id, beside] = ["one", "two"].map(|name| {
            let mut wanted = container(node, name, "exec sleep 1000");
            let security = wanted.linux.get_or_insert_default().security_context.get_or_insert_default();
            security.namespace_options = shared();
            node.run_container(&pod_id, &config, &wanted)
        });
        let client = silent(node, &id, &["sleep", "4321"]);
        until(node, &beside, "sleep 4321", 1);
        drop(client);
        node.stop_container(&id, 0).unwrap();
        until(node, &beside, "sleep 4321", 0);
    });
}

#[test]
fn a_url_is_good_for_a_minute() {
    test(|node| {
        let (pod_id, id) = running(node, "exec sleep 1000", |_| {});
        let attach = cri::AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
        let forward = cri::PortForwardRequest { pod_sandbox_id: pod_id, port: vec![80] };
        let urls = [
            script_url(node, &id, "touch /late"),
            node.cri(async |mut c| c.attach(attach).await).unwrap().url,
            node.cri(async |mut c| c.port_forward(forward).await).unwrap().url,
        ];
        std::thread::sleep(std::time::Duration::from_secs(61));
        for url in &urls {
            assert_eq!(raw::upgrade(node, url, "v4.channel.k8s.io").0, 404, "{url}");
        }
        assert_eq!(node.exec(&id, "ls /late 2>&1 || true"), "ls: /late: No such file or directory\n");
        let said = Client::connect(node, &script_url(node, &id, "echo in time"), "v4.channel.k8s.io").all();
        assert_eq!(said.text(1), "in time\n");
    });
}
