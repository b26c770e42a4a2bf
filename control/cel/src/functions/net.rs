//! Addresses and networks.

use std::net::IpAddr;

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
    ("cidr(string) -> cidr", ONCE, |args| parse_cidr(text(args, 0)?).map(of_cidr)),
    ("isCIDR(string) -> bool", ONCE, |args| Ok(Val::Bool(parse_cidr(text(args, 0)?).is_ok()))),
    ("cidr::containsIP(string) -> bool", Cost::Network, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&parse_ip(text(args, 1)?)?)))
    }),
    ("cidr::containsIP(ip) -> bool", Cost::Network, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&ip(&args[1..])?)))
    }),
    ("cidr::containsCIDR(string) -> bool", Cost::Network, |args| {
        Ok(Val::Bool(cidr(args, 0)?.contains(&parse_cidr(text(args, 1)?)?)))
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
    let bad = |why: &str| {
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: {why}"
        ))
    };
    match text.parse() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(bad("IPv4-mapped IPv6 address is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) if text.contains('%') => Err(bad("IP address with zone value is not allowed")),
        Err(_) => Err(bad("unable to parse IP")),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvalError> {
    let bad = |why: &str| {
        EvalError::new(format!("network address parse error during conversion from string: {why}"))
    };
    let (ip, length) = text.split_once('/').ok_or_else(|| bad("no '/'"))?;
    let ip = parse_ip(ip).map_err(|why| bad(&why.to_string()))?;
    let plain =
        length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length = length.parse().ok().filter(|_| plain).ok_or_else(|| bad("bad prefix length"))?;
    IpNet::new(ip, length).map_err(|why| bad(&why.to_string()))
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
