//! How this server tells another who makes a request: by `X-Remote-*` headers, which the other believes because of the
//! certificate that this one shows (upstream's authenticating proxy), and how it learns which certificate that is: from the
//! ConfigMap `kube-system/extension-apiserver-authentication`.

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::auth::{Identity, Pki, PkiError};

/// The name in the certificate.
pub(crate) const NAME: &str = "front-proxy-client";
const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// The certificate that this server shows others, with its key.
pub(crate) struct Identification {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identification {
    pub(crate) fn of(pki: &Pki) -> Result<Self, PkiError> {
        let (chain, key) = pki.front_proxy()?;
        Ok(Self { chain, key })
    }
}

/// The `data` of the ConfigMap.
pub(crate) fn authentication(pki: &Pki) -> Result<Value, PkiError> {
    Ok(json!({
        "client-ca-file": pki.ca_pem(),
        "requestheader-allowed-names": format!("[\"{NAME}\"]"),
        "requestheader-client-ca-file": pki.front_proxy_ca()?,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    }))
}

/// The headers that say who makes a request.
///
/// # Errors
/// When a name cannot be written in a header.
pub(crate) fn identify(identity: &Identity) -> Result<HeaderMap, String> {
    let value = |text: &str| {
        let value = HeaderValue::from_bytes(text.as_bytes());
        value.map_err(|_| format!("{text:?} cannot be told in a header"))
    };
    let mut headers = HeaderMap::new();
    headers.insert(USER, value(&identity.user)?);
    if !identity.uid.is_empty() {
        headers.insert(UID, value(&identity.uid)?);
    }
    for group in &identity.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &identity.extra {
        let name = format!("{EXTRA}{}", escaped(key));
        let name = HeaderName::try_from(name)
            .map_err(|_| format!("{key:?} cannot be told in a header's name"))?;
        for text in values {
            headers.append(&name, value(text)?);
        }
    }
    Ok(headers)
}

/// A key as it may be in a header's name: what may not is percent-encoded, as upstream has it.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_in_headers() {
        let identity = Identity {
            user: "jürgen".into(),
            uid: "7".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/scopes".to_owned(), vec!["x".into(), "y".into()])].into(),
        };
        let headers = identify(&identity).expect("it can be told");
        let all = |name: &str| -> Vec<&[u8]> {
            headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
        };
        assert_eq!(all("x-remote-user"), ["jürgen".as_bytes()]);
        assert_eq!(all("x-remote-uid"), [b"7"]);
        assert_eq!(all("x-remote-group"), [b"a", b"b"]);
        assert_eq!(all("x-remote-extra-example.com%2fscopes"), [b"x", b"y"]);
        let identity = Identity { user: "a\r\nX-Remote-Group: b".into(), ..Identity::default() };
        assert!(identify(&identity).is_err());
    }
}
