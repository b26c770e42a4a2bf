//! Reads the generated schema data.
//!
//! One line per message, field or embedded struct, columns separated by tabs:
//! ```text
//! M  name  group/version/kind  list kind  flags: a(tomic) h(idden: embedded only)  description
//! F  JSON name  tag  type  flags  Go type  default as JSON  description
//! I  tag  @message
//! ```
//! Types are words, `@message`, `[]T` and `{}T`. Field flags: `r`equired, `p`ointer, `w`rapped, `a`tomic,
//! `l=`list type, `s=`patch strategy, `m=`merge key. Descriptions are line numbers of `descriptions.txt`.
//! Plain lines parse in about a millisecond, and everything but the descriptions' lines is borrowed.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Field, Gvk, ListType, Message, MessageId, Schemas, Str, Strategy, Tag, Text, Type};

/// Parses the data of `builtin.txt`; the error names the line.
pub(super) fn parse(text: &'static str) -> Result<Schemas, String> {
    let mut names = HashMap::new();
    for line in text.lines().filter(|l| l.starts_with("M\t")) {
        let name = line[2..].split('\t').next().unwrap_or_default();
        names.insert(Cow::Borrowed(name), MessageId(names.len() as u32));
    }
    let mut messages: Vec<Message> = Vec::with_capacity(names.len());
    for (number, line) in text.lines().enumerate() {
        parse_line(line, &names, &mut messages)
            .ok_or_else(|| format!("line {}: {line}", number + 1))?;
    }
    messages.iter_mut().for_each(Message::seal);
    let mut kinds: HashMap<Str, Vec<MessageId>> = HashMap::new();
    for (i, message) in messages.iter().enumerate() {
        if let Some(gvk) = &message.gvk {
            kinds.entry(gvk.kind.clone()).or_default().push(MessageId(i as u32));
        }
    }
    Ok(Schemas { messages, names, kinds, deduced: false })
}

fn parse_line(
    line: &'static str,
    names: &HashMap<Str, MessageId>,
    messages: &mut Vec<Message>,
) -> Option<()> {
    let mut columns = line.split('\t');
    match columns.next()? {
        "M" => {
            let name = columns.next()?;
            let gvk = optional(columns.next()?).map(parse_gvk);
            let list_kind = optional(columns.next()?).map(Cow::Borrowed);
            let flags = columns.next()?;
            messages.push(Message {
                name: Cow::Borrowed(name),
                gvk,
                list_kind,
                atomic: flags == "a",
                embedded: flags == "h",
                rest: None,
                published: None,
                description: parse_text(columns.next()?)?,
                fields: Vec::new(),
                index: Box::default(),
                tags: Vec::new(),
            });
        }
        "F" => {
            let mut field = Field {
                name: Cow::Borrowed(columns.next()?),
                tag: columns.next()?.parse().ok()?,
                ty: parse_type(columns.next()?, names)?,
                required: false,
                pointer: false,
                wrapped: false,
                list: None,
                atomic: false,
                strategy: Strategy::default(),
                merge_key: None,
                go_type: None,
                default: None,
                description: Text::None,
            };
            columns.next()?.split(',').try_for_each(|flag| parse_flag(flag, &mut field))?;
            field.go_type = optional(columns.next()?).map(Cow::Borrowed);
            field.default = optional(columns.next()?).map(Cow::Borrowed);
            field.description = parse_text(columns.next()?)?;
            messages.last_mut()?.fields.push(field);
        }
        "I" => {
            let tag = columns.next()?.parse().ok()?;
            let id = *names.get(columns.next()?.strip_prefix('@')?)?;
            messages.last_mut()?.tags.push((tag, Tag::Embedded(id)));
        }
        _ => return None,
    }
    Some(())
}

fn optional(column: &'static str) -> Option<&'static str> {
    (!column.is_empty()).then_some(column)
}

fn parse_gvk(text: &'static str) -> Gvk {
    let mut parts = text.splitn(3, '/').map(Cow::Borrowed);
    let mut next = || parts.next().unwrap_or_default();
    Gvk { group: next(), version: next(), kind: next() }
}

fn parse_text(column: &str) -> Option<Text> {
    if column.is_empty() { Some(Text::None) } else { column.parse().ok().map(Text::Line) }
}

fn parse_type(text: &str, names: &HashMap<Str, MessageId>) -> Option<Type> {
    if let Some(item) = text.strip_prefix("[]") {
        return Some(Type::List(Box::new(parse_type(item, names)?)));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Some(Type::Map(Box::new(parse_type(item, names)?)));
    }
    if let Some(name) = text.strip_prefix('@') {
        return names.get(name).copied().map(Type::Message);
    }
    Some(match text {
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "intstr" => Type::IntOrString,
        "quantity" => Type::Quantity,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "any" => Type::Any,
        _ => return None,
    })
}

fn parse_flag(flag: &'static str, field: &mut Field) -> Option<()> {
    match flag.split_once('=').unwrap_or((flag, "")) {
        ("", "") => {}
        ("r", "") => field.required = true,
        ("p", "") => field.pointer = true,
        ("w", "") => field.wrapped = true,
        ("a", "") => field.atomic = true,
        ("l", "atomic") => field.list = Some(ListType::Atomic),
        ("l", "set") => field.list = Some(ListType::Set),
        ("l", map) => {
            let keys = map.strip_prefix("map:")?.split('+').map(Cow::Borrowed).collect();
            field.list = Some(ListType::Map(keys));
        }
        ("m", key) => field.merge_key = Some(Cow::Borrowed(key)),
        ("s", names) => {
            for name in names.split('+') {
                match name {
                    "merge" => field.strategy.merge = true,
                    "replace" => field.strategy.replace = true,
                    "retainKeys" => field.strategy.retain_keys = true,
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    Some(())
}

/// Undoes the generator's escapes: `\n`, `\t`, `\\`.
pub(super) fn unescape(text: &'static str) -> Str {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match (c, if c == '\\' { chars.next() } else { None }) {
            (_, Some('n')) => '\n',
            (_, Some('t')) => '\t',
            (_, Some(escaped)) => escaped,
            (c, None) => c,
        });
    }
    Cow::Owned(out)
}
