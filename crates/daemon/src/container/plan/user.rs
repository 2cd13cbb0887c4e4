//! Who a container's process is: numbers from names, by the image's own /etc/passwd and /etc/group.

use crate::error::{Error, Result};
use crate::request::known;
use strata_api::cri;

/// The largest user or group ID that is accepted: some programs read them as signed.
const MAX_ID: i64 = i32::MAX as i64;

/// A user, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// User ID.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one included, as everywhere in this field.
    pub(crate) groups: Vec<u32>,
    /// Home directory; `/` if nothing is known.
    pub(crate) home: String,
}

/// Databases of images, which never change: reading one takes a mount.
#[derive(Debug, Default)]
pub(crate) struct Known(std::sync::Mutex<std::collections::HashMap<String, std::sync::Arc<Databases>>>);

/// How many images' databases are kept.
const KNOWN: usize = 64;

impl Known {
    /// An image's databases, read with `read` if they are not known yet.
    ///
    /// # Errors
    /// What `read` says.
    pub(crate) fn of_image(
        &self,
        image: &str,
        read: impl FnOnce() -> Result<Databases>,
    ) -> Result<std::sync::Arc<Databases>> {
        let lock = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = lock().get(image) {
            return Ok(known.clone());
        }
        let read = std::sync::Arc::new(read()?);
        let mut known = lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(image.to_owned(), read.clone());
        Ok(read)
    }
}

/// The user databases of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Databases {
    /// /etc/passwd (passwd(5)); empty if there is none.
    pub(crate) passwd: String,
    /// /etc/group (group(5)); empty if there is none.
    pub(crate) group: String,
}

/// Who is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// A name or a number; empty: root.
    pub(crate) user: String,
    /// A name or a number; empty: the user's own.
    pub(crate) group: String,
    /// More groups, by name or number.
    pub(crate) more: Vec<String>,
    /// Whether the groups that /etc/group gives the user count too.
    pub(crate) merge: bool,
}

impl Wanted {
    /// `user[:group]`, as in an image's USER and in Docker's `--user`. A group that is named leaves no room for those
    /// of /etc/group.
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((user, group)) => {
                Self { user: user.into(), group: group.into(), more: Vec::new(), merge: group.is_empty() }
            }
            None => Self { user: text.into(), group: String::new(), more: Vec::new(), merge: true },
        }
    }

    /// What CRI asks for; the image's USER counts if that is nothing.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a group without a user, and for IDs out of range.
    pub(crate) fn of_cri(context: &cri::LinuxContainerSecurityContext, image_user: &str) -> Result<Self> {
        let id = |v: &Option<cri::Int64Value>, what: &str| v.map(|v| checked(v.value, what)).transpose();
        let (uid, gid) =
            (id(&context.run_as_user, "run_as_user")?, id(&context.run_as_group, "run_as_group")?);
        let mut wanted = match (uid, context.run_as_username.as_str()) {
            (Some(uid), _) => Self { user: uid.to_string(), ..Self::default() },
            (None, "") if gid.is_some() => {
                return Err(Error::invalid(
                    "run_as_group is set without a user; set run_as_user or run_as_username too",
                ));
            }
            (None, "") => Self::parse(image_user),
            (None, name) => Self { user: name.into(), ..Self::default() },
        };
        if let Some(gid) = gid {
            wanted.group = gid.to_string();
        }
        wanted.merge = match known(context.supplemental_groups_policy, "supplemental_groups_policy")? {
            cri::SupplementalGroupsPolicy::Merge => true,
            cri::SupplementalGroupsPolicy::Strict => false,
        };
        for group in &context.supplemental_groups {
            wanted.more.push(checked(*group, "supplemental_groups")?.to_string());
        }
        Ok(wanted)
    }

    /// Looks names up.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a name that the databases do not have.
    pub(crate) fn resolve(&self, databases: &Databases) -> Result<User> {
        let wanted = if self.user.is_empty() { "0" } else { &self.user };
        let number = as_id(wanted, "user")?;
        let entry = entries(&databases.passwd).find(|e| match number {
            Some(uid) => e.id == uid,
            None => e.name == wanted,
        });
        let uid = match (&entry, number) {
            (Some(e), _) => e.id,
            (None, Some(uid)) => uid,
            (None, None) => {
                return Err(Error::invalid(format!(
                    "unable to find user {wanted}: no matching entries in passwd file of the image"
                )));
            }
        };
        let gid = match self.group.as_str() {
            "" => entry.as_ref().and_then(|e| e.rest.first()).and_then(|g| g.parse().ok()).unwrap_or(0),
            group => group_id(databases, group)?,
        };
        let mut groups = vec![gid];
        if self.merge
            && let Some(e) = &entry
        {
            groups.extend(groups_of(databases, e.name));
        }
        for group in &self.more {
            groups.push(group_id(databases, group)?);
        }
        let mut seen = std::collections::HashSet::new();
        groups.retain(|g| seen.insert(*g));
        let home = entry.as_ref().and_then(|e| e.rest.get(2)).filter(|h| h.starts_with('/'));
        Ok(User { uid, gid, groups, home: home.map_or_else(|| "/".into(), |h| (*h).into()) })
    }
}

fn checked(id: i64, what: &str) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|_| id <= MAX_ID)
        .ok_or_else(|| Error::invalid(format!("{what} {id}: IDs must lie between 0 and {MAX_ID}")))
}

/// The number that a text is; `None`: it is a name.
fn as_id(text: &str, what: &str) -> Result<Option<u32>> {
    match text.parse::<i64>() {
        Ok(n) => checked(n, what).map(Some),
        Err(_) => Ok(None),
    }
}

/// One line of either database: `name:password:id:rest…`.
struct Entry<'a> {
    name: &'a str,
    id: u32,
    rest: Vec<&'a str>,
}

/// The entries of a database; lines that are none are passed over, as the C library does.
fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok()?;
        Some(Entry { name, id, rest: fields.collect() })
    })
}

fn group_id(databases: &Databases, wanted: &str) -> Result<u32> {
    if let Some(gid) = as_id(wanted, "group")? {
        return Ok(gid);
    }
    entries(&databases.group).find(|e| e.name == wanted).map(|e| e.id).ok_or_else(|| {
        Error::invalid(format!(
            "unable to find group {wanted}: no matching entries in group file of the image"
        ))
    })
}

fn groups_of<'a>(databases: &'a Databases, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    entries(&databases.group)
        .filter(move |e| e.rest.first().is_some_and(|members| members.split(',').any(|m| m.trim() == user)))
        .map(|e| e.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn databases() -> Databases {
        Databases {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken\nweb:x:1000:1001:Web:/srv/web:/bin/sh\n\
                     nohome:x:7:7:::\n"
                    .into(),
            group: "root:x:0:\nweb:x:1001:\naudio:x:29:web,other\nextra:x:50000:web\nwheel:x:10:root\n"
                .into(),
        }
    }

    fn resolve(wanted: &Wanted) -> User {
        wanted.resolve(&databases()).unwrap()
    }

    #[test]
    fn names_and_numbers_lead_to_the_same_user() {
        let by_name = resolve(&Wanted::parse("web"));
        assert_eq!(by_name, resolve(&Wanted::parse("1000")));
        assert_eq!((by_name.uid, by_name.gid), (1000, 1001));
        assert_eq!(by_name.groups, [1001, 29, 50000]);
        assert_eq!(by_name.home, "/srv/web");
        assert_eq!(resolve(&Wanted::parse("")).groups, [0, 10]);
    }

    #[test]
    fn a_number_that_nobody_has_is_in_group_root() {
        let user = resolve(&Wanted::parse("4711"));
        assert_eq!((user.uid, user.gid, user.groups, user.home), (4711, 0, vec![0], "/".into()));
        assert_eq!(resolve(&Wanted::parse("nohome")).home, "/");
    }

    #[test]
    fn a_named_group_leaves_no_others() {
        let user = resolve(&Wanted::parse("web:audio"));
        assert_eq!((user.gid, user.groups), (29, vec![29]));
        assert_eq!(resolve(&Wanted::parse("web:4")).gid, 4);
        assert_eq!(resolve(&Wanted::parse(":audio")).uid, 0);
    }

    #[test]
    fn names_that_nobody_has_are_refused() {
        for text in ["nobody", "web:nogroup", "-1", "2147483648"] {
            let error = Wanted::parse(text).resolve(&databases()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn cri_wins_over_the_image() {
        let id = |value| Some(cri::Int64Value { value });
        let context = cri::LinuxContainerSecurityContext::default();
        assert_eq!(resolve(&Wanted::of_cri(&context, "web").unwrap()).uid, 1000);
        let context = cri::LinuxContainerSecurityContext {
            run_as_user: id(1000),
            run_as_group: id(3),
            supplemental_groups: vec![99, 29],
            ..Default::default()
        };
        let user = resolve(&Wanted::of_cri(&context, "root").unwrap());
        assert_eq!((user.uid, user.gid, user.groups), (1000, 3, vec![3, 29, 50000, 99]));
        let mut strict = context;
        strict.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
        assert_eq!(resolve(&Wanted::of_cri(&strict, "root").unwrap()).groups, [3, 99, 29]);
        let lonely = cri::LinuxContainerSecurityContext { run_as_group: id(3), ..Default::default() };
        assert_eq!(Wanted::of_cri(&lonely, "root").unwrap_err().kind(), Kind::InvalidArgument);
        let named =
            cri::LinuxContainerSecurityContext { run_as_username: "web".into(), ..Default::default() };
        assert_eq!(resolve(&Wanted::of_cri(&named, "root").unwrap()).gid, 1001);
        let negative = cri::LinuxContainerSecurityContext { run_as_user: id(-1), ..Default::default() };
        assert!(Wanted::of_cri(&negative, "").is_err());
    }
}
