//! Which caller has which backend (`sessionAffinity`): kept when a table is written afresh, as each agent does that starts.
//!
//! What a table of another form remembers says nothing to this one: the kernel refuses it, and it is left out.

use super::ruleset::AFFINITY;
use super::wire::{
    Attributes, Batch, CREATE, GET_ELEMENTS, MAX_ATTRIBUTE, NftSocket, Verb, attributes,
};

// `enum nft_set_elem_list_attributes` and `nft_set_elem_attributes`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const DATA: u16 = 2;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const VALUE: u16 = 1;
/// More than an element takes with the headers of all that is in it.
const ELEMENT: usize = 120;

/// One caller's backend, and for how long, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    key: Vec<u8>,
    backend: Vec<u8>,
    timeout: u64,
    left: u64,
}

/// What a table in the kernel remembers; nothing where there is none.
pub(super) fn read(socket: &NftSocket, table: &str) -> Vec<Remembered> {
    let mut asked = Vec::new();
    let mut out = Attributes { buffer: &mut asked };
    out.string(LIST_TABLE, table);
    out.string(LIST_SET, AFFINITY);
    let mut all = Vec::new();
    match socket.list(GET_ELEMENTS, &asked, |body| parse(body, &mut all)) {
        Ok(()) => all,
        // None yet, or interrupted: whoever called then is led anew.
        Err(_) => Vec::new(),
    }
}

fn parse(body: &[u8], all: &mut Vec<Remembered>) {
    let Some((_, list)) = attributes(body).find(|(kind, _)| *kind == LIST_ELEMENTS) else { return };
    all.extend(attributes(list).filter_map(|(_, element)| {
        let find = |wanted| attributes(element).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
        let value = |wanted| attributes(find(wanted)?).find(|(kind, _)| *kind == VALUE);
        let time = |wanted| Some(u64::from_be_bytes(*find(wanted)?.first_chunk::<8>()?));
        let (timeout, left) = (time(TIMEOUT)?, time(EXPIRATION)?);
        Some(Remembered {
            key: value(KEY)?.1.to_vec(),
            backend: value(DATA)?.1.to_vec(),
            timeout,
            left: left.min(timeout),
        })
    }));
}

/// Adds what was remembered to a table that is being written.
pub(super) fn write(batch: &mut Batch, table: &str, all: &[Remembered]) {
    for chunk in all.chunks(MAX_ATTRIBUTE / ELEMENT) {
        batch.message(Verb::NewSetElem, CREATE, |out| {
            out.string(LIST_TABLE, table);
            out.string(LIST_SET, AFFINITY);
            out.nest(LIST_ELEMENTS, |out| {
                for one in chunk {
                    out.nest(1, |out| put(out, one));
                }
            });
        });
    }
}

fn put(out: &mut Attributes<'_>, one: &Remembered) {
    out.nest(KEY, |out| out.bytes(VALUE, &one.key));
    out.nest(DATA, |out| out.bytes(VALUE, &one.backend));
    out.bytes(TIMEOUT, &one.timeout.to_be_bytes());
    out.bytes(EXPIRATION, &one.left.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let all = [1u8, 2].map(|n| Remembered {
            key: vec![n; 16],
            backend: vec![n; 8],
            timeout: 10_800_000,
            left: u64::from(n) * 1000,
        });
        let mut body = Vec::new();
        let mut out = Attributes { buffer: &mut body };
        out.string(LIST_TABLE, "t");
        out.string(LIST_SET, AFFINITY);
        out.nest(LIST_ELEMENTS, |out| all.iter().for_each(|one| out.nest(1, |out| put(out, one))));
        let mut read = Vec::new();
        parse(&body, &mut read);
        assert_eq!(read, all);
        // Half a message is no reason to fail.
        for end in 0..body.len() {
            parse(&body[..end], &mut Vec::new());
        }
    }
}
