//! Why something is kept, or that nothing keeps it.

use crate::error::{Error, Result};
use crate::gc::shown;
use crate::index::{Held, Inner};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strata_oci::Digest;

/// Something in the store, and what keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What it is.
    pub thing: Thing,
    /// Bytes on disk, if it has its own.
    pub bytes: Option<u64>,
    /// Why it stays; empty: nothing keeps it, and the next collection removes it.
    pub reasons: Vec<Reason>,
}

/// What there is in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// An image, by its ID.
    Image(Digest),
    /// A layer, as `sha256:<diff ID>` or `chain-<chain ID>`.
    Layer(String),
    /// A blob.
    Blob(Digest),
    /// A container, by its ID.
    Container(String),
    /// What the runtime mounts on: the lowest layer of every container.
    Mountpoints,
}

/// Why something stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has this name.
    Name(String),
    /// It belongs to an image, which has these names.
    Image {
        /// The image's ID.
        id: Digest,
        /// What of the image it is: `a layer`, `its config`…
        part: &'static str,
        /// The image's names.
        names: Vec<String>,
        /// The containers that stand on it.
        containers: Vec<String>,
    },
    /// Variants were made of it for images in which it depends on what lies below it.
    BaseOf {
        /// The variant's key.
        variant: String,
        /// The image that has the variant.
        image: Digest,
    },
    /// A container stands on it.
    Container(String),
    /// An operation that runs now holds it.
    Operation {
        /// Which.
        what: String,
        /// For how long it has been running.
        running: Duration,
    },
    /// It stays until somebody removes it.
    Until(&'static str),
}

/// The fewest digits by which something without a name is looked for.
const FEWEST: usize = 2;

impl Store {
    /// What keeps the thing that a text means: an image by name or ID, a layer by diff ID or `chain-…`, a blob, a container, or
    /// the beginning of an ID. A digest that is that of a layer and of its blob means both.
    ///
    /// # Errors
    /// [`NotFound`](crate::Kind::NotFound) if there is nothing of this name; [`Invalid`](crate::Kind::Invalid), with what there
    /// is, if it is the beginning of several.
    pub fn explain(&self, what: &str) -> Result<Vec<Explained>> {
        let named = self.resolve(what).map(|image| image.id.clone());
        let inner = self.index.lock();
        if what == "mountpoints" {
            let always = Reason::Until("it is the lowest layer of every container, and always there");
            return Ok(vec![Explained { thing: Thing::Mountpoints, bytes: None, reasons: vec![always] }]);
        }
        let things = match named {
            // A name, or enough digits of one; its digits alone may begin other IDs too.
            Ok(id) if !id.hex().starts_with(bare(what)) => vec![Thing::Image(id)],
            _ => beginning_with(&inner, what)?,
        };
        Ok(things.into_iter().map(|thing| explained(&inner, thing)).collect())
    }
}

fn bare(what: &str) -> &str {
    ["sha256:", "sha512:", "chain-"].into_iter().find_map(|p| what.strip_prefix(p)).unwrap_or(what)
}

/// What has an ID that begins so. Several things may have one and the same ID; several IDs are too many.
fn beginning_with(inner: &Inner, what: &str) -> Result<Vec<Thing>> {
    let hex = bare(what);
    let missing = || Error::not_found(format!("no image, layer, blob or container is called {what:?}"));
    if hex.len() < FEWEST || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(missing());
    }
    let chain = what.starts_with("chain-");
    let layer_id = |key: &str| key.strip_prefix("chain-").unwrap_or(key).to_owned();
    let mut found: BTreeMap<String, BTreeSet<Thing>> = BTreeMap::new();
    let mut note = |id: String, thing| {
        if id.starts_with(hex) {
            found.entry(id).or_default().insert(thing);
        }
    };
    for key in inner.layers.keys().filter(|key| !chain || key.starts_with("chain-")) {
        note(layer_id(key), Thing::Layer(shown(key)));
    }
    if !chain {
        for id in inner.images.keys() {
            note(id.hex().to_owned(), Thing::Image(id.clone()));
        }
        // An image's config has the image's ID, and is the image.
        for digest in inner.blobs.keys().filter(|d| !inner.images.contains_key(d)) {
            note(digest.hex().to_owned(), Thing::Blob(digest.clone()));
        }
        for id in inner.containers.keys() {
            note(id.clone(), Thing::Container(id.clone()));
        }
    }
    if found.len() > 1 {
        let some: Vec<String> = found.values().flatten().take(5).map(ToString::to_string).collect();
        let more = if found.len() > 5 { ", …" } else { "" };
        return Err(Error::invalid(format!(
            "{what:?} is ambiguous: {}{more}; give more digits",
            some.join(", ")
        )));
    }
    found.into_values().next().map(|things| things.into_iter().collect()).ok_or_else(missing)
}

fn explained(inner: &Inner, thing: Thing) -> Explained {
    let (bytes, reasons) = match &thing {
        Thing::Image(id) => (None, of_image(inner, id)),
        Thing::Layer(name) => {
            let key = name.strip_prefix("sha256:").unwrap_or(name);
            (inner.layers.get(key).map(|l| l.disk), of_layer(inner, key))
        }
        Thing::Blob(digest) => (inner.blobs.get(digest).map(|b| b.disk), of_blob(inner, digest)),
        Thing::Container(_) => (None, vec![Reason::Until("a container stays until it is removed")]),
        Thing::Mountpoints => (None, Vec::new()),
    };
    Explained { thing, bytes, reasons }
}

fn of_image(inner: &Inner, id: &Digest) -> Vec<Reason> {
    let names = inner.refs.values().filter(|r| r.image == *id).map(|r| match r.name == id.to_string() {
        true => Reason::Until("an image without a name stays until it is removed or pruned"),
        false => Reason::Name(r.name.clone()),
    });
    let users = inner.users(id).into_iter().map(Reason::Container);
    let holds = |held: &Held| held.blobs.contains(id);
    names.chain(users).chain(operations(inner, holds)).collect()
}

fn of_layer(inner: &Inner, key: &str) -> Vec<Reason> {
    let mut reasons = images(inner, |r| r.layers.iter().any(|l| l.key == key).then_some("a layer"));
    let mut variants: BTreeSet<(&str, &Digest)> = BTreeSet::new();
    for r in inner.refs.values() {
        let made = r.layers.iter().filter(|l| l.key != key && l.diff_id.hex() == key);
        variants.extend(made.map(|l| (l.key.as_str(), &r.image)));
    }
    reasons.extend(
        variants
            .into_iter()
            .map(|(variant, image)| Reason::BaseOf { variant: variant.to_owned(), image: image.clone() }),
    );
    let users = inner.containers.iter().filter(|(_, c)| c.keys().any(|l| l == key));
    let users: BTreeSet<&String> = users.map(|(id, _)| id).collect();
    reasons.extend(users.into_iter().map(|id| Reason::Container(id.clone())));
    reasons.extend(operations(inner, |held| held.layers.contains(key)));
    reasons
}

fn of_blob(inner: &Inner, digest: &Digest) -> Vec<Reason> {
    let mut reasons = images(inner, |r| match () {
        () if r.image == *digest => Some("the config"),
        () if r.manifest.digest == *digest => Some("the manifest"),
        () if r.pulled.as_ref() == Some(digest) => Some("the index that led to it"),
        () => r.layers.iter().any(|l| l.blob.digest == *digest).then_some("a compressed layer"),
    });
    reasons.extend(operations(inner, |held| held.blobs.contains(digest)));
    reasons
}

/// The images of which something is a part, each once.
fn images(inner: &Inner, part: impl Fn(&crate::record::RefRecord) -> Option<&'static str>) -> Vec<Reason> {
    let mut found: BTreeMap<&Digest, (&'static str, Vec<String>)> = BTreeMap::new();
    for r in inner.refs.values() {
        if let Some(part) = part(r) {
            let names = &mut found.entry(&r.image).or_insert((part, Vec::new())).1;
            if r.name != r.image.to_string() {
                names.push(r.name.clone());
            }
        }
    }
    found
        .into_iter()
        .map(|(id, (part, names))| Reason::Image { id: id.clone(), part, names, containers: inner.users(id) })
        .collect()
}

fn operations(inner: &Inner, holds: impl Fn(&Held) -> bool) -> Vec<Reason> {
    let mut held: Vec<&Held> = inner.leases.values().filter(|held| holds(held)).collect();
    held.sort_by_key(|held| held.since);
    held.iter()
        .map(|held| Reason::Operation { what: held.why.clone(), running: held.since.elapsed() })
        .collect()
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(id) => write!(f, "image {id}"),
            Self::Layer(name) => write!(f, "layer {name}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Mountpoints => f.write_str("mountpoints"),
        }
    }
}
