//! SELinux contexts: `user:role:type[:level]`, where a level is `s0`, `s0:c1,c2` or a range of two.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fmt;
use strata_api::cri;

/// How many categories policies have.
const CATEGORIES: u32 = 1024;

/// A context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// User.
    pub(crate) user: String,
    /// Role; that of files is `object_r`.
    pub(crate) role: String,
    /// Type.
    pub(crate) kind: String,
    /// Level, where the policy has any.
    pub(crate) level: Option<String>,
}

impl Context {
    fn parse(text: &str) -> Result<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(user), Some(role), Some(kind), level) => Ok(Self { user, role, kind, level }),
            _ => Err(Error::precondition(format!("SELinux context {text:?}: is not user:role:type[:level]"))),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(f, ":{level}"))
    }
}

/// What a policy says of containers (`contexts/lxc_contexts`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// Of their processes.
    pub(crate) process: Context,
    /// Of their files.
    pub(crate) file: Context,
}

impl Defaults {
    /// Reads lines of `name = "context"`.
    ///
    /// # Errors
    /// If it names no contexts for processes and files.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let of = |wanted: &str| {
            let value = text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == wanted).then(|| value.trim().trim_matches('"'))
            });
            Context::parse(value.ok_or_else(|| Error::precondition(format!("it has no {wanted} context")))?)
        };
        Ok(Self { process: of("process")?, file: of("file")? })
    }
}

/// A container's options over its pod's, field by field.
pub(crate) fn merge(
    own: Option<&cri::SeLinuxOption>,
    pod: Option<&cri::SeLinuxOption>,
) -> cri::SeLinuxOption {
    let field = |of: fn(&cri::SeLinuxOption) -> &String| {
        own.map(of).filter(|text| !text.is_empty()).or_else(|| pod.map(of)).cloned().unwrap_or_default()
    };
    cri::SeLinuxOption {
        user: field(|o| &o.user),
        role: field(|o| &o.role),
        r#type: field(|o| &o.r#type),
        level: field(|o| &o.level),
    }
}

/// Refuses what cannot be part of a context, whatever the policy.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument)
pub(crate) fn check_options(options: &cri::SeLinuxOption) -> Result<()> {
    for (what, text) in [("user", &options.user), ("role", &options.role), ("type", &options.r#type)] {
        if text.chars().any(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(c))) {
            return Err(Error::invalid(format!("SELinux {what} {text:?}: must be a name of the policy's")));
        }
    }
    match options.level.is_empty() || is_level(&options.level) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "SELinux level {:?}: must be like s0, s0:c1,c2 or s0-s0:c0.c1023",
            options.level
        ))),
    }
}

/// `s0[-s0][:c1[.c2][,c3…]]`, with categories at either end.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char, digits: usize| {
        text.strip_prefix(letter)
            .is_some_and(|n| (1..=digits).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let category = |text: &str| number(text, 'c', 4);
    let end = |text: &str| match text.split_once(':') {
        None => number(text, 's', 2),
        Some((sensitivity, list)) => {
            number(sensitivity, 's', 2)
                && list.split(',').all(|part| match part.split_once('.') {
                    None => category(part),
                    Some((first, last)) => category(first) && category(last),
                })
        }
    };
    match text.split_once('-') {
        None => end(text),
        Some((low, high)) => end(low) && end(high),
    }
}

/// The context of a container's processes; what is not asked for is as the policy has it.
///
/// # Errors
/// The word for what nobody says.
pub(super) fn process(
    asked: &cri::SeLinuxOption,
    pod: Option<&str>,
    policy: Option<&Defaults>,
) -> std::result::Result<Context, &'static str> {
    let own = policy.map(|policy| &policy.process);
    let of = |asked: &String, default: Option<&String>, what| {
        Some(asked).filter(|text| !text.is_empty()).or(default).cloned().ok_or(what)
    };
    Ok(Context {
        user: of(&asked.user, own.map(|c| &c.user), "the user")?,
        role: of(&asked.role, own.map(|c| &c.role), "the role")?,
        kind: of(&asked.r#type, own.map(|c| &c.kind), "the type")?,
        level: level(asked, pod).or_else(|| own.and_then(|c| c.level.clone())),
    })
}

/// The context of a container's files: as the policy has it, of the user and level of its processes.
pub(super) fn file(asked: &cri::SeLinuxOption, pod: Option<&str>, policy: &Defaults) -> Context {
    let mut file = policy.file.clone();
    if !asked.user.is_empty() {
        file.user.clone_from(&asked.user);
    }
    file.level = level(asked, pod).or(file.level);
    file
}

fn level(asked: &cri::SeLinuxOption, pod: Option<&str>) -> Option<String> {
    Some(asked.level.as_str()).filter(|level| !level.is_empty()).or(pod).map(str::to_owned)
}

/// A context without categories, which everybody's dominate.
pub(crate) fn shared(context: &str) -> String {
    let mut parts = context.splitn(4, ':');
    let own: Vec<&str> = parts.by_ref().take(3).collect();
    match parts.next().and_then(|level| level.split([':', '-']).next()) {
        Some(sensitivity) => format!("{}:{sensitivity}", own.join(":")),
        None => context.to_owned(),
    }
}

/// A level with a pair of categories that is not among these.
///
/// # Errors
/// If there is none left.
pub(super) fn categories(sensitivity: &str, taken: &HashSet<String>) -> Result<String> {
    let pairs = CATEGORIES * (CATEGORIES - 1) / 2;
    let begin = fastrand::u32(..pairs);
    // As many as are taken may be in the way, and no more.
    let tries = u32::try_from(taken.len()).map_or(pairs, |n| n.saturating_add(1).min(pairs));
    (0..tries)
        .map(|n| pair((begin + n) % pairs))
        .map(|(low, high)| format!("{sensitivity}:c{low},c{high}"))
        .find(|level| !taken.contains(level))
        .ok_or_else(|| {
            Error::new(
                crate::error::Kind::ResourceExhausted,
                "every pair of SELinux categories has its pod; remove pods, or give some of them a level",
            )
        })
}

/// The n-th of the pairs of different categories, the lower one first.
fn pair(mut n: u32) -> (u32, u32) {
    let mut low = 0;
    loop {
        let others = CATEGORIES - 1 - low;
        if n < others {
            return (low, low + 1 + n);
        }
        n -= others;
        low += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "# of containers\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"x\"\n\
                          file = \"system_u:object_r:container_file_t:s0\"\n";

    fn options(user: &str, role: &str, kind: &str, level: &str) -> cri::SeLinuxOption {
        cri::SeLinuxOption { user: user.into(), role: role.into(), r#type: kind.into(), level: level.into() }
    }

    #[test]
    fn what_is_not_said_is_as_the_policy_has_it() {
        let policy = Defaults::parse(POLICY).unwrap();
        let pod = Some("s0:c1,c2");
        let of = |asked: &cri::SeLinuxOption| {
            (process(asked, pod, Some(&policy)).unwrap().to_string(), file(asked, pod, &policy).to_string())
        };
        let texts = |process: &str, file: &str| (process.to_owned(), file.to_owned());
        let nothing = cri::SeLinuxOption::default();
        assert_eq!(
            of(&nothing),
            texts("system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2")
        );
        assert_eq!(
            of(&options("", "", "spc_t", "s0")),
            texts("system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0")
        );
        assert_eq!(
            of(&options("u", "r", "t", "s0:c9")),
            texts("u:r:t:s0:c9", "u:object_r:container_file_t:s0:c9")
        );
        // Without levels, and without a policy for containers.
        assert_eq!(process(&options("u", "r", "t", ""), None, None).unwrap().to_string(), "u:r:t");
        assert_eq!(process(&options("u", "r", "", "s0"), pod, None), Err("the type"));
        assert_eq!(process(&nothing, pod, None), Err("the user"));
        assert_eq!(shared("u:r:t:s0:c1,c2"), "u:r:t:s0");
        assert_eq!((shared("u:r:t:s1-s2:c1").as_str(), shared("u:r:t").as_str()), ("u:r:t:s1", "u:r:t"));
        let merged = merge(Some(&options("", "", "t", "")), Some(&options("u", "", "p", "s0:c3")));
        assert_eq!(merged, options("u", "", "t", "s0:c3"));
    }

    #[test]
    fn levels_and_names_are_checked() {
        for good in
            ["s0", "s15", "s0-s0", "s0:c1", "s0:c0.c1023", "s0:c1,c2.c5,c9", "s0-s0:c0,c3", "s0:c1-s0:c1,c2"]
        {
            assert!(check_options(&options("", "", "", good)).is_ok(), "{good}");
        }
        for bad in [
            "s",
            "0",
            "s0,c1,c2",
            "s0:",
            "s0:c1,",
            "s0:c1.c2.c3",
            "s0:c12345",
            "s0-",
            "s0:c1 ",
            "s0-s1-s2",
            "s0:x1",
        ] {
            assert!(check_options(&options("", "", "", bad)).is_err(), "{bad}");
        }
        assert!(check_options(&options("system_u", "system_r", "svirt_lxc_net_t", "")).is_ok());
        for bad in ["a:b", "a b", "a\0", "ä"] {
            assert!(check_options(&options(bad, "", "", "")).is_err(), "{bad:?}");
            assert!(check_options(&options("", "", bad, "")).is_err(), "{bad:?}");
        }
        for bad in ["", "process = \"a:b:c\"\n", "process = \"a\"\nfile = \"a:b:c\"\n"] {
            assert!(Defaults::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_pair_of_categories_is_one_pods() {
        let all = CATEGORIES * (CATEGORIES - 1) / 2;
        assert_eq!(
            (pair(0), pair(1022), pair(1023), pair(all - 1)),
            ((0, 1), (0, 1023), (1, 2), (1022, 1023))
        );
        let mut taken = HashSet::new();
        for _ in 0..2000 {
            let level = categories("s0", &taken).unwrap();
            assert!(is_level(&level), "{level}");
            assert!(taken.insert(level));
        }
        // All but one.
        let text = |n| format!("s0:c{},c{}", pair(n).0, pair(n).1);
        let mut taken: HashSet<String> = (0..all).map(text).collect();
        assert_eq!(categories("s0", &taken).unwrap_err().kind(), crate::error::Kind::ResourceExhausted);
        let free = text(4711);
        taken.remove(&free);
        assert_eq!(categories("s0", &taken).unwrap(), free);
    }
}
