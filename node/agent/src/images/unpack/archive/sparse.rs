//! Sparse files: GNU's old headers, and its three ways of saying the same in PAX (0.0, 0.1 and 1.0).
//!
//! What is stored are the pieces, one after the other; the map says where they belong.

use std::io::Read;

use super::header::{BLOCK, number, octal, text};
use super::{Damage, Header, damaged};

/// Most pieces of one file.
const MAX_PIECES: usize = 1 << 16;

/// A part of a file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Pieces, and the file's size.
pub(super) type Map = (Vec<Piece>, u64);

/// What PAX records say of a sparse file.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) name: Option<Vec<u8>>,
    version: Option<u64>,
    size: Option<u64>,
    /// Version 0: offsets and lengths in turn.
    numbers: Vec<u64>,
    is_sparse: bool,
}

impl Pax {
    /// One record, without its `GNU.sparse.`.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let bad = || damaged("a PAX header with a damaged map of a sparse file");
        let whole = || number(value).ok_or_else(bad);
        match key {
            b"name" => self.name = Some(text(value)),
            b"major" => self.version = Some(whole()?),
            b"minor" | b"numblocks" => drop(whole()?),
            b"size" | b"realsize" => self.size = Some(whole()?),
            b"offset" | b"numbytes" => {
                if self.numbers.len() % 2 != usize::from(key == b"numbytes") {
                    return Err(bad());
                }
                self.numbers.push(whole()?);
            }
            b"map" => {
                for part in value.split(|b| *b == b',').filter(|part| !part.is_empty()) {
                    self.numbers.push(number(part).ok_or_else(bad)?);
                    limit(self.numbers.len() / 2)?;
                }
            }
            _ => return Ok(()),
        }
        self.is_sparse = true;
        limit(self.numbers.len() / 2)
    }

    /// The map, if the file is sparse; version 1 has it before the content. Also the bytes that were read.
    pub(super) fn map(&self, content: &mut impl Read) -> Result<(Option<Map>, u64), Damage> {
        if !self.is_sparse {
            return Ok((None, 0));
        }
        let bad = || damaged("its map as a sparse file is damaged");
        let size = self.size.ok_or_else(bad)?;
        if self.version != Some(1) {
            return Ok((Some((pieces(&self.numbers)?, size)), 0));
        }
        let mut read = 0;
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut digits = Vec::new();
        let mut block = [0; BLOCK];
        while numbers.len() < wanted {
            content.read_exact(&mut block)?;
            read += BLOCK as u64;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    continue;
                }
                let value = number(&digits).ok_or_else(bad)?;
                digits.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(value).unwrap_or(usize::MAX);
                    limit(count)?;
                    wanted = 1 + 2 * count;
                }
                numbers.push(value);
            }
            if digits.len() > 20 {
                return Err(bad());
            }
        }
        Ok((Some((pieces(&numbers[1..])?, size)), read))
    }
}

/// The map of an old GNU sparse file: part of it follows the header, in blocks that do not count as content.
pub(super) fn old_gnu(header: &Header, reader: &mut impl Read) -> Result<Map, Damage> {
    let (first, mut more, size) = header.sparse()?;
    let mut numbers = Vec::new();
    add_old(first, &mut numbers)?;
    let mut block = [0; BLOCK];
    while more {
        reader.read_exact(&mut block)?;
        add_old(&block[..504], &mut numbers)?;
        limit(numbers.len() / 2)?;
        more = block[504] != 0;
    }
    Ok((pieces(&numbers)?, size))
}

fn add_old(field: &[u8], numbers: &mut Vec<u64>) -> Result<(), Damage> {
    for piece in field.chunks_exact(24).take_while(|piece| piece[0] != 0) {
        for part in piece.chunks_exact(12) {
            let part = octal(part).ok_or_else(|| damaged("its map as a sparse file is damaged"))?;
            numbers.push(part);
        }
    }
    Ok(())
}

fn pieces(numbers: &[u64]) -> Result<Vec<Piece>, Damage> {
    if !numbers.len().is_multiple_of(2) {
        return Err(damaged("its map as a sparse file is damaged"));
    }
    let piece = |pair: &[u64]| Piece { offset: pair[0], length: pair[1] };
    Ok(numbers.chunks_exact(2).map(piece).collect())
}

fn limit(count: usize) -> Result<(), Damage> {
    if count > MAX_PIECES {
        return Err(damaged(format!("a sparse file of more than {MAX_PIECES} pieces")));
    }
    Ok(())
}

/// Pieces come in order, lie within the file, and are what is stored.
pub(super) fn check(pieces: &[Piece], size: u64, stored: u64) -> Result<(), Damage> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for piece in pieces {
        let bad =
            piece.offset < end || piece.offset.checked_add(piece.length).is_none_or(|e| e > size);
        if bad {
            return Err(damaged("its map as a sparse file leads out of it or back"));
        }
        end = piece.offset + piece.length;
        sum += piece.length;
    }
    if sum != stored {
        let why = format!("its map as a sparse file has {sum} bytes, and {stored} are stored");
        return Err(damaged(why));
    }
    Ok(())
}
