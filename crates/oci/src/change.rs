//! Dockerfile instructions that change an image's config: what `commit --change` takes.

use crate::config::{Empty, Execution};
use serde_json::{Value, json};

/// Why an instruction cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not one of those that change a config.
    #[error("{0} is not a valid change command")]
    Unknown(String),
    /// Something is wrong with its arguments.
    #[error("change {instruction}: {why}")]
    Arguments {
        /// The instruction.
        instruction: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Applies one instruction.
///
/// # Errors
/// If it is unknown or malformed; `config` is unchanged then.
pub fn apply(config: &mut Execution, line: &str) -> Result<(), ChangeError> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let need = |instruction, why: &str| ChangeError::Arguments { instruction, why: why.into() };
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "ENV" => set_env(config, &pairs("ENV", rest)?),
        "LABEL" => config.labels.extend(pairs("LABEL", rest)?),
        "EXPOSE" => {
            let ports = words(rest).iter().map(|p| port(p)).collect::<Result<Vec<_>, _>>()?;
            if ports.is_empty() {
                return Err(need("EXPOSE", "it takes at least one port"));
            }
            config.exposed_ports.extend(ports.into_iter().map(|p| (p, Empty {})));
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "ONBUILD" if rest.is_empty() => return Err(need("ONBUILD", "it takes an instruction")),
        "ONBUILD" => config.on_build.push(rest.into()),
        "STOPSIGNAL" if rest.is_empty() => return Err(need("STOPSIGNAL", "it takes a signal")),
        "STOPSIGNAL" => config.stop_signal = rest.into(),
        "USER" if rest.is_empty() => return Err(need("USER", "it takes a user")),
        "USER" => config.user = rest.into(),
        "VOLUME" => {
            let paths = json_array(rest).unwrap_or_else(|| words(rest));
            if paths.is_empty() || paths.iter().any(String::is_empty) {
                return Err(need("VOLUME", "it takes at least one path"));
            }
            config.volumes.extend(paths.into_iter().map(|p| (p, Empty {})));
        }
        "WORKDIR" if rest.is_empty() => return Err(need("WORKDIR", "it takes a path")),
        "WORKDIR" => config.working_dir = join(&config.working_dir, rest),
        _ => return Err(ChangeError::Unknown(word.chars().take(60).collect())),
    }
    Ok(())
}

fn set_env(config: &mut Execution, pairs: &[(String, String)]) {
    for (name, value) in pairs {
        config.env.retain(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) != name);
        config.env.push(format!("{name}={value}"));
    }
}

fn json_array(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// The exec form, or the shell form by `/bin/sh -c`.
fn command(text: &str) -> Vec<String> {
    match json_array(text) {
        Some(array) => array,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".into(), "-c".into(), text.into()],
    }
}

fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("{}/{path}", base.trim_end_matches('/')) }
}

fn port(text: &str) -> Result<String, ChangeError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let range = number.split_once('-').unwrap_or((number, number));
    let fine = |n: &str| n.parse::<u16>().is_ok_and(|n| n > 0);
    if fine(range.0) && fine(range.1) && ["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Ok(format!("{number}/{protocol}"));
    }
    Err(ChangeError::Arguments { instruction: "EXPOSE", why: format!("{text:?} is no port such as 80/tcp") })
}

fn healthcheck(text: &str) -> Result<Value, ChangeError> {
    let bad = |why: &str| ChangeError::Arguments { instruction: "HEALTHCHECK", why: why.into() };
    match text.split_once(char::is_whitespace).unwrap_or((text, "")) {
        ("NONE", "") => Ok(json!({"Test": ["NONE"]})),
        ("CMD", rest) if !rest.trim().is_empty() => {
            let rest = rest.trim();
            let mut test = vec![if rest.starts_with('[') { "CMD" } else { "CMD-SHELL" }.to_owned()];
            test.extend(json_array(rest).unwrap_or_else(|| vec![rest.to_owned()]));
            Ok(json!({"Test": test}))
        }
        _ => Err(bad("expected NONE or CMD and a command, without options")),
    }
}

/// `a=b "c d"=e`, or the old `name value with spaces` of one pair.
fn pairs(instruction: &'static str, text: &str) -> Result<Vec<(String, String)>, ChangeError> {
    let bad = |why: String| ChangeError::Arguments { instruction, why };
    let words = words(text);
    let first = words.first().ok_or_else(|| bad("it takes name=value".into()))?;
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| bad(format!("{first:?} has no value: write {first}=value")))?;
        return Ok(vec![(name.into(), value.trim().into())]);
    }
    words
        .iter()
        .map(|w| match w.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
            _ => Err(bad(format!("{w:?} is not name=value"))),
        })
        .collect()
}

/// Words, with quotes and backslashes as in a Dockerfile.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut some) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => (quote, some) = (Some(c), true),
            (Some(q), c) if c == q => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                some = true;
            }
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut some) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => {
                word.push(c);
                some = true;
            }
        }
    }
    if some {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Execution {
        let mut config = Execution { env: vec!["A=old".into(), "PATH=/bin".into()], ..Default::default() };
        lines.iter().for_each(|l| apply(&mut config, l).unwrap());
        config
    }

    #[test]
    fn instructions_change_the_config() {
        let c = changed(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint exec x",
            "ENV A=1 B=\"x y\"",
            "LABEL k=v other='w x'",
            "EXPOSE 80 53/udp",
            "VOLUME /data /more",
            "WORKDIR /srv",
            "WORKDIR sub",
            "USER nobody:nogroup",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK CMD curl localhost",
        ]);
        assert_eq!(c.cmd, ["a", "b c"]);
        assert_eq!(c.entrypoint, ["/bin/sh", "-c", "exec x"]);
        assert_eq!(c.env, ["PATH=/bin", "A=1", "B=x y"]);
        assert_eq!(c.labels["other"], "w x");
        assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(c.working_dir, "/srv/sub");
        assert_eq!(c.healthcheck.unwrap()["Test"][0], "CMD-SHELL");
        assert_eq!(changed(&["ENV X a b  c"]).env[2], "X=a b  c");
    }

    #[test]
    fn others_are_refused() {
        let error = apply(&mut Execution::default(), "RUN rm -rf /").unwrap_err();
        assert_eq!(error.to_string(), "RUN is not a valid change command");
        for bad in ["EXPOSE x", "EXPOSE 0", "ENV", "ENV A", "LABEL =x", "USER", "VOLUME", "HEALTHCHECK x", ""]
        {
            assert!(apply(&mut Execution::default(), bad).is_err(), "{bad}");
        }
    }
}
