//! Archives with whatever in their headers.

use tar::{EntryType, Header};

/// An archive, block by block.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An entry whose header is mended by `with`, with its data as it is.
    pub(crate) fn with(
        mut self,
        kind: EntryType,
        path: &[u8],
        data: &[u8],
        with: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        with(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, kind: EntryType, path: &[u8], data: &[u8]) -> Self {
        self.with(kind, path, data, |_| {})
    }

    pub(crate) fn file(self, path: &[u8], data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, data)
    }

    pub(crate) fn link(self, kind: EntryType, path: &[u8], target: &[u8]) -> Self {
        self.with(kind, path, b"", |h| h.as_old_mut().linkname[..target.len()].copy_from_slice(target))
    }

    pub(crate) fn device(self, kind: EntryType, path: &[u8], major: u32, minor: u32) -> Self {
        self.with(kind, path, b"", |h| {
            h.set_device_major(major).unwrap();
            h.set_device_minor(minor).unwrap();
        })
    }

    /// A PAX header for what follows.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", &body)
    }

    /// A GNU long name for what follows.
    pub(crate) fn long_name(self, name: &[u8]) -> Self {
        self.entry(EntryType::GNULongName, b"././@LongLink", name)
    }

    /// With the two blocks that end it.
    pub(crate) fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
