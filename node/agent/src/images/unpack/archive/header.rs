//! One header block of 512 bytes (POSIX.1-1988 "ustar", GNU, and the format before both).

use super::{Damage, damaged};

/// Bytes of a header, and what content is padded to.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
}

impl Header {
    /// `None` for an empty block, which ends an archive.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Option<Self>, Damage> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Self { block };
        let blank = |index: usize| (148..156).contains(&index);
        let byte = |(index, byte): (usize, &u8)| if blank(index) { b' ' } else { *byte };
        let unsigned: i64 = block.iter().enumerate().map(|at| i64::from(byte(at))).sum();
        // Some old writers added signed bytes.
        let signed: i64 = block.iter().enumerate().map(|at| i64::from(byte(at) as i8)).sum();
        let sum = header.octal(148, 8, "checksum")?;
        if i64::try_from(sum).is_ok_and(|sum| sum == unsigned || sum == signed) {
            Ok(Some(header))
        } else {
            Err(damaged("a header whose checksum is wrong"))
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.block[156]
    }

    fn field(&self, at: usize, length: usize) -> &[u8] {
        &self.block[at..at + length]
    }

    /// A path of at most 256 bytes: longer ones come as extensions.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = text(self.field(345, 155));
        // GNU has other things in that place.
        if self.field(257, 6) != b"ustar\0" || prefix.is_empty() {
            return name;
        }
        [&prefix[..], b"/", &name[..]].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100))
    }

    pub(super) fn mode(&self) -> Result<u32, Damage> {
        Ok(self.octal(100, 8, "mode")? as u32)
    }

    pub(super) fn uid(&self) -> Result<u64, Damage> {
        self.octal(108, 8, "owner")
    }

    pub(super) fn gid(&self) -> Result<u64, Damage> {
        self.octal(116, 8, "group")
    }

    pub(super) fn size(&self) -> Result<u64, Damage> {
        self.octal(124, 12, "size")
    }

    pub(super) fn modified(&self) -> Result<i64, Damage> {
        let field = self.field(136, 12);
        // Before 1970: negative, in base 256.
        if field[0] == 0xff {
            let bytes: [u8; 8] = field[4..].try_into().unwrap_or_default();
            return Ok(i64::from_be_bytes(bytes));
        }
        i64::try_from(self.octal(136, 12, "time")?).map_err(|_| damaged("its time is out of range"))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Damage> {
        let part = |at| {
            let number = self.octal(at, 8, "device number")?;
            u32::try_from(number).map_err(|_| damaged("its device number is out of range"))
        };
        Ok((part(329)?, part(337)?))
    }

    /// Of an old GNU sparse file: the first pieces, whether more follow, and the file's size.
    pub(super) fn sparse(&self) -> Result<(&[u8], bool, u64), Damage> {
        if self.field(257, 6) != b"ustar " {
            return Err(damaged("a sparse file whose header is not GNU's"));
        }
        Ok((self.field(386, 96), self.block[482] != 0, self.octal(483, 12, "real size")?))
    }

    fn octal(&self, at: usize, length: usize, what: &str) -> Result<u64, Damage> {
        octal(self.field(at, length)).ok_or_else(|| damaged(format!("its {what} is no number")))
    }
}

/// Octal digits, or base 256 where the first bit is set; nothing is 0.
pub(super) fn octal(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let first = field[0] & 0x7f;
        return [first].iter().chain(&field[1..]).try_fold(0_u64, |number, byte| {
            number.checked_mul(256).map(|number| number + u64::from(*byte))
        });
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let digits = field[..end].trim_ascii();
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8).map(|number| number + u64::from(digit - b'0')),
        _ => None,
    })
}

/// Decimal digits, and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970 with a fraction, as PAX has times: and nanoseconds.
pub(super) fn time(value: &[u8]) -> Option<(i64, i64)> {
    let negative = value.first() == Some(&b'-');
    let value = if negative { &value[1..] } else { value };
    let dot = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let seconds = i64::try_from(number(&value[..dot])?).ok()?;
    let fraction = value.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        // The fraction always counts forward.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// A field up to its zero.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
