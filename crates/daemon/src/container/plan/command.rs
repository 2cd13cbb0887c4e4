//! What a container runs: command, environment, directory, from the request and the image.

use crate::error::{Error, Result};
use strata_api::cri;

/// What an image's configuration says of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageDefaults {
    /// The image, for messages.
    pub(crate) name: String,
    /// USER
    pub(crate) user: String,
    /// ENV, `NAME=value`.
    pub(crate) env: Vec<String>,
    /// ENTRYPOINT
    pub(crate) entrypoint: Vec<String>,
    /// CMD
    pub(crate) cmd: Vec<String>,
    /// WORKDIR
    pub(crate) working_dir: String,
    /// STOPSIGNAL
    pub(crate) stop_signal: String,
    /// VOLUME
    pub(crate) volumes: Vec<String>,
}

/// PATH where neither image nor request says one.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// argv. `command` replaces ENTRYPOINT and drops CMD, `args` replace CMD (kubernetes.io, "Define a Command and
/// Arguments for a Container"); an overriding entrypoint of the strata command drops CMD too, as Docker does.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) if nothing is left to run.
pub(crate) fn arguments(
    config: &cri::ContainerConfig,
    entrypoint: Option<&[String]>,
    image: &ImageDefaults,
) -> Result<Vec<String>> {
    let (first, rest): (&[String], &[String]) = match (entrypoint, config.command.as_slice()) {
        (Some(own), _) => (own, &config.args),
        (None, []) if config.args.is_empty() => (&image.entrypoint, &image.cmd),
        (None, []) => (&image.entrypoint, &config.args),
        (None, command) => (command, &config.args),
    };
    let args: Vec<String> = first.iter().chain(rest).cloned().collect();
    match args.first() {
        None => Err(Error::invalid(format!(
            "no command specified: image {} has neither ENTRYPOINT nor CMD; give a command",
            image.name
        ))),
        Some(program) if program.is_empty() => Err(Error::invalid("the command's first word is empty")),
        Some(_) => match args.iter().find(|a| a.contains('\0')) {
            Some(bad) => Err(Error::invalid(format!("argument {bad:?} holds a NUL byte"))),
            None => Ok(args),
        },
    }
}

/// The environment: PATH, HOSTNAME and, with a terminal, TERM as defaults; over them the image's, over it the
/// request's; HOME last, if nobody said it.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for names and values that execve(2) cannot pass on.
pub(crate) fn environment(
    config: &cri::ContainerConfig,
    image: &ImageDefaults,
    hostname: &str,
    home: &str,
) -> Result<Vec<String>> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}")];
    if !hostname.is_empty() {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if config.tty {
        env.push("TERM=xterm".into());
    }
    for line in &image.env {
        put(&mut env, line.clone());
    }
    for pair in &config.envs {
        let value = std::str::from_utf8(&pair.value).map_err(|_| {
            Error::invalid(format!("environment variable {}: its value is not UTF-8", pair.key))
        })?;
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid(format!(
                "environment variable {:?}: names must not be empty nor hold '=', nothing may hold a NUL byte",
                pair.key
            )));
        }
        put(&mut env, format!("{}={value}", pair.key));
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    Ok(env)
}

/// Sets a variable, in the place that it had.
pub(crate) fn put(env: &mut Vec<String>, line: String) {
    let name = line.split('=').next().unwrap_or_default();
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

/// The working directory.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a relative one in the request. An image's relative one
/// is taken from the root.
pub(crate) fn working_dir(asked: &str, image: &ImageDefaults) -> Result<String> {
    match (asked, image.working_dir.as_str()) {
        ("", "") => Ok("/".into()),
        ("", dir) if dir.starts_with('/') => Ok(dir.into()),
        ("", dir) => Ok(format!("/{dir}")),
        (dir, _) if dir.starts_with('/') && !dir.contains('\0') => Ok(dir.into()),
        (dir, _) => Err(Error::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        ))),
    }
}

/// The stop signal's number: the strata command's, CRI's, the image's, or SIGTERM.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a signal that Linux does not have, unless the image
/// names it: that is no reason not to run it.
pub(crate) fn stop_signal(own: Option<&str>, asked: cri::Signal, image: &ImageDefaults) -> Result<i32> {
    const SIGTERM: i32 = 15;
    if let Some(text) = own.filter(|t| !t.is_empty()) {
        return strata_sys::signal::parse(text)
            .ok_or_else(|| Error::invalid(format!("invalid signal: {text}")));
    }
    if asked != cri::Signal::RuntimeDefault {
        let name = words(asked);
        return strata_sys::signal::parse(&name)
            .ok_or_else(|| Error::invalid(format!("stop signal {name}: Linux has no such signal")));
    }
    Ok(strata_sys::signal::parse(&image.stop_signal).unwrap_or(SIGTERM))
}

/// CRI's word for a signal's number.
pub(crate) fn signal_of(number: i32) -> cri::Signal {
    // Signals with two names have the usual one first.
    let all = (1..=65).filter_map(|n| cri::Signal::try_from(n).ok());
    let mut same = all.filter(|s| strata_sys::signal::parse(&words(*s)) == Some(number));
    same.next().unwrap_or(cri::Signal::RuntimeDefault)
}

/// `SIGRTMINPLUS1` as `SIGRTMIN+1`.
fn words(signal: cri::Signal) -> String {
    signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn split(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image() -> ImageDefaults {
        ImageDefaults {
            name: "busybox".into(),
            entrypoint: split("/entry point"),
            cmd: split("cmd -x"),
            env: vec!["PATH=/image".into(), "A=1".into()],
            ..ImageDefaults::default()
        }
    }

    fn run(command: &str, args: &str, entrypoint: Option<&str>) -> String {
        let config =
            cri::ContainerConfig { command: split(command), args: split(args), ..Default::default() };
        let entrypoint = entrypoint.map(split);
        arguments(&config, entrypoint.as_deref(), &image()).unwrap().join(" ")
    }

    #[test]
    fn command_and_args_replace_as_kubernetes_documents() {
        assert_eq!(run("", "", None), "/entry point cmd -x");
        assert_eq!(run("", "-y", None), "/entry point -y");
        assert_eq!(run("sh", "", None), "sh");
        assert_eq!(run("sh", "-c", None), "sh -c");
        assert_eq!(run("", "", Some("ls")), "ls");
        assert_eq!(run("", "-l", Some("")), "-l");
    }

    #[test]
    fn nothing_to_run_is_refused() {
        let none = ImageDefaults { name: "empty".into(), ..Default::default() };
        let error = arguments(&cri::ContainerConfig::default(), None, &none).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("no command specified"));
        assert!(arguments(&cri::ContainerConfig::default(), Some(&[]), &image()).is_err());
    }

    #[test]
    fn the_request_wins_over_the_image_and_keeps_its_place() {
        let pair = |key: &str, value: &str| cri::KeyValue { key: key.into(), value: value.into() };
        let config = cri::ContainerConfig {
            envs: vec![pair("A", "2"), pair("B", "x=y"), pair("HOSTNAME", "mine")],
            tty: true,
            ..Default::default()
        };
        let env = environment(&config, &image(), "pod", "/root").unwrap();
        assert_eq!(env, ["PATH=/image", "HOSTNAME=mine", "TERM=xterm", "A=2", "B=x=y", "HOME=/root"]);
        for bad in [pair("", "x"), pair("A=B", "x"), pair("A", "\0")] {
            let config = cri::ContainerConfig { envs: vec![bad], ..Default::default() };
            assert!(environment(&config, &image(), "", "/").is_err());
        }
    }

    #[test]
    fn directories_are_absolute() {
        let mut image = image();
        assert_eq!(working_dir("", &image).unwrap(), "/");
        image.working_dir = "srv".into();
        assert_eq!(working_dir("", &image).unwrap(), "/srv");
        assert_eq!(working_dir("/x", &image).unwrap(), "/x");
        assert!(working_dir("x", &image).is_err());
    }

    #[test]
    fn stop_signals_come_from_whoever_says_one() {
        let mut image = image();
        assert_eq!(stop_signal(None, cri::Signal::RuntimeDefault, &image).unwrap(), 15);
        image.stop_signal = "SIGQUIT".into();
        assert_eq!(stop_signal(None, cri::Signal::RuntimeDefault, &image).unwrap(), 3);
        assert_eq!(stop_signal(None, cri::Signal::Sigrtminplus3, &image).unwrap(), 37);
        assert_eq!(stop_signal(None, cri::Signal::Sigrtmaxminus1, &image).unwrap(), 63);
        assert_eq!(stop_signal(Some("9"), cri::Signal::Sigusr1, &image).unwrap(), 9);
        assert!(stop_signal(Some("SIGNOPE"), cri::Signal::Sigusr1, &image).is_err());
        assert_eq!(signal_of(15), cri::Signal::Sigterm);
        assert_eq!(signal_of(17), cri::Signal::Sigchld);
        assert_eq!(signal_of(37), cri::Signal::Sigrtminplus3);
        assert_eq!(signal_of(32), cri::Signal::RuntimeDefault, "programs cannot have it");
        image.stop_signal = "nonsense".into();
        assert_eq!(stop_signal(None, cri::Signal::RuntimeDefault, &image).unwrap(), 15);
    }
}
