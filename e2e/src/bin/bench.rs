//! `strata-e2e-bench`: what a pod, an exec and their memory cost, seen as the kubelet sees it. Prints; asserts nothing.

use clap::Parser;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri, NamespaceMode};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_e2e::Result;
use tonic::transport::{Channel, Endpoint, Uri};

/// Measures a running CRI server: medians and 99th percentiles of pods and execs, and memory per pod.
#[derive(Parser)]
#[command(name = "strata-e2e-bench")]
struct Args {
    /// The CRI socket.
    #[arg(long)]
    socket: PathBuf,
    /// An image with a shell, already pulled.
    #[arg(long)]
    image: String,
    /// How often each thing is done.
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// How many pods the memory is measured with.
    #[arg(long, default_value_t = 100)]
    pods: u32,
    /// How the server's processes are called, for the memory.
    #[arg(long, default_values_t = ["stratad".to_owned(), "strata-shim".to_owned()])]
    process: Vec<String>,
}

type Client = RuntimeServiceClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run(Args::parse()).await {
        eprintln!("strata-e2e-bench: {error}");
        std::process::exit(1);
    }
}

async fn run(args: Args) -> Result<()> {
    let socket = args.socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                tokio::net::UnixStream::connect(socket).await?,
            ))
        }
    });
    let channel = Endpoint::from_static("http://cri").connect_with_connector(connector).await?;
    let mut client = RuntimeServiceClient::new(channel);
    for (what, mode) in [("host network", NamespaceMode::Node), ("pod network", NamespaceMode::Pod)] {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for n in 0..args.rounds {
            let begun = Instant::now();
            let (pod, _) = pod_up(&mut client, &args.image, &format!("bench-{n}"), mode).await?;
            up.push(begun.elapsed());
            let begun = Instant::now();
            pod_down(&mut client, &pod).await?;
            down.push(begun.elapsed());
        }
        report(&format!("pod up, {what}"), up);
        report(&format!("pod down, {what}"), down);
    }
    execs(&mut client, &args).await?;
    memory(&mut client, &args).await
}

async fn execs(client: &mut Client, args: &Args) -> Result<()> {
    let (pod, container) = pod_up(client, &args.image, "bench-exec", NamespaceMode::Node).await?;
    let mut times = Vec::new();
    for _ in 0..args.rounds {
        let begun = Instant::now();
        let request =
            cri::ExecSyncRequest { container_id: container.clone(), cmd: vec!["true".into()], timeout: 10 };
        client.exec_sync(request).await?;
        times.push(begun.elapsed());
    }
    report("ExecSync true", times);
    pod_down(client, &pod).await
}

async fn memory(client: &mut Client, args: &Args) -> Result<()> {
    let (before, _) = pss(&args.process)?;
    let mut pods = Vec::new();
    for n in 0..args.pods {
        pods.push(pod_up(client, &args.image, &format!("bench-many-{n}"), NamespaceMode::Pod).await?.0);
    }
    let (after, private) = pss(&args.process)?;
    let each = |kib: u64| kib as f64 / f64::from(args.pods) / 1024.0;
    println!(
        "memory per pod ({} pods): {:.2} MiB PSS, {:.2} MiB private",
        args.pods,
        each(after - before),
        each(private)
    );
    if let Some(daemon) = args.process.first() {
        for pid in pids(daemon)? {
            println!("{daemon}: {:.1} MiB RSS", field(&pid.join("status"), "VmRSS:") as f64 / 1024.0);
        }
    }
    for pod in pods {
        pod_down(client, &pod).await?;
    }
    Ok(())
}

async fn pod_up(
    client: &mut Client,
    image: &str,
    name: &str,
    mode: NamespaceMode,
) -> Result<(String, String)> {
    let options = cri::NamespaceOption {
        network: mode.into(),
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    };
    let context =
        cri::LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    let metadata = cri::PodSandboxMetadata {
        name: name.into(),
        uid: name.into(),
        namespace: "bench".into(),
        attempt: 0,
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        linux: Some(cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() }),
        ..Default::default()
    };
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod = client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let security =
        cri::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        command: vec!["sleep".into(), "1000000".into()],
        linux: Some(cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let id = client.create_container(request).await?.into_inner().container_id;
    client.start_container(cri::StartContainerRequest { container_id: id.clone() }).await?;
    Ok((pod, id))
}

async fn pod_down(client: &mut Client, pod: &str) -> Result<()> {
    client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await?;
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await?;
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| {
        times.get(times.len() * part / 100).or_else(|| times.last()).copied().unwrap_or_default()
    };
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms", at(50).as_secs_f64() * 1e3, at(99).as_secs_f64() * 1e3);
}

/// Proportional and private memory of all processes of these names, in KiB.
fn pss(names: &[String]) -> Result<(u64, u64)> {
    let mut sums = (0, 0);
    for name in names {
        for pid in pids(name)? {
            let file = pid.join("smaps_rollup");
            sums.0 += field(&file, "Pss:");
            if name != &names[0] {
                sums.1 += field(&file, "Private_Dirty:") + field(&file, "Private_Clean:");
            }
        }
    }
    Ok(sums)
}

fn pids(name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn field(file: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
