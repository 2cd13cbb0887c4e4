//! `--ulimit`.

/// The names of setrlimit(2), as Docker spells them.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks `name=soft[:hard]`; -1 or `unlimited` is no limit.
pub(crate) fn check(text: &str) -> Result<String, String> {
    let bad = |why: &str| format!("invalid ulimit argument '{text}': {why}");
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("give NAME=soft[:hard]"))?;
    if !NAMES.contains(&name) {
        return Err(bad(&format!("there is no limit '{name}'")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let value = |s: &str| match s {
        "-1" | "unlimited" => Ok(u64::MAX),
        n => n.parse().map_err(|_| bad(&format!("'{n}' is no number"))),
    };
    if value(soft)? > value(hard)? {
        return Err(bad("the soft limit must not be above the hard one"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn limits_are_checked() {
        for good in ["nofile=1024", "nofile=1024:4096", "core=-1", "memlock=1:unlimited"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["nofile", "nofile=", "nope=1", "nofile=2:1", "nofile=x", "nofile=1:2:3"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
