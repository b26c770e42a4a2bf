//! Addresses and networks.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{Cost, Line, UNIT, text};
use crate::error::EvalError;
use crate::value::{Opaque, Val};

const ONCE: Cost = Cost::Text(1.0);

pub(super) const TABLE: &[Line] = &[
    ("ip(string) -> ip", ONCE, |args| parse_ip(text(args, 0)?).map(of_ip)),
    ("isIP(string) -> bool", ONCE, |args| Ok(Val::Bool(parse_ip(text(args, 0)?).is_ok()))),
    ("ip.isCanonical(string) -> bool", Cost::Text(2.0), |args| {
        let text = text(args, 0)?;
        Ok(Val::Bool(parse_ip(text)?.to_string() == text))
    }),
    ("ip::family() -> int", UNIT, |args| Ok(Val::Int(if ip(args)?.is_ipv4() { 4 } else { 6 }))),
    ("ip::isUnspecified() -> bool", UNIT, |args| Ok(Val::Bool(ip(args)?.is_unspecified()))),
    ("ip::isLoopback() -> bool", UNIT, |args| Ok(Val::Bool(ip(args)?.is_loopback()))),
    ("ip::isLinkLocalMulticast() -> bool", UNIT, |args| {
        Ok(Val::Bool(match ip(args)? {
            IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    ("ip::isLinkLocalUnicast() -> bool", UNIT, |args| {
        Ok(Val::Bool(match ip(args)? {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }))
    }),
    ("ip::isGlobalUnicast() -> bool", UNIT, |args| {
        let ip = ip(args)?;
        let local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || local;
        Ok(Val::Bool(!special))
    }),
    ("cidr(string) -> cidr", ONCE, |args| cidr_from(text(args, 0)?).map(of_cidr)),
    ("isCIDR(string) -> bool", ONCE, |args| Ok(Val::Bool(parse_cidr(text(args, 0)?).is_ok()))),
    ("cidr::containsIP(string) -> bool", Cost::Address, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&parse_ip(text(args, 1)?)?)))
    }),
    ("cidr::containsIP(ip) -> bool", Cost::Address, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&ip(&args[1..])?)))
    }),
    ("cidr::containsCIDR(string) -> bool", Cost::Network, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&cidr_from(text(args, 1)?)?)))
    }),
    ("cidr::containsCIDR(cidr) -> bool", Cost::Network, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&cidr(args, 1)?)))
    }),
    ("cidr::ip() -> ip", UNIT, |args| Ok(of_ip(cidr(args, 0)?.addr()))),
    ("cidr::masked() -> cidr", UNIT, |args| Ok(of_cidr(cidr(args, 0)?.trunc()))),
    ("cidr::prefixLength() -> int", UNIT, |args| Ok(Val::Int(cidr(args, 0)?.prefix_len().into()))),
];

fn of_ip<'a>(ip: IpAddr) -> Val<'a> {
    Val::Opaque(Opaque::Ip(ip))
}

fn of_cidr<'a>(net: IpNet) -> Val<'a> {
    Val::Opaque(Opaque::Cidr(net))
}

/// Strictly: no zones, no leading zeros, no IPv4 within IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let address = address(text).map_err(|why| {
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: {why}"
        ))
    })?;
    match address {
        (_, true) => {
            Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")))
        }
        (ip, _) => plain(ip, text),
    }
}

fn plain(ip: IpAddr, text: &str) -> Result<IpAddr, EvalError> {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvalError> {
    let what = "network address parse error during conversion from string";
    let bad = |why: String| EvalError::new(format!("{what}: netip.ParsePrefix({text:?}): {why}"));
    let (ip, length) = text.rsplit_once('/').ok_or_else(|| bad("no '/'".into()))?;
    let ip = match address(ip).map_err(bad)? {
        (_, true) => return Err(bad("IPv6 zones cannot be present in a prefix".into())),
        (ip, _) => ip,
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    if !digits || (length.len() > 1 && length.starts_with('0')) {
        return Err(bad(format!("bad bits after slash: {length:?}")));
    }
    let net = length.parse().ok().and_then(|length| IpNet::new(ip, length).ok());
    let net = net.ok_or_else(|| bad("prefix length out of range".into()))?;
    plain(ip, text).map(|_| net)
}

/// A network from text, as expressions make one: upstream says twice that it was made from text.
fn cidr_from(text: &str) -> Result<IpNet, EvalError> {
    parse_cidr(text).map_err(|why| {
        EvalError::new(format!("network address parse error during conversion from string: {why}"))
    })
}

/// An address, and whether it has a zone, or Go's words (`netip.ParseAddr`) for why it is none.
fn address(text: &str) -> Result<(IpAddr, bool), String> {
    let bare = text.split_once('%').filter(|(ip, _)| ip.contains(':'));
    match bare {
        Some((ip, zone)) if !zone.is_empty() && ip.parse::<Ipv6Addr>().is_ok() => {
            ip.parse().map(|ip| (ip, true)).map_err(|_| wrong_address(text))
        }
        _ => text.parse().map(|ip| (ip, false)).map_err(|_| wrong_address(text)),
    }
}

fn wrong_address(text: &str) -> String {
    let (why, at) = match text.find(['.', ':', '%']).map(|at| text.as_bytes()[at]) {
        Some(b'.') => wrong_v4(text),
        Some(b':') => wrong_v6(text),
        Some(_) => ("missing IPv6 address", ""),
        None => ("unable to parse IP", ""),
    };
    match at {
        "" => format!("ParseAddr({text:?}): {why}"),
        at => format!("ParseAddr({text:?}): {why} (at {at:?})"),
    }
}

/// What is wrong, and where.
type Wrong<'t> = (&'static str, &'t str);

fn wrong_v4(text: &str) -> Wrong<'_> {
    let bytes = text.as_bytes();
    let (mut value, mut digits, mut dots) = (0u32, 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return ("IPv4 field has octet with leading zero", "");
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return ("IPv4 field has value >255", "");
                }
            }
            b'.' => {
                if at == 0 || at == bytes.len() - 1 || bytes[at - 1] == b'.' {
                    return ("IPv4 field must have at least one digit", &text[at..]);
                }
                if dots == 3 {
                    return ("IPv4 address too long", "");
                }
                (value, digits, dots) = (0, 0, dots + 1);
            }
            _ if text.is_char_boundary(at) => return ("unexpected character", &text[at..]),
            _ => return ("unexpected character", ""),
        }
    }
    ("IPv4 address too short", "")
}

fn wrong_v6(text: &str) -> Wrong<'_> {
    let (mut rest, zone) = text.split_once('%').map_or((text, None), |(ip, z)| (ip, Some(z)));
    if zone == Some("") {
        return ("zone must be a non-empty string", "");
    }
    let mut ellipsis = false;
    if let Some(after) = rest.strip_prefix("::") {
        (rest, ellipsis) = (after, true);
    }
    let mut filled = 0;
    while filled < 16 {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        match digits {
            0 => return ("each colon-separated field must have at least one digit", rest),
            1..=4 => {}
            _ => return ("each group must have 4 or fewer digits", rest),
        }
        if rest[digits..].starts_with('.') {
            return match filled {
                12 => wrong_v4(rest),
                _ if !ellipsis => {
                    ("embedded IPv4 address must replace the final 2 fields of the address", rest)
                }
                13.. => {
                    ("too many hex fields to fit an embedded IPv4 at the end of the address", rest)
                }
                _ => wrong_v4(rest),
            };
        }
        filled += 2;
        rest = &rest[digits..];
        match rest.strip_prefix(':') {
            None if rest.is_empty() => break,
            None => return ("unexpected character, want colon", rest),
            Some("") => return ("colon must be followed by more characters", rest),
            Some(after) => rest = after,
        }
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis {
                return ("multiple :: in address", rest);
            }
            (ellipsis, rest) = (true, after);
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return ("trailing garbage after address", rest);
    }
    match filled < 16 {
        true => ("address string too short", ""),
        false => ("the :: must expand to at least one field of zeros", ""),
    }
}

fn ip(args: &[Val<'_>]) -> Result<IpAddr, EvalError> {
    match args.first() {
        Some(Val::Opaque(Opaque::Ip(ip))) => Ok(*ip),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn cidr(args: &[Val<'_>], at: usize) -> Result<IpNet, EvalError> {
    match args.get(at) {
        Some(Val::Opaque(Opaque::Cidr(net))) => Ok(*net),
        _ => Err(EvalError::no_such_overload()),
    }
}
