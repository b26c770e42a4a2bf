//! Scalars with a form of their own: each check gives the text as it is kept, or Go's error.

use base64::Engine as _;

/// Accepts base64 with line breaks, as Go does, and gives it without.
pub(super) fn base64_text(mut text: String) -> Result<String, String> {
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    match base64::engine::general_purpose::STANDARD.decode(&text) {
        Ok(_) => Ok(text),
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!(
            "illegal base64 data at input byte {}",
            text.len().saturating_sub(1) / 4 * 4
        )),
    }
}

/// Checks a quantity's form. Its canonical form is the business of defaulting.
pub(super) fn quantity_text(text: String) -> Result<String, String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let digits = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = unsigned.split_at(digits);
    if text.is_empty()
        || (digits == 0 && !text.is_empty())
        || number.matches('.').count() > 1
        || number == "."
    {
        return Err("quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            .into());
    }
    let exponent = |s: &str| s.strip_prefix(['+', '-']).unwrap_or(s).parse::<u16>().is_ok();
    match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti"
        | "Pi" | "Ei" => Ok(text),
        s if s.strip_prefix(['e', 'E']).is_some_and(exponent) => Ok(text),
        s if s.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b)) => {
            Err("unable to parse quantity's suffix".into())
        }
        _ => Err("quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            .into()),
    }
}

/// Checks an RFC 3339 time and gives it in UTC with this many digits of fraction.
pub(super) fn time_text(text: String, digits: usize) -> Result<String, String> {
    let Ok(time) = text.parse::<jiff::Timestamp>() else {
        let layout = if digits == 0 {
            "2006-01-02T15:04:05Z07:00"
        } else {
            "2006-01-02T15:04:05.000000Z07:00"
        };
        return Err(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
        ));
    };
    let length = if digits == 0 { 20 } else { 21 + digits };
    let canonical = text.len() == length && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    if canonical {
        return Ok(text);
    }
    Ok(time_string(time, digits))
}

/// RFC 3339 in UTC with this many digits of fraction, 0 or 6: how Kubernetes writes times.
pub(super) fn time_string(time: jiff::Timestamp, digits: usize) -> String {
    let fraction = if digits == 0 {
        String::new()
    } else {
        // Counted forward, before 1970 too.
        format!(".{:06}", time.as_nanosecond().rem_euclid(1_000_000_000) / 1000)
    };
    format!("{}{fraction}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))
}
