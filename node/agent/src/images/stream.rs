//! What a layer unpacks to, as a stream: decompressed, hashed as it is read, and never more than a budget.

use std::io::{self, BufReader, Read};

use sha2::{Digest, Sha256};

use super::hex;
use super::manifest::Packing;

/// Bytes that are read at once of what is packed.
const BUFFER: usize = 128 << 10;

/// A layer's archive, while it is read.
pub(super) struct Unpacking {
    inner: Box<dyn Read>,
    hash: Sha256,
    left: u64,
    exhausted: bool,
}

impl Unpacking {
    /// Of `packed`, at most `budget` bytes.
    pub(super) fn new(
        packed: impl Read + 'static,
        packing: Packing,
        budget: u64,
    ) -> io::Result<Self> {
        let packed = BufReader::with_capacity(BUFFER, packed);
        let inner: Box<dyn Read> = match packing {
            Packing::Plain => Box::new(packed),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                // As much as `zstd` itself allows: 128 MiB.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        };
        Ok(Self { inner, hash: Sha256::new(), left: budget, exhausted: false })
    }

    /// Bytes that may still come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether more came than the budget allows: then reading fails.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Digest of what was read: the diff id, after the end.
    pub(super) fn digest(self) -> String {
        format!("sha256:{}", hex(&self.hash.finalize()))
    }
}

impl Read for Unpacking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.exhausted = true;
                return Err(io::Error::other("unpacks to too much"));
            }
        }
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
