//! From one type to another, and quantities.

use std::borrow::Cow;
use std::rc::Rc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use coracle_api::Quantity;
use coracle_api::go_duration;
use coracle_api::quantity::Format;

use super::{Cost, Line, Outcome, UNIT, text, time};
use crate::error::EvalError;
use crate::value::{Opaque, Val};

pub(super) const TABLE: &[Line] = &[
    ("dyn(A) -> dyn", UNIT, |args| Ok(args[0].clone())),
    ("type(A) -> type", UNIT, |args| Ok(Val::Type(Cow::Owned(args[0].type_name().to_owned())))),
    ("int(int) -> int", UNIT, int),
    ("int(uint) -> int", UNIT, int),
    ("int(double) -> int", UNIT, int),
    ("int(string) -> int", UNIT, int),
    ("int(timestamp) -> int", UNIT, int),
    ("int(duration) -> int", UNIT, int),
    ("uint(uint) -> uint", UNIT, uint),
    ("uint(int) -> uint", UNIT, uint),
    ("uint(double) -> uint", UNIT, uint),
    ("uint(string) -> uint", UNIT, uint),
    ("double(double) -> double", UNIT, double),
    ("double(int) -> double", UNIT, double),
    ("double(uint) -> double", UNIT, double),
    ("double(string) -> double", UNIT, double),
    ("bool(bool) -> bool", UNIT, bool),
    ("bool(string) -> bool", UNIT, bool),
    ("string(string) -> string", UNIT, string),
    ("string(bool) -> string", UNIT, string),
    ("string(int) -> string", UNIT, string),
    ("string(uint) -> string", UNIT, string),
    ("string(double) -> string", UNIT, string),
    ("string(bytes) -> string", Cost::Text(1.0), string),
    ("string(timestamp) -> string", UNIT, string),
    ("string(duration) -> string", UNIT, string),
    ("string(url) -> string", UNIT, string),
    ("string(ip) -> string", UNIT, string),
    ("string(cidr) -> string", UNIT, string),
    ("bytes(bytes) -> bytes", UNIT, bytes),
    ("bytes(string) -> bytes", Cost::Text(1.0), bytes),
    ("timestamp(timestamp) -> timestamp", UNIT, timestamp),
    ("timestamp(string) -> timestamp", UNIT, timestamp),
    ("timestamp(int) -> timestamp", UNIT, timestamp),
    ("duration(duration) -> duration", UNIT, duration),
    ("duration(string) -> duration", UNIT, duration),
    ("duration(int) -> duration", UNIT, duration),
    ("base64.encode(bytes) -> string", Cost::Text(1.0), |args| match &args[0] {
        Val::Bytes(bytes) => Ok(Val::string(BASE64.encode(bytes))),
        _ => Err(EvalError::no_such_overload()),
    }),
    ("base64.decode(string) -> bytes", Cost::Text(1.0), |args| {
        let decoded = BASE64.decode(text(args, 0)?);
        decoded.map(|b| Val::Bytes(b.into())).map_err(|why| EvalError::new(why.to_string()))
    }),
    ("quantity(string) -> quantity", Cost::Text(1.0), |args| {
        let parsed: Result<Quantity, _> = text(args, 0)?.parse();
        parsed.map(of_quantity).map_err(|why| EvalError::new(why.to_string()))
    }),
    ("isQuantity(string) -> bool", Cost::Text(1.0), |args| {
        Ok(Val::Bool(text(args, 0)?.parse::<Quantity>().is_ok()))
    }),
    ("quantity::sign() -> int", UNIT, |args| {
        let q = quantity_of(&args[0])?;
        Ok(Val::Int(if q.is_zero() { 0 } else { 1 - 2 * i64::from(q.is_negative()) }))
    }),
    ("quantity::isInteger() -> bool", UNIT, |args| {
        Ok(Val::Bool(integer(quantity_of(&args[0])?).is_some()))
    }),
    ("quantity::asInteger() -> int", UNIT, |args| {
        let integer = integer(quantity_of(&args[0])?).map(Val::Int);
        integer.ok_or_else(|| EvalError::new("cannot convert value to integer"))
    }),
    ("quantity::asApproximateFloat() -> double", UNIT, |args| {
        Ok(Val::Double(approximate(quantity_of(&args[0])?)))
    }),
    ("quantity::add(quantity) -> quantity", UNIT, |args| {
        Ok(of_quantity(quantity_of(&args[0])? + quantity_of(&args[1])?))
    }),
    ("quantity::add(int) -> quantity", UNIT, |args| {
        Ok(of_quantity(quantity_of(&args[0])? + whole(&args[1])?))
    }),
    ("quantity::sub(quantity) -> quantity", UNIT, |args| {
        Ok(of_quantity(quantity_of(&args[0])? - quantity_of(&args[1])?))
    }),
    ("quantity::sub(int) -> quantity", UNIT, |args| {
        Ok(of_quantity(quantity_of(&args[0])? - whole(&args[1])?))
    }),
    ("quantity::isGreaterThan(quantity) -> bool", UNIT, |args| {
        Ok(Val::Bool(quantity_of(&args[0])? > quantity_of(&args[1])?))
    }),
    ("quantity::isLessThan(quantity) -> bool", UNIT, |args| {
        Ok(Val::Bool(quantity_of(&args[0])? < quantity_of(&args[1])?))
    }),
    ("quantity::compareTo(quantity) -> int", UNIT, |args| {
        Ok(Val::Int(quantity_of(&args[0])?.cmp(&quantity_of(&args[1])?) as i64))
    }),
];

/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A quantity as an int. What is too large for one is held as the largest.
fn integer(quantity: Quantity) -> Option<i64> {
    let fits = quantity.is_whole() && !matches!(quantity.value(), i64::MAX | i64::MIN);
    fits.then(|| quantity.value())
}

fn of_quantity<'a>(quantity: Quantity) -> Val<'a> {
    Val::Opaque(Opaque::Quantity(quantity))
}

fn quantity_of(value: &Val<'_>) -> Result<Quantity, EvalError> {
    match value {
        Val::Opaque(Opaque::Quantity(quantity)) => Ok(*quantity),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn whole(value: &Val<'_>) -> Result<Quantity, EvalError> {
    match value {
        Val::Int(int) => Ok(Quantity::new(*int, Format::Decimal)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn approximate(quantity: Quantity) -> f64 {
    // Whole units exactly as far as a double goes; thousandths where there are some.
    if quantity.is_whole() { quantity.value() as f64 } else { quantity.milli() as f64 / 1000.0 }
}

fn int<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let range = || EvalError::new("integer overflow");
    Ok(Val::Int(match &args[0] {
        Val::Int(int) => *int,
        Val::Uint(uint) => i64::try_from(*uint).map_err(|_| range())?,
        Val::Double(double) => {
            if double.is_nan() || *double <= i64::MIN as f64 || *double >= i64::MAX as f64 {
                return Err(range());
            }
            *double as i64
        }
        Val::String(text) => text.parse().map_err(|_| cannot(text, "ParseInt"))?,
        Val::Timestamp(at) => at.as_second(),
        Val::Duration(nanos) => *nanos,
        _ => return Err(EvalError::no_such_overload()),
    }))
}

fn cannot(text: &str, how: &str) -> EvalError {
    EvalError::new(format!("strconv.{how}: parsing {text:?}: invalid syntax"))
}

fn uint<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let range = || EvalError::new("unsigned integer overflow");
    Ok(Val::Uint(match &args[0] {
        Val::Uint(uint) => *uint,
        Val::Int(int) => u64::try_from(*int).map_err(|_| range())?,
        Val::Double(double) => {
            if double.is_nan() || *double < 0.0 || *double >= u64::MAX as f64 {
                return Err(range());
            }
            *double as u64
        }
        Val::String(text) => text.parse().map_err(|_| cannot(text, "ParseUint"))?,
        _ => return Err(EvalError::no_such_overload()),
    }))
}

fn double<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Double(match &args[0] {
        Val::Double(double) => *double,
        Val::Int(int) => *int as f64,
        Val::Uint(uint) => *uint as f64,
        Val::String(text) => text.parse().map_err(|_| cannot(text, "ParseFloat"))?,
        _ => return Err(EvalError::no_such_overload()),
    }))
}

fn bool<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Bool(match &args[0] {
        Val::Bool(bool) => *bool,
        Val::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => return Err(cannot(other, "ParseBool")),
        },
        _ => return Err(EvalError::no_such_overload()),
    }))
}

fn string<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(match &args[0] {
        Val::String(_) => args[0].clone(),
        Val::Bool(bool) => Val::string(bool.to_string()),
        Val::Int(int) => Val::string(int.to_string()),
        Val::Uint(uint) => Val::string(uint.to_string()),
        Val::Double(double) => Val::string(format_double(*double)),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::string(text),
            Err(_) => {
                return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string"));
            }
        },
        Val::Timestamp(at) => Val::string(time::format_timestamp(*at)),
        Val::Duration(nanos) => Val::string(time::format_duration(*nanos)),
        Val::Opaque(Opaque::Url(_, text)) => Val::string(text.clone()),
        Val::Opaque(Opaque::Ip(ip)) => Val::string(ip.to_string()),
        Val::Opaque(Opaque::Cidr(net)) => Val::string(net.to_string()),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// The shortest text that reads back the same, with an exponent where Go's `%g` has one.
pub(super) fn format_double(double: f64) -> String {
    if double.is_nan() {
        return "NaN".into();
    }
    if double.is_infinite() {
        return if double > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{double:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if double != 0.0 && !(-4..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{double}")
}

fn bytes<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(match &args[0] {
        Val::Bytes(_) => args[0].clone(),
        Val::String(text) => Val::Bytes(Rc::from(text.as_bytes())),
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn timestamp<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(match &args[0] {
        Val::Timestamp(_) => args[0].clone(),
        Val::Int(seconds) => match time::at_second(*seconds) {
            Some(at) => Val::Timestamp(at),
            None => return Err(EvalError::new("timestamp overflow")),
        },
        Val::String(text) => match time::parse_timestamp(text) {
            Some(at) => Val::Timestamp(at),
            None => {
                let why = format!("parsing time {:?}: cannot parse as RFC 3339", &**text);
                return Err(EvalError::new(why));
            }
        },
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn duration<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(match &args[0] {
        Val::Duration(_) => args[0].clone(),
        Val::Int(nanos) => Val::Duration(*nanos),
        Val::String(text) => match go_duration::parse(text) {
            Some(nanos) => Val::Duration(nanos),
            None => {
                let why = format!("time: invalid duration {:?}", &**text);
                return Err(EvalError::new(why));
            }
        },
        _ => return Err(EvalError::no_such_overload()),
    })
}
