//! Layers entry by entry, and the tars of them.

use std::fmt;

/// A time that no extraction makes: it is long past.
pub const LONG_AGO: i64 = 1_600_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    Link(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// Hides the path in lower layers.
    Whiteout,
    /// Hides what lower layers have in the directory of this path.
    Opaque,
}

#[derive(Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub what: What,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub xattrs: Vec<(&'static str, Vec<u8>)>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, text) = (self.path.escape_ascii(), |b: &[u8]| b.escape_ascii().to_string());
        match &self.what {
            What::File(data) if data.len() < 20 => write!(f, "file {path} {:?}", text(data))?,
            What::File(data) => write!(f, "file {path} of {} bytes", data.len())?,
            What::Dir => write!(f, "dir {path}")?,
            What::Symlink(to) => write!(f, "symlink {path} -> {}", text(to))?,
            What::Link(to) => write!(f, "link {path} = {}", text(to))?,
            What::Char(major, minor) => write!(f, "char {path} {major}:{minor}")?,
            What::Block(major, minor) => write!(f, "block {path} {major}:{minor}")?,
            What::Fifo => write!(f, "fifo {path}")?,
            What::Whiteout => write!(f, "whiteout {path}")?,
            What::Opaque => write!(f, "opaque {path}")?,
        }
        write!(f, " {:o} {:?} {:?}", self.mode, self.owner, self.mtime)?;
        self.xattrs.iter().try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

impl Entry {
    pub fn new(path: impl AsRef<[u8]>, what: What) -> Self {
        let mode = if what == What::Dir { 0o755 } else { 0o644 };
        let path = path.as_ref().to_vec();
        Self { path, what, mode, owner: (0, 0), mtime: (LONG_AGO, 0), xattrs: Vec::new() }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { owner: (uid, gid), ..self }
    }

    pub fn mtime(self, seconds: i64, nanos: u32) -> Self {
        Self { mtime: (seconds, nanos), ..self }
    }

    pub fn xattr(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name, value.as_ref().to_vec()));
        self
    }

    /// Its path without what archives may add: a leading slash or `./`, a slash at the end.
    pub fn clean_path(&self) -> Vec<u8> {
        let parts: Vec<&[u8]> =
            self.path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
        parts.join(&b'/')
    }

    /// The path in the archive.
    pub fn archived_path(&self) -> Vec<u8> {
        let (dir, name) = match self.path.iter().rposition(|b| *b == b'/') {
            Some(i) => self.path.split_at(i + 1),
            None => (&b""[..], self.path.as_slice()),
        };
        match self.what {
            What::Whiteout => [dir, b".wh.", name].concat(),
            What::Opaque if self.path.is_empty() => b".wh..wh..opq".to_vec(),
            What::Opaque => [self.path.as_slice(), b"/.wh..wh..opq"].concat(),
            What::Dir if !self.path.ends_with(b"/") => [self.path.as_slice(), b"/"].concat(),
            _ => self.path.clone(),
        }
    }
}

pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    Entry::new(path, What::File(data.as_ref().to_vec()))
}

pub fn dir(path: impl AsRef<[u8]>, mode: u32) -> Entry {
    Entry::new(path, What::Dir).mode(mode)
}

pub fn symlink(path: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Entry {
    Entry::new(path, What::Symlink(to.as_ref().to_vec())).mode(0o777)
}

pub fn link(path: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Entry {
    Entry::new(path, What::Link(to.as_ref().to_vec()))
}

pub fn whiteout(path: impl AsRef<[u8]>) -> Entry {
    Entry::new(path, What::Whiteout)
}

pub fn opaque(path: impl AsRef<[u8]>) -> Entry {
    Entry::new(path, What::Opaque)
}

/// A layer: what is in it, and its tar.
#[derive(Clone)]
pub struct Layer {
    pub entries: Vec<Entry>,
    pub tar: Vec<u8>,
    /// Whether there may be more in the tar than in `entries`.
    pub made_elsewhere: bool,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl Layer {
    pub fn new(entries: impl Into<Vec<Entry>>) -> Self {
        let entries = entries.into();
        let mut tar = tar::Builder::new(Vec::new());
        entries.iter().for_each(|entry| append(&mut tar, entry));
        Self { tar: tar.into_inner().unwrap(), entries, made_elsewhere: false }
    }

    /// A tar that another program has made, without whiteouts; of what is in it, directories matter.
    pub fn made(tar: Vec<u8>, entries: impl Into<Vec<Entry>>) -> Self {
        Self { tar, entries: entries.into(), made_elsewhere: true }
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, entry: &Entry) {
    use tar::EntryType as T;
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    if entry.mtime.1 > 0 || entry.mtime.0 < 0 {
        let (seconds, nanos) = entry.mtime;
        // -1.25 is two seconds before and three quarters after.
        let text = match (seconds, nanos) {
            (..0, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
            _ => format!("{seconds}.{nanos:09}"),
        };
        pax.push(("mtime".into(), text.into_bytes()));
    }
    for (name, id) in [("uid", entry.owner.0), ("gid", entry.owner.1)] {
        if id > 0o7_777_777 {
            pax.push((name.into(), id.to_string().into_bytes()));
        }
    }
    pax.extend(entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
    if !pax.is_empty() {
        tar.append_pax_extensions(pax.iter().map(|(k, v)| (k.as_str(), v.as_slice()))).unwrap();
    }
    let (kind, data, target): (_, &[u8], &[u8]) = match &entry.what {
        What::File(data) => (T::Regular, data, b""),
        What::Dir => (T::Directory, b"", b""),
        What::Symlink(to) => (T::Symlink, b"", to),
        What::Link(to) => (T::Link, b"", to),
        What::Char(..) => (T::Char, b"", b""),
        What::Block(..) => (T::Block, b"", b""),
        What::Fifo => (T::Fifo, b"", b""),
        What::Whiteout | What::Opaque => (T::Regular, b"", b""),
    };
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(u64::from(entry.owner.0));
    header.set_gid(u64::from(entry.owner.1));
    header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0));
    header.set_size(data.len() as u64);
    if let What::Char(major, minor) | What::Block(major, minor) = entry.what {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    let path = entry.archived_path();
    long(tar, T::GNULongName, &path);
    long(tar, T::GNULongLink, target);
    let (path, target) = (&path[..path.len().min(100)], &target[..target.len().min(100)]);
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

/// What does not fit into a header comes before it.
fn long(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, text: &[u8]) {
    if text.len() <= 100 {
        return;
    }
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(text.len() as u64 + 1);
    header.set_cksum();
    tar.append(&header, [text, b"\0"].concat().as_slice()).unwrap();
}
