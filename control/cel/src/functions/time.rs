//! Timestamps and durations. A duration is nanoseconds in 64 bits, as Go's; a timestamp lies in the years 1 to 9999.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Line, Outcome, UNIT, text};
use crate::error::EvalError;
use crate::value::Val;

pub(super) const TABLE: &[Line] = &[
    ("timestamp::getFullYear() -> int", UNIT, |args| part(args, year)),
    ("timestamp::getFullYear(string) -> int", UNIT, |args| part(args, year)),
    ("timestamp::getMonth() -> int", UNIT, |args| part(args, month)),
    ("timestamp::getMonth(string) -> int", UNIT, |args| part(args, month)),
    ("timestamp::getDayOfYear() -> int", UNIT, |args| part(args, day_of_year)),
    ("timestamp::getDayOfYear(string) -> int", UNIT, |args| part(args, day_of_year)),
    ("timestamp::getDayOfMonth() -> int", UNIT, |args| part(args, |at| day(at) - 1)),
    ("timestamp::getDayOfMonth(string) -> int", UNIT, |args| part(args, |at| day(at) - 1)),
    ("timestamp::getDate() -> int", UNIT, |args| part(args, day)),
    ("timestamp::getDate(string) -> int", UNIT, |args| part(args, day)),
    ("timestamp::getDayOfWeek() -> int", UNIT, |args| part(args, weekday)),
    ("timestamp::getDayOfWeek(string) -> int", UNIT, |args| part(args, weekday)),
    ("timestamp::getHours() -> int", UNIT, |args| part(args, |at| at.hour().into())),
    ("timestamp::getHours(string) -> int", UNIT, |args| part(args, |at| at.hour().into())),
    ("timestamp::getMinutes() -> int", UNIT, |args| part(args, |at| at.minute().into())),
    ("timestamp::getMinutes(string) -> int", UNIT, |args| part(args, |at| at.minute().into())),
    ("timestamp::getSeconds() -> int", UNIT, |args| part(args, |at| at.second().into())),
    ("timestamp::getSeconds(string) -> int", UNIT, |args| part(args, |at| at.second().into())),
    ("timestamp::getMilliseconds() -> int", UNIT, |args| part(args, millis)),
    ("timestamp::getMilliseconds(string) -> int", UNIT, |args| part(args, millis)),
    ("duration::getHours() -> int", UNIT, |args| whole(args, 3_600_000_000_000)),
    ("duration::getMinutes() -> int", UNIT, |args| whole(args, 60_000_000_000)),
    ("duration::getSeconds() -> int", UNIT, |args| whole(args, 1_000_000_000)),
    ("duration::getMilliseconds() -> int", UNIT, |args| whole(args, 1_000_000)),
];

fn year(at: &Zoned) -> i64 {
    at.year().into()
}

fn month(at: &Zoned) -> i64 {
    i64::from(at.month()) - 1
}

fn day(at: &Zoned) -> i64 {
    at.day().into()
}

fn day_of_year(at: &Zoned) -> i64 {
    i64::from(at.day_of_year()) - 1
}

fn weekday(at: &Zoned) -> i64 {
    at.weekday().to_sunday_zero_offset().into()
}

fn millis(at: &Zoned) -> i64 {
    at.millisecond().into()
}

fn part<'a>(args: &[Val<'a>], of: impl Fn(&Zoned) -> i64) -> Outcome<'a> {
    let Val::Timestamp(at) = args[0] else { return Err(EvalError::no_such_overload()) };
    let zone = match args.len() {
        1 => TimeZone::UTC,
        _ => zone(text(args, 1)?)?,
    };
    Ok(Val::Int(of(&at.to_zoned(zone))))
}

/// A name of the IANA's, or `+hh:mm`.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if !(0..=24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60 * if negative { -1 } else { 1 };
    Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown())
}

fn whole<'a>(args: &[Val<'a>], unit: i64) -> Outcome<'a> {
    match args[0] {
        Val::Duration(nanos) => Ok(Val::Int(nanos / unit)),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(super) fn add<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map(Val::Duration).ok_or_else(|| EvalError::new("duration overflow"))
        }
        (Val::Timestamp(at), Val::Duration(nanos)) | (Val::Duration(nanos), Val::Timestamp(at)) => {
            moved(*at, *nanos)
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(super) fn subtract<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::new("duration overflow");
    match (&args[0], &args[1]) {
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(overflow)
        }
        (Val::Timestamp(at), Val::Duration(nanos)) => {
            moved(*at, nanos.checked_neg().ok_or_else(overflow)?)
        }
        (Val::Timestamp(a), Val::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Val::Duration).map_err(|_| overflow())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn moved<'a>(at: Timestamp, nanos: i64) -> Outcome<'a> {
    let moved = at.checked_add(SignedDuration::from_nanos(nanos)).ok().filter(in_range);
    moved.map(Val::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

/// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z.
fn in_range(at: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&at.as_second())
}

pub(super) fn at_second(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok().filter(in_range)
}

/// A timestamp of RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    // Zone names in brackets and such are another format's.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"-+:.TtZz".contains(&b));
    if !plain || !text.contains(['T', 't']) {
        return None;
    }
    text.parse::<Timestamp>().ok().filter(in_range)
}

/// The same, or a date of it, whose first moment in UTC is meant.
pub(crate) fn parse_timestamp_or_date(text: &str) -> Option<Timestamp> {
    parse_timestamp(text).or_else(|| {
        let date: Date = text.parse().ok()?;
        date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
    })
}

pub(crate) fn format_timestamp(at: Timestamp) -> String {
    at.to_string()
}

/// Seconds, as CEL writes durations.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
