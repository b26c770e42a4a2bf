//! Header blocks: name-value pairs in one zlib stream per direction and connection, primed with a dictionary.

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Broken;
use super::dictionary::DICTIONARY;

/// Most bytes of a header block once decompressed: 64 KiB compressed could become 64 MiB.
const MAX_BLOCK: usize = 16 << 10;
/// Most headers of a stream.
const MAX_HEADERS: usize = 64;

/// Headers of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value under a name, which is in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        // Several values of a name are separated by NUL.
        found.and_then(|(_, values)| values.split('\0').next())
    }
}

/// Reads header blocks, in the order in which they arrived.
pub(super) struct Decoder {
    inflate: Decompress,
    primed: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true), primed: false }
    }

    /// The headers of the next block.
    ///
    /// # Errors
    /// When the block is not what the protocol says, or exceeds a limit. No later block can be read then.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, Broken> {
        let mut plain = vec![0; MAX_BLOCK];
        let (mut read, mut written) = (0, 0);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let outcome = self.inflate.decompress(
                &block[read..],
                &mut plain[written..],
                FlushDecompress::Sync,
            );
            let (used, made) =
                (self.inflate.total_in() - before_in, self.inflate.total_out() - before_out);
            read += used as usize;
            written += made as usize;
            match outcome {
                Err(error) if error.needs_dictionary().is_some() && !self.primed => {
                    self.primed = true;
                    let set = self.inflate.set_dictionary(DICTIONARY);
                    set.map_err(|_| Broken::Protocol("another dictionary of headers"))?;
                }
                Err(_) => return Err(Broken::Protocol("a header block is not compressed rightly")),
                Ok(Status::StreamEnd) => {
                    return Err(Broken::Protocol("the compression of headers ended"));
                }
                Ok(_) if written == plain.len() => {
                    return Err(Broken::Protocol("a header block of more than 16 KiB"));
                }
                Ok(_) if read == block.len() || used == 0 && made == 0 => break,
                Ok(_) => {}
            }
        }
        if read < block.len() {
            return Err(Broken::Protocol("a header block has bytes too many"));
        }
        parse(&plain[..written])
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Broken> {
    const SHORT: Broken = Broken::Protocol("a header block is too short");
    let count = block.try_get_u32().map_err(|_| SHORT)? as usize;
    if count > MAX_HEADERS {
        return Err(Broken::Protocol("more than 64 headers"));
    }
    let mut text = || {
        let length = block.try_get_u32().map_err(|_| SHORT)? as usize;
        let (text, rest) = block.split_at_checked(length).ok_or(SHORT)?;
        block = rest;
        Ok::<_, Broken>(String::from_utf8_lossy(text).into_owned())
    };
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = text()?;
        headers.push((name.to_ascii_lowercase(), text()?));
    }
    Ok(Headers(headers))
}

/// Writes header blocks.
pub(super) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Only a stream that has begun refuses its dictionary; and without one, blocks are valid too.
        let _ = deflate.set_dictionary(DICTIONARY);
        Self { deflate }
    }

    /// The next block.
    pub(super) fn encode(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut put = |length: usize, bytes: &[u8]| {
            plain.extend_from_slice(&(length as u32).to_be_bytes());
            plain.extend_from_slice(bytes);
        };
        put(headers.len(), b"");
        for (name, value) in headers {
            put(name.len(), name.as_bytes());
            put(value.len(), value.as_bytes());
        }
        let mut block = Vec::new();
        let mut read = 0;
        loop {
            block.reserve(plain.len() + 64);
            let before = self.deflate.total_in();
            let done = self.deflate.compress_vec(&plain[read..], &mut block, FlushCompress::Sync);
            read += (self.deflate.total_in() - before) as usize;
            // With room left, everything that was to be flushed is there.
            if done.is_err() || read == plain.len() && block.len() < block.capacity() {
                return block;
            }
        }
    }
}
