//! Header blocks: names and values, compressed by one zlib stream per direction that begins with a dictionary
//! (SPDY Protocol, Draft 3, section 2.6.10).

use super::frame::Fault;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Words of the dictionary, each preceded there by its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

/// The longest header block that is read, decompressed, in bytes. Those of Kubernetes' clients have three short lines.
const MAX_BLOCK: usize = 8 << 10;

/// The most headers in a block: empty ones would take up many times what the client sends.
const MAX_HEADERS: u32 = 64;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        put(&mut bytes, &word.replace('_', " "));
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

fn put(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(text.as_bytes());
}

/// Names, in lower case, and values; a value of several parts has NUL between them.
pub(crate) type Headers = Vec<(String, String)>;

/// The first part of a header's value; empty if there is none.
pub(crate) fn value<'a>(headers: &'a Headers, name: &str) -> &'a str {
    let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.and_then(|(_, v)| v.split('\0').next()).unwrap_or_default()
}

/// Reads one direction's header blocks. All of them must pass here, in order, the unwanted ones too.
pub(super) struct Reader {
    zlib: Decompress,
    dictionary: Option<Vec<u8>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true), dictionary: Some(dictionary()) }
    }

    /// Decompresses one block and takes it apart.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Fault> {
        let mut plain = Vec::with_capacity(MAX_BLOCK);
        let mut rest = block;
        loop {
            let before = (self.zlib.total_in(), self.zlib.total_out());
            let read = self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - before.0).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            match read {
                Err(e) if e.needs_dictionary().is_some() => {
                    let dictionary = self.dictionary.take().ok_or(Fault::Headers("another dictionary"))?;
                    self.zlib
                        .set_dictionary(&dictionary)
                        .map_err(|_| Fault::Headers("an unknown dictionary"))?;
                    continue;
                }
                Err(_) => return Err(Fault::Headers("damaged compression")),
                Ok(_) => {}
            }
            if plain.len() == plain.capacity() {
                return Err(Fault::Headers("too long a block"));
            }
            if rest.is_empty() || (self.zlib.total_in(), self.zlib.total_out()) == before {
                break;
            }
        }
        if !rest.is_empty() {
            return Err(Fault::Headers("bytes after the end of compression"));
        }
        parse(&plain)
    }
}

fn parse(plain: &[u8]) -> Result<Headers, Fault> {
    let (count, mut rest) = number(plain)?;
    if count > MAX_HEADERS {
        return Err(Fault::Headers("too many of them"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, after) = text(rest)?;
        let (value, after) = text(after)?;
        headers.push((name, value));
        rest = after;
    }
    if rest.is_empty() { Ok(headers) } else { Err(Fault::Headers("bytes after the last header")) }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Fault> {
    let (n, rest) = bytes.split_first_chunk::<4>().ok_or(Fault::Headers("a cut-off block"))?;
    Ok((u32::from_be_bytes(*n), rest))
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), Fault> {
    let (len, rest) = number(bytes)?;
    let (text, rest) = usize::try_from(len)
        .ok()
        .and_then(|len| rest.split_at_checked(len))
        .ok_or(Fault::Headers("a cut-off block"))?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// Writes one direction's header blocks.
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Result<Self, Fault> {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).map_err(|_| Fault::Headers("the dictionary"))?;
        Ok(Self(zlib))
    }

    /// Compresses one block.
    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, Fault> {
        let mut plain = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in headers {
            put(&mut plain, name);
            put(&mut plain, value);
        }
        let mut block = Vec::with_capacity(plain.len() + 128);
        let start = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            let rest = plain.get(taken..).unwrap_or_default();
            block.reserve(64);
            self.0
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .map_err(|_| Fault::Headers("compression"))?;
            // Room left over: everything, the flush's marker included, has been written.
            if block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let bytes = dictionary();
        let mut zlib = Compress::new(Compression::best(), true);
        // The checksum by which every implementation names it (RFC 1950, DICTID).
        assert_eq!((bytes.len(), zlib.set_dictionary(&bytes).unwrap()), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_follow_each_other_in_one_compression() {
        let (mut writer, mut reader) = (Writer::new().unwrap(), Reader::new());
        let long = "v".repeat(3000);
        for headers in [
            vec![("streamtype", "error"), ("port", "80"), ("requestid", "0")],
            vec![],
            vec![("streamtype", "data"), ("port", "80"), ("requestid", "0")],
            vec![("long", long.as_str()), ("two", "a\0b")],
        ] {
            let block = writer.write(&headers).unwrap();
            let read = reader.read(&block).unwrap();
            let wanted: Headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            assert_eq!(read, wanted);
        }
    }

    #[test]
    fn what_a_go_client_sends_is_read() {
        // Written by moby/spdystream: streamType=error.
        let block = hex::decode(GO).unwrap();
        let headers = Reader::new().read(&block).unwrap();
        assert_eq!(value(&headers, "streamType"), "error");
        assert_eq!(value(&headers, "port"), "");
    }

    const GO: &str = "78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff";

    #[test]
    fn bombs_and_damage_are_refused() {
        let bomb = "0".repeat(MAX_BLOCK);
        let block = Writer::new().unwrap().write(&[("bomb", &bomb)]).unwrap();
        assert!(block.len() < 1000);
        assert_eq!(Reader::new().read(&block), Err(Fault::Headers("too long a block")));
        assert!(Reader::new().read(b"\x78\xbb\xe3\xc6\xa7\xc3rest").is_err());
        assert!(Reader::new().read(b"nonsense").is_err());
        assert!(Reader::new().read(b"").is_err());
        for plain in [&b"\0\0\0\x01"[..], b"\0\0\0\x01\xff\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0x"] {
            assert!(parse(plain).is_err(), "{plain:?}");
        }
        let many = [&1000u32.to_be_bytes()[..], &[0; 8000]].concat();
        assert_eq!(parse(&many), Err(Fault::Headers("too many of them")));
    }
}
