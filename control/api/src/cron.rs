//! Schedules of CronJobs: five fields as in crontab(5), `@hourly` and the like, `@every 90m`.
//!
//! The dialect is that of robfig/cron, which upstream reads schedules with, and so are the words for what is wrong: no crate
//! speaks it. Time zones come from the database that is built into the program, so that every machine decides alike.

use std::str::FromStr;

use crate::go_duration;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, Unit, Zoned};

/// When a CronJob is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(When);

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Fields(Box<Fields>),
    Every(SignedDuration),
}

/// A bit for each value that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A day must match both of its fields if one of them is `*`, otherwise either.
    both_days: bool,
}

/// How a field's values are written.
struct Bounds {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { least: 0, most: 59, names: &[] };
const HOURS: Bounds = Bounds { least: 0, most: 23, names: &[] };
const DAYS: Bounds = Bounds { least: 1, most: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { least: 0, most: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A schedule that is not due for so long, such as the 30th of February, never is.
const YEARS: i16 = 5;

impl FromStr for Schedule {
    type Err = String;

    /// Reads a schedule.
    ///
    /// # Errors
    /// Upstream's words for what is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                fields.len(),
                fields.join(" ")
            ));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days, any_day) = field(days, &DAYS)?;
        let (months, _) = field(months, &MONTHS)?;
        let (weekdays, any_weekday) = field(weekdays, &WEEKDAYS)?;
        let both_days = any_day || any_weekday;
        let fields = Fields { minutes, hours, days, months, weekdays, both_days };
        Ok(Self(When::Fields(Box::new(fields))))
    }
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    match text {
        "@yearly" | "@annually" => "0 0 1 1 *".parse(),
        "@monthly" => "0 0 1 * *".parse(),
        "@weekly" => "0 0 * * 0".parse(),
        "@daily" | "@midnight" => "0 0 * * *".parse(),
        "@hourly" => "0 * * * *".parse(),
        _ => match text.strip_prefix("@every ") {
            Some(every) => match go_duration::parse(every).filter(|every| *every >= 0) {
                Some(every) => {
                    let every = SignedDuration::from_secs(
                        SignedDuration::from_nanos(every).as_secs().max(1),
                    );
                    Ok(Schedule(When::Every(every)))
                }
                None => Err(format!(
                    "failed to parse duration {text}: time: invalid duration {every:?}"
                )),
            },
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// The values of a field, and whether one of its parts is `*`.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (more, star) = range(part, bounds)?;
        bits |= more;
        any |= star;
    }
    Ok((bits, any))
}

/// `n`, `n-m`, `*`, `?`, each perhaps with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut halves = text.split('/');
    let values: Vec<&str> = halves.next().unwrap_or_default().split('-').collect();
    let step = halves.next();
    if halves.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let mut star = matches!(values[0], "*" | "?");
    let (first, mut last) = match values[..] {
        _ if star => (bounds.least, bounds.most),
        [one] => {
            let one = value(one, bounds)?;
            (one, one)
        }
        [first, last] => (value(first, bounds)?, value(last, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = integer(step)?;
            if values.len() == 1 {
                // `n/step` is `n-most/step`.
                last = bounds.most;
            }
            star &= step <= 1;
            step
        }
    };
    let Bounds { least, most, .. } = bounds;
    if first < *least {
        return Err(format!("beginning of range ({first}) below minimum ({least}): {text}"));
    }
    if last > *most {
        return Err(format!("end of range ({last}) above maximum ({most}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let values = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok((values.fold(0, |bits, value| bits | 1 << value), star))
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.least + at as u32),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

impl Schedule {
    /// The next time after `after`, in whole seconds; `None` if there is none within years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.0 {
            When::Every(every) => {
                Timestamp::from_second(after.as_second()).ok()?.checked_add(*every).ok()
            }
            When::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    /// Steps over what does not match, from the largest field to the smallest. Hours are steps of real time: what a clock
    /// that is put forward leaves out is left out, what it shows twice is due twice.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut at = Timestamp::from_second(minute * 60).ok()?.to_zoned(zone.clone());
        let end = at.year().saturating_add(YEARS);
        while at.year() <= end {
            at = if !has(self.months, at.month()) {
                let first = at.date().first_of_month().checked_add(jiff::Span::new().months(1));
                first.ok()?.to_zoned(zone.clone()).ok()?
            } else if !self.has_day(&at) {
                at.date().tomorrow().ok()?.to_zoned(zone.clone()).ok()?
            } else if !has(self.hours, at.hour()) {
                minutes_later(&at, 60 - i64::from(at.minute()))?
            } else {
                let rest = self.minutes >> at.minute();
                if rest & 1 == 1 {
                    return at.timestamp().round(Unit::Second).ok();
                }
                let step = i64::from(rest.trailing_zeros()).min(60 - i64::from(at.minute()));
                minutes_later(&at, step)?
            };
        }
        None
    }

    fn has_day(&self, at: &Zoned) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.both_days { day && weekday } else { day || weekday }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & 1 << value != 0
}

fn minutes_later(at: &Zoned, minutes: i64) -> Option<Zoned> {
    at.checked_add(SignedDuration::from_mins(minutes)).ok()
}

/// The time zone of that name in the IANA database; without a name, UTC.
///
/// # Errors
/// Upstream's words for a zone that there is none of.
pub fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled().get(name).map_err(|_| format!("unknown time zone {name}"))
}

#[cfg(test)]
mod tests;
