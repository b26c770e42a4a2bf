//! Resource quantities (`1500m`, `1Gi`, `1e3`), exactly: a count of nano-units, never a float.
//!
//! Upstream's `resource.Quantity`: nothing finer than nano (rounded up, away from zero), nothing beyond ±(2^63 − 1).
//! The written form keeps the family it came in (decimal, binary, exponent), so that what is stored is what kubectl shows.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// An exact quantity and the family of its written form.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Families of suffixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, none, `k`, `M`…
    #[default]
    Decimal,
    /// `Ki`, `Mi`…
    Binary,
    /// `e3`.
    Exponent,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number followed by a suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Syntax,
    /// A number followed by something that is no suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::Decimal };

    /// One of what is counted.
    pub const ONE: Quantity = Quantity { nanos: NANO, format: Format::Decimal };

    /// A whole number of units (bytes, Pods, cores).
    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// Thousandths of a unit, such as milli-CPUs.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * 1_000_000, format: Format::Decimal }
    }

    /// The quantity in a JSON string or number; `None` for anything else or bad syntax.
    pub fn of(value: &Value) -> Option<Self> {
        Self::read(value)?.ok()
    }

    fn read(value: &Value) -> Option<Result<Self, QuantityError>> {
        match value {
            Value::String(text) => Some(text.parse()),
            // A JSON number's shortest text is its exact decimal value as written.
            Value::Number(number) => Some(number.to_string().parse()),
            _ => None,
        }
    }

    /// Rewrites a JSON quantity in canonical form, in place. What does not parse is left for validation.
    pub fn canonicalise(value: &mut Value) {
        if let Some(quantity) = Self::of(value) {
            let canonical = quantity.to_string();
            if value.as_str() != Some(&canonical) {
                *value = Value::String(canonical);
            }
        }
    }

    /// Why a JSON value is no quantity, if so.
    pub fn problem(value: &Value) -> Option<QuantityError> {
        Self::read(value).unwrap_or(Err(QuantityError::Syntax)).err()
    }

    /// Whole units, rounded up (away from zero).
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded up (away from zero).
    pub fn milli(&self) -> i64 {
        self.scaled(1_000_000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let n = div_away(self.nanos, unit);
        n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// A whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
}

fn div_away(n: i128, unit: i128) -> i128 {
    let quotient = n / unit;
    if n % unit == 0 { quotient } else { quotient + n.signum() }
}

fn suffix(text: &str) -> Option<(i32, i32, Format)> {
    // (base, exponent) of the multiplier; powers of ten in threes, of two in tens.
    let decimal = |e| Some((10, e, Format::Decimal));
    let binary = |e| Some((2, e, Format::Binary));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Some((10, exponent.parse().ok()?, Format::Exponent))
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0
            || fraction.contains('.')
            || !tail.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b))
        {
            return Err(QuantityError::Syntax);
        }
        let (base, exponent, format) = suffix(tail).ok_or(QuantityError::Suffix)?;

        // digits × 10^(−fraction) × base^exponent, in nano: an i128 holds whatever is within bounds. Zeros at either end
        // carry no value; cutting them keeps `0.000…` and `1.500…` exact at any length.
        let fraction = fraction.trim_end_matches('0');
        let whole = whole.trim_start_matches('0');
        if whole.is_empty() && fraction.is_empty() {
            return Ok(Self { nanos: 0, format });
        }
        let power = if base == 10 { exponent } else { 0 };
        let mut scale = power.saturating_add(9).saturating_sub(fraction.len() as i32);
        let mut nanos: i128 = 0;
        let mut dropped = false;
        let binary = if base == 2 { 1i128 << exponent } else { 1 };
        // Digits beyond what a value in bounds can hold are only looked at for being zero or not.
        for digit in whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0')) {
            match nanos.checked_mul(10).and_then(|n| n.checked_add(digit)) {
                Some(n) if n < i128::MAX / binary / 10 => nanos = n,
                _ => {
                    dropped |= digit != 0;
                    scale = scale.saturating_add(1);
                }
            }
        }
        nanos = nanos.saturating_mul(binary);
        while scale > 0 && nanos < MAX {
            nanos = nanos.saturating_mul(10);
            scale -= 1;
        }
        while scale < 0 && nanos > 0 {
            dropped |= nanos % 10 != 0;
            nanos /= 10;
            scale += 1;
        }
        let nanos = (nanos + i128::from(dropped)).min(MAX);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: an integer with the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::Binary && self.is_whole() && whole.abs() >= 1024 {
            let mut n = whole;
            let mut power = 0;
            while n % 1024 == 0 && power < 6 {
                n /= 1024;
                power += 1;
            }
            return write!(f, "{n}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut n = self.nanos;
        let mut power = 0;
        while n % 1000 == 0 && power < 9 {
            n /= 1000;
            power += 1;
        }
        match self.format {
            Format::Exponent if power != 3 => write!(f, "{n}e{}", (power as i32 - 3) * 3),
            Format::Exponent => write!(f, "{n}"),
            _ => write!(f, "{n}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power]),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = (self.nanos + other.nanos).clamp(-MAX, MAX);
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self += Self { nanos: -other.nanos, format: other.format };
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self -= other;
        self
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_keeps_the_family() {
        for (text, expected) in [
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("0.5Mi", "512Ki"),
            ("0.1Mi", "104857600m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("0.1", "100m"),
            ("1e3", "1e3"),
            ("2E", "2E"),
            ("1E3", "1e3"),
            ("1.5e3", "1500"),
            ("1000e3", "1e6"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1023Ki", "1023Ki"),
            ("0Gi", "0"),
            ("-1", "-1"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("1.00000000000000000000000000000000000000000000000000", "1"),
            ("100Ei", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e100000", "9223372036854775807"),
            ("1e-100000", "1e-9"),
            ("99999999999999999999999999999999999999999999", "9223372036854775807"),
            ("123456789.123456789Gi", "132560719809493149122920320m"),
            ("007", "7"),
        ] {
            let quantity: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            let canonical = quantity.to_string();
            if text == "123456789.123456789Gi" {
                // Not whole: shown in decimal, exact to the nano.
                assert_eq!(quantity, canonical.parse().unwrap());
                continue;
            }
            assert_eq!(canonical, expected, "{text}");
            assert_eq!(canonical.parse::<Quantity>().unwrap(), quantity, "{text} there and back");
        }
    }

    #[test]
    fn bad_syntax() {
        for text in ["", "a", ".", "1.2.3", "1 Gi", "-", "1Gb", "ten"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Syntax), "{text}");
        }
        for text in ["1ki", "1Gii", "1e", "1e+", "1mm", "1e99999999999999"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text}");
        }
    }

    #[test]
    fn arithmetic_and_rounding() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("1.5").value(), 2);
        assert_eq!(q("-1.5").value(), -2);
        assert_eq!(q("100u").milli(), 1);
        assert_eq!(q("250m").milli(), 250);
        assert_eq!(q("2").milli(), 2000);
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("0") + q("512Mi")).to_string(), "512Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1k"), q("1000"));
        assert_eq!(Quantity::of(&serde_json::json!(0.5)).unwrap().to_string(), "500m");
        assert_eq!(Quantity::of(&serde_json::json!(2)).unwrap().to_string(), "2");
    }
}
