//! The part of the nf_tables rule language that Services need, as data.
//!
//! A rule is a list of expressions that load, test and act; a failed test ends the rule. Values travel in 32-bit
//! registers, and neighbouring registers together form the key of a set. Constants are those of
//! linux/netfilter/nf_tables.h.

use super::wire::Attributes;

/// A 32-bit register (`NFT_REG32_00` onwards).
#[derive(Clone, Copy, Debug)]
pub(super) struct Register(u32);

/// Who calls, before the key of what is called.
pub(super) const CALLER: Register = Register(8);
/// The address part of a key.
pub(super) const R0: Register = Register(9);
/// The protocol part of a key.
pub(super) const R1: Register = Register(10);
/// The port part of a key.
pub(super) const R2: Register = Register(11);
/// The number of a backend, or its address.
pub(super) const R3: Register = Register(12);
/// A backend's port, after its address.
pub(super) const R4: Register = Register(13);
/// Scratch, beside the key; four registers long where a link's name is loaded.
pub(super) const SCRATCH: Register = Register(14);
/// What is set in the protocol of a key that is for callers from outside of the cluster only: a bit that no protocol of Services
/// has. (`nft` breaks off at rules that set bits beyond the byte that a protocol has.)
pub(super) const OUTSIDE: u8 = 0x40;

/// Length of a link's name in a register.
const IFNAMSIZ: usize = 16;

#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// A field of the packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    SourceAddress,
    DestinationAddress,
    DestinationPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Differs,
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    /// Loads a field of the packet.
    Load(Field, Register),
    /// Loads the transport protocol's number.
    LoadProtocol(Register),
    /// Loads a constant.
    Constant(Register, [u8; 4]),
    /// Keeps the masked bits of a register.
    Mask(Register, [u8; 4]),
    /// Sets bits of a protocol that are not set.
    Mark(Register, u8),
    /// Goes on only if the register holds this.
    Compare(Register, Test, Vec<u8>),
    /// Loads the incoming link's name into [`SCRATCH`].
    LoadInputLink,
    /// Loads the outgoing link's name into [`SCRATCH`].
    LoadOutputLink,
    /// Loads the incoming link's number.
    LoadInputIndex(Register),
    /// Loads the outgoing link's number.
    LoadOutputIndex(Register),
    /// Loads whether the packet's source or destination is an address of this machine: 2 (`RTN_LOCAL`) if so.
    LoadAddressType(Field, Register),
    /// Loads whether the packet's source is reached by the link that the packet came from: 1 if so.
    LoadReverse(Register),
    /// Loads the bit of the connection's state.
    LoadConnectionState(Register),
    /// Loads the connection's status bits.
    LoadConnectionStatus(Register),
    /// Loads a field of the packet that began the connection, as it came.
    LoadBegun(Field, Register),
    /// Goes on only if the key at the register is in the set.
    Member { set: &'static str, key: Register },
    /// Follows the verdict that the map holds for the key; goes on if there is none.
    Dispatch { map: &'static str, key: Register },
    /// Loads what the map holds for the key.
    Find { map: &'static str, key: Register, value: Register },
    /// Loads a random number below `modulus`.
    Random { value: Register, modulus: u32 },
    /// Keeps in a map, for so many seconds from now, what is in the registers; goes on only if there is room for it.
    Remember { map: &'static str, key: Register, value: Register, seconds: u32 },
    /// Removes from a map what it holds for the key.
    Forget { map: &'static str, key: Register, value: Register },
    /// Sends the connection to the address and port in the registers.
    DestinationNat { address: Register, port: Register },
    /// Gives the connection the outgoing link's address.
    Masquerade,
    /// Answers with a TCP reset.
    RejectTcp,
    /// Answers with ICMP port unreachable.
    RejectIcmp,
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

/// A link's name as registers hold it.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

/// Writes a verdict (`enum nft_verdict_attributes`).
pub(super) fn put_verdict(out: &mut Attributes<'_>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Return => (-5i32 as u32, None),
        Verdict::Jump(chain) => (-3i32 as u32, Some(chain)),
        Verdict::Goto(chain) => (-4i32 as u32, Some(chain)),
    };
    out.nest(2, |out| {
        out.number(1, code);
        if let Some(chain) = chain {
            out.string(2, chain);
        }
    });
}

/// Keeps the masked bits of a register, then turns others over.
fn bitwise(out: &mut Attributes<'_>, register: Register, mask: &[u8], turn: &[u8]) {
    out.number(1, register.0);
    out.number(2, register.0);
    out.number(3, mask.len() as u32);
    out.nest(4, |out| out.bytes(1, mask));
    out.nest(5, |out| out.bytes(1, turn));
}

impl Expr {
    /// Writes the expression as an element of a rule's list.
    pub(super) fn put(&self, out: &mut Attributes<'_>) {
        out.nest(1, |out| {
            out.string(1, self.name());
            out.nest(2, |out| self.put_attributes(out));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Load(..) => "payload",
            Expr::LoadProtocol(_)
            | Expr::LoadInputLink
            | Expr::LoadOutputLink
            | Expr::LoadInputIndex(_)
            | Expr::LoadOutputIndex(_) => "meta",
            Expr::Constant(..) | Expr::Verdict(_) => "immediate",
            Expr::Mask(..) | Expr::Mark(..) => "bitwise",
            Expr::Compare(..) => "cmp",
            Expr::LoadAddressType(..) | Expr::LoadReverse(_) => "fib",
            Expr::LoadConnectionState(_) | Expr::LoadConnectionStatus(_) | Expr::LoadBegun(..) => {
                "ct"
            }
            Expr::Member { .. } | Expr::Dispatch { .. } | Expr::Find { .. } => "lookup",
            Expr::Random { .. } => "numgen",
            Expr::Remember { .. } | Expr::Forget { .. } => "dynset",
            Expr::DestinationNat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::RejectTcp | Expr::RejectIcmp => "reject",
        }
    }

    fn put_attributes(&self, out: &mut Attributes<'_>) {
        let meta = |out: &mut Attributes<'_>, key: u32, register: Register| {
            out.number(1, register.0);
            out.number(2, key);
        };
        match self {
            Expr::Load(field, register) => {
                let (base, offset, length) = match field {
                    Field::SourceAddress => (1, 12, 4),
                    Field::DestinationAddress => (1, 16, 4),
                    Field::DestinationPort => (2, 2, 2),
                };
                out.number(1, register.0);
                out.number(2, base);
                out.number(3, offset);
                out.number(4, length);
            }
            Expr::LoadProtocol(register) => meta(out, 16, *register),
            Expr::LoadInputIndex(register) => meta(out, 4, *register),
            Expr::LoadOutputIndex(register) => meta(out, 5, *register),
            Expr::LoadInputLink => meta(out, 6, SCRATCH),
            Expr::LoadOutputLink => meta(out, 7, SCRATCH),
            Expr::Constant(register, value) => {
                out.number(1, register.0);
                out.nest(2, |out| out.bytes(1, value));
            }
            Expr::Mask(register, mask) => bitwise(out, *register, mask, &[0; 4]),
            Expr::Mark(register, bits) => bitwise(out, *register, &[0xff], &[*bits]),
            Expr::Compare(register, test, value) => {
                out.number(1, register.0);
                out.number(2, u32::from(*test == Test::Differs));
                out.nest(3, |out| out.bytes(1, value));
            }
            Expr::LoadAddressType(field, register) => {
                out.number(1, register.0);
                out.number(2, 3);
                out.number(3, if matches!(field, Field::SourceAddress) { 1 } else { 2 });
            }
            Expr::LoadReverse(register) => {
                out.number(1, register.0);
                out.number(2, 1);
                // Of the source, by the incoming link, whether there is one.
                out.number(3, 1 | 8 | 32);
            }
            Expr::LoadConnectionState(register) => {
                out.number(1, register.0);
                out.number(2, 0);
            }
            Expr::LoadConnectionStatus(register) => {
                out.number(1, register.0);
                out.number(2, 2);
            }
            Expr::LoadBegun(field, register) => {
                out.number(1, register.0);
                out.number(
                    2,
                    match field {
                        Field::SourceAddress => 19,
                        Field::DestinationAddress => 20,
                        Field::DestinationPort => 12,
                    },
                );
                // The direction in which it began.
                out.bytes(3, &[0]);
            }
            Expr::Member { set, key } => {
                out.string(1, set);
                out.number(2, key.0);
            }
            Expr::Dispatch { map, key } => {
                out.string(1, map);
                out.number(2, key.0);
                out.number(3, 0);
            }
            Expr::Find { map, key, value } => {
                out.string(1, map);
                out.number(2, key.0);
                out.number(3, value.0);
            }
            Expr::Random { value, modulus } => {
                out.number(1, value.0);
                out.number(2, *modulus);
                out.number(3, 1);
            }
            Expr::Remember { map, key, value, seconds } => {
                out.string(1, map);
                // Renews what is there.
                out.number(3, 1);
                out.number(4, key.0);
                out.number(5, value.0);
                out.bytes(6, &(u64::from(*seconds) * 1000).to_be_bytes());
            }
            Expr::Forget { map, key, value } => {
                out.string(1, map);
                out.number(3, 2);
                out.number(4, key.0);
                // Not looked at, but asked for.
                out.number(5, value.0);
            }
            Expr::DestinationNat { address, port } => {
                out.number(1, 1);
                out.number(2, 2);
                out.number(3, address.0);
                out.number(5, port.0);
            }
            Expr::Masquerade => {}
            Expr::RejectTcp => out.number(1, 1),
            Expr::RejectIcmp => {
                out.number(1, 0);
                out.bytes(2, &[3]);
            }
            Expr::Verdict(verdict) => {
                out.number(1, 0);
                out.nest(2, |out| put_verdict(out, verdict));
            }
        }
    }
}
