//! What an Ingress says in annotations. Where ingress-nginx has an annotation for it, its name and meaning are taken over
//! (`nginx.ingress.kubernetes.io/…`), because that is what manifests have.
//!
//! An annotation of ingress-nginx that is not known here is told of in an event. If it would keep somebody out (who may come,
//! and with which credentials), the Ingress is not served at all rather than to everybody.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Protocol;

/// What the annotations' names begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// The meaning of an Ingress's annotations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `proxy-body-size`: most bytes of a request's body; 0 for no limit.
    pub body_size: u64,
    /// `proxy-connect-timeout`: seconds within which an endpoint takes a connection.
    pub connect_timeout: u64,
    /// `proxy-read-timeout`: seconds between two pieces of an answer.
    pub read_timeout: u64,
    /// `proxy-send-timeout`: seconds between two pieces of a request.
    pub send_timeout: u64,
    /// `ssl-redirect`: plain HTTP is redirected where the host has a certificate.
    pub ssl_redirect: bool,
    /// `force-ssl-redirect`: plain HTTP is redirected.
    pub force_ssl_redirect: bool,
    /// `rewrite-target`: the path that endpoints are asked for in place of the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_target: Option<String>,
    /// `backend-protocol`, where it is given: goes before the Service port's `appProtocol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// `enable-access-log`: a line for each request.
    pub access_log: bool,
    /// Why nothing is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_size: 1 << 20,
            connect_timeout: 5,
            read_timeout: 60,
            send_timeout: 60,
            ssl_redirect: true,
            force_ssl_redirect: false,
            rewrite_target: None,
            protocol: None,
            access_log: false,
            refused: None,
        }
    }
}

/// Words in annotations' names that are about who may come.
const GUARDS: [&str; 6] =
    ["allowlist", "auth-", "denylist", "enable-modsecurity", "satisfy", "whitelist"];

impl Settings {
    /// What annotations mean, and what is wrong with them: each complaint names its annotation.
    pub fn parse(annotations: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let (mut settings, mut complaints) = (Self::default(), Vec::new());
        for (name, value) in annotations {
            let Some(short) = name.strip_prefix(PREFIX) else { continue };
            match settings.set(short, value.trim()) {
                Ok(()) => {}
                Err(None) if GUARDS.iter().any(|guard| short.starts_with(guard)) => {
                    let why = format!(
                        "annotation {name} is not supported, and serving without it could let in whom it is to keep out"
                    );
                    settings.refused = Some(why.clone());
                    complaints.push(why);
                }
                Err(None) => complaints.push(format!("annotation {name} is not supported")),
                Err(Some(wanted)) => {
                    complaints
                        .push(format!("annotation {name} is \"{value}\", but has to be {wanted}"));
                }
            }
        }
        (settings, complaints)
    }

    /// `Err(None)` if there is no such setting, or else what its value has to be.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Option<&'static str>> {
        match name {
            "proxy-body-size" => self.body_size = size(value)?,
            "proxy-connect-timeout" => self.connect_timeout = seconds(value)?,
            "proxy-read-timeout" => self.read_timeout = seconds(value)?,
            "proxy-send-timeout" => self.send_timeout = seconds(value)?,
            "ssl-redirect" => self.ssl_redirect = flag(value)?,
            "force-ssl-redirect" => self.force_ssl_redirect = flag(value)?,
            "enable-access-log" => self.access_log = flag(value)?,
            "backend-protocol" => {
                self.protocol = Some(match value {
                    "HTTP" => Protocol::Http1,
                    "GRPC" => Protocol::H2c,
                    "HTTPS" => Protocol::Https,
                    "GRPCS" => Protocol::H2,
                    other => {
                        self.refused = Some(format!("backend-protocol {other} is not supported"));
                        return Err(Some("HTTP, HTTPS, GRPC or GRPCS"));
                    }
                });
            }
            "rewrite-target" => {
                let is_path =
                    value.starts_with('/') && value.parse::<http::uri::PathAndQuery>().is_ok();
                if !is_path || value.contains('$') {
                    self.refused = Some("rewrite-target is not supported as it stands".to_owned());
                    return Err(Some("an absolute path without groups such as $1"));
                }
                self.rewrite_target = Some(value.to_owned());
            }
            _ => return Err(None),
        }
        Ok(())
    }

    pub(crate) fn connecting(&self) -> Duration {
        Duration::from_secs(self.connect_timeout)
    }

    pub(crate) fn reading(&self) -> Duration {
        Duration::from_secs(self.read_timeout)
    }

    pub(crate) fn sending(&self) -> Duration {
        Duration::from_secs(self.send_timeout)
    }
}

fn flag(value: &str) -> Result<bool, Option<&'static str>> {
    value.parse().map_err(|_| Some("true or false"))
}

/// Longest time that may be given: a day.
const LONGEST: u64 = 86_400;

fn seconds(value: &str) -> Result<u64, Option<&'static str>> {
    let number = value.strip_suffix('s').unwrap_or(value).parse().ok();
    number.filter(|n| (1..=LONGEST).contains(n)).ok_or(Some("seconds, from 1 to 86400"))
}

/// nginx's sizes: bytes, or with k, m or g.
fn size(value: &str) -> Result<u64, Option<&'static str>> {
    let wanted = Some("a size such as 512k, 8m or 1g, or 0 for no limit");
    let (number, shift) = match value.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        None => (value.to_owned(), 0),
        Some(number) => {
            let shift = match value.as_bytes()[number.len()].to_ascii_lowercase() {
                b'k' => 10,
                b'm' => 20,
                _ => 30,
            };
            (number.to_owned(), shift)
        }
    };
    let number: u64 = number.parse().map_err(|_| wanted)?;
    number.checked_mul(1 << shift).ok_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(annotation: (&str, &str), expected: Result<Settings, &str>) {
        let annotations =
            BTreeMap::from([(format!("{PREFIX}{}", annotation.0), annotation.1.to_owned())]);
        let (settings, complaints) = Settings::parse(&annotations);
        match expected {
            Ok(wanted) => {
                assert_eq!((settings, complaints), (wanted, Vec::new()), "{annotation:?}")
            }
            Err(part) => assert!(complaints[0].contains(part), "{annotation:?}: {complaints:?}"),
        }
    }

    #[test]
    fn annotations_mean_what_they_do_elsewhere() {
        let default = Settings::default;
        check(("proxy-body-size", "8m"), Ok(Settings { body_size: 8 << 20, ..default() }));
        check(("proxy-body-size", "2K"), Ok(Settings { body_size: 2 << 10, ..default() }));
        check(("proxy-body-size", "0"), Ok(Settings { body_size: 0, ..default() }));
        check(("proxy-body-size", "8 m"), Err("a size such as"));
        check(("proxy-body-size", "99999999999g"), Err("a size such as"));
        check(("proxy-read-timeout", "3600"), Ok(Settings { read_timeout: 3600, ..default() }));
        check(("proxy-send-timeout", "5s"), Ok(Settings { send_timeout: 5, ..default() }));
        check(("proxy-connect-timeout", "0"), Err("seconds, from 1"));
        check(("ssl-redirect", "false"), Ok(Settings { ssl_redirect: false, ..default() }));
        check(("ssl-redirect", "no"), Err("true or false"));
        check(
            ("backend-protocol", "GRPC"),
            Ok(Settings { protocol: Some(Protocol::H2c), ..default() }),
        );
        check(
            ("backend-protocol", "HTTPS"),
            Ok(Settings { protocol: Some(Protocol::Https), ..default() }),
        );
        check(("backend-protocol", "FCGI"), Err("HTTP, HTTPS, GRPC or GRPCS"));
        check(
            ("rewrite-target", "/x"),
            Ok(Settings { rewrite_target: Some("/x".into()), ..default() }),
        );
        check(("rewrite-target", "/$2"), Err("without groups"));
        check(("use-regex", "true"), Err("is not supported"));
        let guard =
            BTreeMap::from([(format!("{PREFIX}whitelist-source-range"), "10.0.0.0/8".to_owned())]);
        assert!(Settings::parse(&guard).0.refused.is_some());
        let other = BTreeMap::from([("example.com/auth-url".to_owned(), "x".to_owned())]);
        assert_eq!(Settings::parse(&other), (default(), Vec::new()));
    }
}
