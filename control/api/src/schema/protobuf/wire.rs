//! Protobuf's wire format: tags and values, one after the other, nothing more known of them.

use super::ProtobufError;

/// What is left to read of a message.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// A field's value.
#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Reader<'a> {
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag != 0);
        let tag = tag.ok_or_else(|| ProtobufError::new("an invalid field number"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let mut bits = [0; 8];
                bits.copy_from_slice(self.take(8)?);
                Wire::Fixed64(u64::from_le_bytes(bits))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(ProtobufError::new(format!("unknown wire type {other}"))),
        };
        Ok(Some((tag, wire)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut out = 0u64;
        for (i, byte) in self.0.iter().take(10).enumerate() {
            out |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(out);
            }
        }
        Err(ProtobufError::new("a truncated or overlong number"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (head, rest) =
            self.0.split_at_checked(length).ok_or_else(|| ProtobufError::new("truncated"))?;
        self.0 = rest;
        Ok(head)
    }
}

impl<'a> Wire<'a> {
    pub(super) fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Wire::Varint(n) => Ok(n),
            _ => Err(ProtobufError::new("expected a number")),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::new("expected text, bytes or a message")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::new("text that is not UTF-8"))
    }

    /// Field 1 of a message that wraps a single value.
    pub(super) fn inner(self) -> Result<Option<Wire<'a>>, ProtobufError> {
        let mut reader = Reader(self.bytes()?);
        while let Some((tag, wire)) = reader.field()? {
            if tag == 1 {
                return Ok(Some(wire));
            }
        }
        Ok(None)
    }
}
