//! Questions and answers as they travel (RFC 1035, 4): of all that there is, what a resolver of a Pod's needs.

use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

pub(super) use hickory_proto::op::ResponseCode as Code;

/// How long an answer may be kept, in seconds: as CoreDNS has it for Services.
const LIFETIME: u32 = 5;
/// Longest answer in a datagram, where nothing else was agreed upon, and where something was: what needs no fragments.
const DATAGRAM: u16 = 512;
const MOST: u16 = 1232;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    metadata: Metadata,
    question: Question,
    /// The longest datagram that the one who asks takes, if he said so (RFC 6891).
    takes: Option<u16>,
    /// In small letters, without the root.
    pub(super) labels: Vec<String>,
}

impl Query {
    pub(super) fn kind(&self) -> RecordType {
        self.question.query_type
    }

    /// The same question about another name; none where that is no name.
    pub(super) fn about(&self, name: &str) -> Option<Query> {
        let mut other = self.clone();
        other.question.name = absolute(name).ok()?;
        other.labels = labels(&other.question.name);
        Some(other)
    }

    /// Whether it asks what a name stands for, and no further.
    pub(super) fn is_of_alias(&self) -> bool {
        self.kind() == RecordType::CNAME
    }

    /// As it is passed on to somebody else.
    pub(super) fn to_message(&self) -> Option<Vec<u8>> {
        let mut message = Message::query();
        message.metadata.id = self.metadata.id;
        message.metadata.recursion_desired = true;
        message.add_query(self.question.clone());
        message.to_vec().ok()
    }

    /// What there is to say of the zone that the name is in: which it is, and for how long what is not there may be kept.
    fn zone(&self) -> Option<Result<hickory_proto::rr::Record, ProtoError>> {
        let apex = match &self.labels[..] {
            [.., second, last] if second == "cluster" && last == "local" => "cluster.local",
            [.., second, last] if second == "in-addr" && last == "arpa" => "in-addr.arpa",
            _ => return None,
        };
        let of = |apex| {
            let (server, mail) =
                (absolute("ns.dns.cluster.local")?, absolute("hostmaster.cluster.local")?);
            // The zone has no copies elsewhere, to which the other numbers would matter.
            let zone = SOA::new(server, mail, 1, 7200, 1800, 86_400, LIFETIME);
            let apex = absolute(apex)?;
            Ok(hickory_proto::rr::Record::from_rdata(apex, LIFETIME, RData::SOA(zone)))
        };
        Some(of(apex))
    }

    pub(super) fn is_internet(&self) -> bool {
        self.question.query_class == DNSClass::IN
    }

    /// The longest datagram that may answer it.
    pub(super) fn datagram(&self) -> usize {
        self.takes.unwrap_or(DATAGRAM).clamp(DATAGRAM, MOST).into()
    }
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Address(Ipv4Addr),
    Server {
        port: u16,
        target: String,
    },
    /// The name of the address that was asked about.
    Name(String),
    Text(String),
    /// All that follow are of this name.
    Alias(String),
    /// Somebody else's, as it came.
    Foreign(Box<hickory_proto::rr::Record>),
}

/// A question, or what to answer to something else: nothing where that could go on for ever.
pub(super) fn parse(message: &[u8]) -> Result<Query, Option<Vec<u8>>> {
    let header = Header::read(&mut BinDecoder::new(message)).map_err(|_| None)?.metadata;
    if header.message_type == MessageType::Response {
        return Err(None);
    }
    let refuse = |code| Message::error_msg(header.id, header.op_code, code).to_vec().ok();
    if header.op_code != OpCode::Query {
        return Err(refuse(Code::NotImp));
    }
    let message = Message::from_vec(message).map_err(|_| refuse(Code::FormErr))?;
    let [question] = &message.queries[..] else { return Err(refuse(Code::FormErr)) };
    let labels = labels(&question.name);
    let takes = message.edns.as_ref().map(Edns::max_payload);
    Ok(Query { metadata: message.metadata, question: question.clone(), takes, labels })
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// How long somebody else's answer may be kept: as long as all of it lasts, or, of nothing, as the zone says (RFC 2308, 5). None if
/// it is not to be kept.
pub(super) fn lifetime(answer: &[u8]) -> Option<Duration> {
    let message = Message::from_vec(answer).ok()?;
    let is_final = matches!(message.metadata.response_code, Code::NoError | Code::NXDomain);
    if !is_final || message.metadata.truncation {
        return None;
    }
    let seconds = match message.answers.iter().map(|record| record.ttl).min() {
        Some(seconds) if message.metadata.response_code == Code::NoError => seconds,
        _ => message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(zone) => Some(record.ttl.min(zone.minimum)),
            _ => None,
        })?,
    };
    Some(Duration::from_secs(seconds.into()))
}

/// What was answered a while ago, as the answer to this question.
pub(super) fn aged(answer: &[u8], question: &[u8], age: Duration) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(answer).ok()?;
    let id = question.first_chunk::<2>()?;
    message.metadata.id = u16::from_be_bytes(*id);
    let age = u32::try_from(age.as_secs()).ok()?;
    let lists = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in lists.into_iter().flatten() {
        record.ttl = record.ttl.saturating_sub(age);
    }
    message.to_vec().ok()
}

/// What somebody else answered, and whether that is all of it.
pub(super) fn parts(answer: &[u8]) -> Option<(Code, Vec<Record>, bool)> {
    let message = Message::from_vec(answer).ok()?;
    let records = message.answers.into_iter().map(|record| Record::Foreign(Box::new(record)));
    Some((message.metadata.response_code, records.collect(), !message.metadata.truncation))
}

/// Whether a message answers this one.
pub(super) fn is_answer(message: &[u8], question: &[u8]) -> bool {
    let header = |bytes| Header::read(&mut BinDecoder::new(bytes)).ok().map(|h| h.metadata);
    let (Some(message), Some(question)) = (header(message), header(question)) else { return false };
    message.id == question.id && message.message_type == MessageType::Response
}

/// An answer, of at most so many bytes: a longer one is cut, whereupon it is asked for over a connection.
pub(super) fn reply(
    query: &Query,
    code: Code,
    records: &[Record],
    most: usize,
) -> Result<Vec<u8>, ProtoError> {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.response_code = code;
    reply.metadata.authoritative = matches!(code, Code::NoError | Code::NXDomain);
    reply.metadata.recursion_available = true;
    reply.add_query(query.question.clone());
    if query.takes.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MOST);
        reply.set_edns(edns);
    }
    let mut name = query.question.name.clone();
    for record in records {
        let data = match record {
            Record::Address(address) => RData::A(A(*address)),
            Record::Name(name) => RData::PTR(PTR(absolute(name)?)),
            Record::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
            Record::Alias(target) => RData::CNAME(CNAME(absolute(target)?)),
            Record::Foreign(record) => {
                reply.add_answer(record.as_ref().clone());
                continue;
            }
            // Priority and weight: all are alike.
            Record::Server { port, target } => {
                RData::SRV(SRV::new(0, 100, *port, absolute(target)?))
            }
        };
        let next =
            if let RData::CNAME(CNAME(target)) = &data { target.clone() } else { name.clone() };
        reply.add_answer(hickory_proto::rr::Record::from_rdata(name, LIFETIME, data));
        name = next;
    }
    // Who asks may keep that there is nothing, and needs to know for how long (RFC 2308, 3).
    if records.is_empty()
        && matches!(code, Code::NoError | Code::NXDomain)
        && let Some(zone) = query.zone()
    {
        reply.add_authority(zone?);
    }
    let whole = reply.to_vec()?;
    if whole.len() > most { reply.truncate().to_vec() } else { Ok(whole) }
}

fn absolute(name: &str) -> Result<Name, ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}
