//! Quantities against whole numbers of any size: digits, times a power, rounded away from zero to nano, within bounds.

use std::cmp::Ordering;

use coracle_api::Quantity;
use coracle_fuzz::{Random, cases};
use num_bigint::BigInt;

/// What a text is worth in nano, by its grammar; none if it has no such form.
fn worth(text: &str) -> Option<BigInt> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: BigInt = format!("0{whole}{fraction}").parse().ok()?;
    let (mut tens, mut twos) = (9 - i64::try_from(fraction.len()).ok()?, 0_u32);
    match suffix {
        "n" => tens -= 9,
        "u" => tens -= 6,
        "m" => tens -= 3,
        "" => {}
        "k" => tens += 3,
        "M" => tens += 6,
        "G" => tens += 9,
        "T" => tens += 12,
        "P" => tens += 15,
        "E" => tens += 18,
        "Ki" => twos = 10,
        "Mi" => twos = 20,
        "Gi" => twos = 30,
        "Ti" => twos = 40,
        "Pi" => twos = 50,
        "Ei" => twos = 60,
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            tens += i64::from(exponent.parse::<i32>().ok()?);
        }
    }
    let zero = BigInt::from(0);
    let top: BigInt = BigInt::from(i64::MAX) * BigInt::from(1_000_000_000);
    let value: BigInt = digits * BigInt::from(2).pow(twos);
    let power = |exponent: i64| -> BigInt {
        BigInt::from(10).pow(u32::try_from(exponent).unwrap_or(u32::MAX))
    };
    let nanos: BigInt = match value == zero {
        true => zero,
        // Far beyond any bound, without the number.
        false if tens > 400 => top.clone(),
        false if tens < -2000 => BigInt::from(1),
        false if tens >= 0 => value * power(tens),
        false => {
            let unit = power(-tens);
            let up: BigInt = value + &unit - BigInt::from(1);
            up / unit
        }
    };
    let nanos = nanos.min(top);
    Some(if negative { -nanos } else { nanos })
}

/// A quantity's worth, by arithmetic of its own alone.
fn nanos(quantity: Quantity) -> BigInt {
    worth(&quantity.to_string()).expect("its own text has the form")
}

fn text(random: &mut Random) -> String {
    if random.once_in(10) {
        return random.text();
    }
    let sign = *random.pick(&["", "", "", "-", "+"]);
    let digits = random.of(&["0", "1", "5", "9", "00000000000", "999999999", "123456789"], 5);
    let point = *random.pick(&["", "", "."]);
    // Of a binary unit, what is beyond the eighteenth digit does not count.
    let fraction = random.of(&["0", "1", "5", "9", "0000000000", "000000001"], 1);
    let suffix = match random.below(4) {
        0 => format!("{}{}", random.pick(&["e", "E", "e-", "e+"]), random.below(40)),
        _ => (*random.pick(&[
            "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
            "K", "ki", "i",
        ]))
        .to_owned(),
    };
    let fraction = if point.is_empty() { "" } else { &fraction };
    format!("{sign}{digits}{point}{fraction}{suffix}")
}

#[test]
fn quantities_are_worth_what_they_say() {
    cases("quantities", |random| {
        let (one, two) = (text(random), text(random));
        let read = one.parse::<Quantity>();
        assert_eq!(read.is_ok(), worth(&one).is_some(), "{one}: {read:?}");
        let Ok(read) = read else { return };
        let value = worth(&one).expect("as much");
        assert_eq!(nanos(read), value, "{one} is written {read}");
        // What is written is read the same, and written the same.
        let again: Quantity = read.to_string().parse().expect("its own text");
        assert_eq!((again, again.to_string()), (read, read.to_string()), "{one}");
        let up = |unit: i64| {
            let unit = BigInt::from(unit);
            let rest: BigInt = unit.clone() - BigInt::from(1);
            let away: BigInt = if value < BigInt::from(0) { -rest } else { rest };
            let units: BigInt = (value.clone() + away) / unit;
            i64::try_from(units.clone()).unwrap_or(if units < BigInt::from(0) {
                i64::MIN
            } else {
                i64::MAX
            })
        };
        assert_eq!(read.value(), up(1_000_000_000), "{one}");
        assert_eq!(read.milli(), up(1_000_000), "{one}");
        let Ok(other) = two.parse::<Quantity>() else { return };
        let theirs = worth(&two).expect("as much");
        assert_eq!(read.cmp(&other), value.cmp(&theirs), "{one} and {two}");
        let top: BigInt = BigInt::from(i64::MAX) * BigInt::from(1_000_000_000);
        let bounded = |value: BigInt| value.clamp(-top.clone(), top.clone());
        assert_eq!(nanos(read + other), bounded(&value + &theirs), "{one} + {two}");
        assert_eq!(nanos(read - other), bounded(value - theirs), "{one} - {two}");
        assert_eq!((read - read).cmp(&Quantity::ZERO), Ordering::Equal);
    });
}
