//! Questions and answers as they travel (RFC 1035, 4). Of all that there is, what a resolver of a Pod's needs: one question, and
//! answers of a few types.

use std::net::Ipv4Addr;

/// How long an answer may be kept, in seconds: as CoreDNS has it for Services.
const LIFETIME: u32 = 5;
const HEADER: usize = 12;
const INTERNET: u16 = 1;
/// In flags: an answer; authoritative; cut; recursion desired and available.
const ANSWER: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const CUT: u16 = 1 << 9;
const DESIRED: u16 = 1 << 8;
const AVAILABLE: u16 = 1 << 7;
const OPCODE: u16 = 0xf << 11;

/// A type of records.
pub(super) const A: u16 = 1;
pub(super) const SRV: u16 = 33;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    flags: u16,
    /// As it was asked, to be repeated.
    asked: Vec<u8>,
    /// In small letters, without the root.
    pub(super) labels: Vec<String>,
    pub(super) kind: u16,
    pub(super) is_internet: bool,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address(Ipv4Addr),
    Server { port: u16, target: String },
}

/// A question, or what to answer to something else: nothing where that could go on for ever.
pub(super) fn parse(message: &[u8]) -> Result<Query, Option<Vec<u8>>> {
    let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (Some(id), Some(flags), Some(questions)) = (word(0), word(2), word(4)) else {
        return Err(None);
    };
    if flags & ANSWER != 0 {
        return Err(None);
    }
    let refuse = |code| {
        let query = Query { id, flags, asked: vec![], labels: vec![], kind: 0, is_internet: true };
        Err(Some(reply(&query, code, &[], HEADER)))
    };
    if flags & OPCODE != 0 {
        return refuse(Code::NotImplemented);
    }
    let Some((labels, end)) = name(message).filter(|_| questions == 1) else {
        return refuse(Code::FormatError);
    };
    let (Some(kind), Some(class)) = (word(end), word(end + 2)) else {
        return refuse(Code::FormatError);
    };
    let asked = message[HEADER..end + 4].to_vec();
    Ok(Query { id, flags, asked, labels, kind, is_internet: class == INTERNET })
}

/// The name that a question is about, and where it ends. There is nothing before it that it could point to.
fn name(message: &[u8]) -> Option<(Vec<String>, usize)> {
    const LONGEST: usize = 255;
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => return Some((labels, at)),
            1..64 if at + length - HEADER < LONGEST => {
                let label = message.get(at..at + length)?;
                labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            _ => return None,
        }
    }
}

/// Whether a message answers this one.
pub(super) fn is_answer(message: &[u8], question: &[u8]) -> bool {
    message.len() >= HEADER && message[..2] == question[..2] && message[2] & 0x80 != 0
}

/// An answer, of at most so many bytes: a longer one is cut, whereupon it is asked for over a connection.
pub(super) fn reply(query: &Query, code: Code, records: &[Record], most: usize) -> Vec<u8> {
    let known = matches!(code, Code::NoError | Code::NoSuchName);
    let mut flags = ANSWER | AVAILABLE | (query.flags & DESIRED) | code as u16;
    flags |= if known { AUTHORITATIVE } else { 0 };
    let parts: Vec<Vec<u8>> = records.iter().map(record).collect();
    let whole = HEADER + query.asked.len() + parts.iter().map(Vec::len).sum::<usize>() <= most;
    let count = if whole { parts.len() as u16 } else { 0 };
    flags |= if whole { 0 } else { CUT };
    let questions = u16::from(!query.asked.is_empty());
    let mut message = Vec::new();
    for word in [query.id, flags, questions, count, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(&query.asked);
    if whole {
        parts.iter().for_each(|part| message.extend(part));
    }
    message
}

fn record(record: &Record) -> Vec<u8> {
    let (kind, data) = match record {
        Record::Address(address) => (A, address.octets().to_vec()),
        Record::Server { port, target } => {
            let mut data = Vec::new();
            // Priority and weight: all are alike.
            for word in [0, 100, *port] {
                data.extend(word.to_be_bytes());
            }
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend(label.as_bytes());
            }
            data.push(0);
            (SRV, data)
        }
    };
    // Its name is the question's, to which it points.
    let mut bytes = (0xc000 | HEADER as u16).to_be_bytes().to_vec();
    for word in [kind, INTERNET] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(LIFETIME.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}
