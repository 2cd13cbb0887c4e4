//! `strata ps`, `strata container ls`

use super::Context;
use crate::error::{Error, Result};
use crate::listing::{self, Column};
use crate::names::{ellipsis, familiar, quote, short_id};
use crate::output::Output;
use crate::{units, when};
use jiff::Timestamp;
use serde_json::{Value, json};
use strata_api::debug::container::State;
use strata_api::debug::{Container, ListContainersRequest, PortMapping};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show those that do not run too
    #[arg(short, long)]
    all: bool,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show the last N created, running or not
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, hide_default_value = true,
        allow_negative_numbers = true)]
    last: i64,
    /// Show the last created, running or not
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
    /// Show those containers only: status=, name=, id=, label=, ancestor=, exited=, pod=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, `table TEMPLATE` or a Go template
    #[arg(long)]
    format: Option<String>,
}

const COLUMNS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
    ("SIZE", "Size"),
];

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let filters =
        args.filter.iter().map(|f| Filter::parse(f)).collect::<Result<Vec<_>, _>>().map_err(Error::Local)?;
    let last = if args.latest { 1 } else { args.last };
    let by_state = filters.iter().any(|f| matches!(f, Filter::Status(_) | Filter::Exited(_)));
    let mut client = context.client().await?;
    let wants_size = args.size || args.format.as_deref().is_some_and(|f| f.contains(".Size"));
    let request = ListContainersRequest { all: args.all || last >= 0 || by_state, size: wants_size };
    let mut containers = client.list_containers(request).await?.into_inner().containers;
    containers.retain(|c| Filter::all_take(&filters, c));
    if let Ok(last) = usize::try_from(last) {
        containers.truncate(last);
    }
    if args.quiet && args.format.is_none() {
        for c in &containers {
            Output::Stdout.line(if args.no_trunc { c.id.clone() } else { short_id(&c.id) })?;
        }
        return Ok(0);
    }
    let now = Timestamp::now();
    let lines: Vec<Value> = containers.iter().map(|c| line(c, args.no_trunc, now)).collect();
    let columns = if args.size { &COLUMNS[..] } else { &COLUMNS[..7] };
    let columns = listing::with_handlers(columns, containers.iter().map(|c| c.handler.as_str()));
    listing::print(args.format.as_deref(), &columns, &lines)?;
    Ok(0)
}

pub(super) fn line(c: &Container, whole: bool, now: Timestamp) -> Value {
    let command = command(&c.command);
    let labels: std::collections::BTreeMap<_, _> = c.labels.iter().collect();
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    json!({
        "ID": if whole { c.id.clone() } else { short_id(&c.id) },
        "Image": image(c, whole),
        "Command": quote(&if whole { command } else { ellipsis(&command, 20) }),
        "CreatedAt": when::local(c.created_at),
        "RunningFor": when::ago(c.created_at, now),
        "State": state(c.state()),
        "Status": status(c, now),
        "Ports": ports(&c.ports),
        "Names": c.name,
        "Labels": labels.join(","),
        "PodID": if whole { c.pod_id.clone() } else { short_id(&c.pod_id) },
        "Runtime": listing::handler(&c.handler),
        "Size": format!(
            "{} (virtual {})",
            units::short_size(c.size_rw),
            units::short_size(c.size_rw.saturating_add(c.size_root))
        ),
    })
}

/// The image as it was asked for; a bare ID is shortened.
fn image(c: &Container, whole: bool) -> String {
    let name = familiar(&c.image);
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_id = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    match () {
        () if name.is_empty() => short_id(&c.image_id),
        () if is_id && !whole => short_id(name),
        () => name.to_owned(),
    }
}

/// argv as one text: arguments with blanks in single quotes.
fn command(argv: &[String]) -> String {
    let arg = |(i, a): (usize, &String)| if i > 0 && a.contains(' ') { format!("'{a}'") } else { a.clone() };
    argv.iter().enumerate().map(arg).collect::<Vec<_>>().join(" ")
}

fn state(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Exited => "exited",
        State::Unknown => "unknown",
    }
}

/// `Up 2 minutes`, `Exited (0) 3 hours ago`.
pub(super) fn status(c: &Container, now: Timestamp) -> String {
    let up = || when::at(c.started_at).map(|t| when::duration(now.duration_since(t))).unwrap_or_default();
    match c.state() {
        State::Created => "Created".into(),
        State::Running => format!("Up {}", up()),
        State::Paused => format!("Up {} (Paused)", up()),
        State::Exited => {
            format!("Exited ({}) {}", c.exit_code, when::ago(c.finished_at, now)).trim_end().into()
        }
        State::Unknown => "Unknown".into(),
    }
}

/// `0.0.0.0:80->80/tcp`, neighbours joined to ranges.
fn ports(ports: &[PortMapping]) -> String {
    let mut sorted: Vec<&PortMapping> = ports.iter().collect();
    sorted.sort_by_key(|p| (&p.protocol, &p.host_ip, p.container_port, p.host_port));
    let mut groups: Vec<(&PortMapping, u32)> = Vec::new();
    for port in sorted {
        if let Some((first, count)) = groups.last_mut()
            && (&first.protocol, &first.host_ip) == (&port.protocol, &port.host_ip)
            && port.container_port == first.container_port + *count
            && port.host_port == if first.host_port == 0 { 0 } else { first.host_port + *count }
        {
            *count += 1;
            continue;
        }
        groups.push((port, 1));
    }
    let texts: Vec<String> = groups.into_iter().map(|(first, count)| port_group(first, count)).collect();
    texts.join(", ")
}

fn port_group(first: &PortMapping, count: u32) -> String {
    let range =
        |from: u32| if count == 1 { from.to_string() } else { format!("{from}-{}", from + count - 1) };
    let protocol = if first.protocol.is_empty() { "tcp" } else { &first.protocol };
    let inside = format!("{}/{protocol}", range(first.container_port));
    if first.host_port == 0 {
        return inside;
    }
    let ip = match first.host_ip.as_str() {
        "" => "0.0.0.0".into(),
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    };
    format!("{ip}:{}->{inside}", range(first.host_port))
}

#[derive(Debug, PartialEq)]
enum Filter {
    Status(String),
    Exited(i32),
    Name(String),
    Id(String),
    Label(String, Option<String>),
    Ancestor(String),
    Pod(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "invalid filter '{text}'; there are status=, name=, id=, label=, ancestor=, exited= and pod="
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let value = value.to_owned();
        match key {
            "status" => match value.as_str() {
                "created" | "running" | "paused" | "exited" | "unknown" => Ok(Self::Status(value)),
                _ => Err(format!("invalid filter 'status={value}'")),
            },
            "exited" => value.parse().map(Self::Exited).map_err(|_| bad()),
            "name" => Ok(Self::Name(value.trim_start_matches('/').to_owned())),
            "id" => Ok(Self::Id(value)),
            "label" => Ok(match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value, None),
            }),
            "ancestor" => Ok(Self::Ancestor(value)),
            "pod" => Ok(Self::Pod(value)),
            _ => Err(bad()),
        }
    }

    /// Filters of different sorts must all take a container, of those of one sort any; labels must all.
    fn all_take(filters: &[Self], c: &Container) -> bool {
        filters.iter().all(|f| {
            let same_sort = |o: &&Self| std::mem::discriminant(*o) == std::mem::discriminant(f);
            match f {
                Self::Label(..) => f.takes(c),
                _ => filters.iter().filter(same_sort).any(|o| o.takes(c)),
            }
        })
    }

    fn takes(&self, c: &Container) -> bool {
        match self {
            Self::Status(wanted) => state(c.state()) == wanted,
            Self::Exited(code) => c.state() == State::Exited && c.exit_code == *code,
            // Docker's pattern, of which people use the anchors.
            Self::Name(pattern) => match (pattern.strip_prefix('^'), pattern.strip_suffix('$')) {
                (Some(rest), Some(_)) => rest.trim_start_matches('/').trim_end_matches('$') == c.name,
                (Some(rest), None) => c.name.starts_with(rest.trim_start_matches('/')),
                (None, Some(rest)) => c.name.ends_with(rest),
                (None, None) => c.name.contains(pattern.as_str()),
            },
            Self::Id(prefix) => c.id.starts_with(prefix.as_str()),
            Self::Label(name, value) => {
                c.labels.get(name).is_some_and(|v| value.as_ref().is_none_or(|wanted| wanted == v))
            }
            Self::Ancestor(image) => {
                let id = c.image_id.strip_prefix("sha256:").unwrap_or(&c.image_id);
                let wanted = image.strip_prefix("sha256:").unwrap_or(image);
                let named = crate::names::with_default_tag(familiar(image));
                (wanted.len() >= 4 && id.starts_with(wanted))
                    || crate::names::with_default_tag(familiar(&c.image)) == named
            }
            Self::Pod(prefix) => c.pod_id.starts_with(prefix.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> i64 {
        (now().as_second() - seconds) * SECOND
    }

    fn container(state: State) -> Container {
        Container {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            image: "docker.io/library/busybox:latest".into(),
            image_id: "sha256:fedcba".into(),
            command: vec!["sh".into(), "-c".into(), "sleep 1000".into()],
            created_at: ago(7200),
            started_at: ago(120),
            finished_at: ago(60),
            exit_code: 3,
            state: state.into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Container::default()
        }
    }

    #[test]
    fn a_line_is_as_dockers() {
        let got = line(&container(State::Running), false, now());
        assert_eq!(got["ID"], "0123456789ab");
        assert_eq!(got["Image"], "busybox:latest");
        assert_eq!(got["Command"], "\"sh -c 'sleep 1000'\"");
        assert_eq!(got["RunningFor"], "2 hours ago");
        assert_eq!(got["Status"], "Up 2 minutes");
        assert_eq!(status(&container(State::Exited), now()), "Exited (3) About a minute ago");
        assert_eq!(status(&container(State::Created), now()), "Created");
        assert_eq!(status(&container(State::Paused), now()), "Up 2 minutes (Paused)");
    }

    #[test]
    fn ports_are_joined() {
        let port = |ip: &str, host, inside| PortMapping {
            host_ip: ip.into(),
            host_port: host,
            container_port: inside,
            protocol: "tcp".into(),
        };
        let many = [port("", 8081, 81), port("", 8080, 80), port("::1", 9000, 90), port("", 0, 443)];
        assert_eq!(ports(&many), "0.0.0.0:8080-8081->80-81/tcp, 443/tcp, [::1]:9000->90/tcp");
        assert_eq!(ports(&[]), "");
    }

    #[test]
    fn filters_choose() {
        let c = container(State::Exited);
        let takes = |list: &[&str]| {
            let filters: Vec<_> = list.iter().map(|f| Filter::parse(f).unwrap()).collect();
            Filter::all_take(&filters, &c)
        };
        assert!(takes(&["status=running", "status=exited"]));
        assert!(takes(&["name=we", "id=0123", "label=a", "label=a=b", "exited=3", "ancestor=busybox"]));
        assert!(takes(&["name=^/web$", "ancestor=fedc"]));
        for none in ["status=running", "name=^eb", "label=a=c", "exited=0", "ancestor=alpine"] {
            assert!(!takes(&[none]), "{none}");
        }
        assert!(Filter::parse("status=odd").is_err() && Filter::parse("x=y").is_err());
    }
}
