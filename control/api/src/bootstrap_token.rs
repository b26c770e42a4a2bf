//! Tokens with which machines join, as Kubernetes' bootstrap tokens: short-lived, several at once, each a Secret
//! `bootstrap-token-ID` in `kube-system`.
//!
//! The Secret has fields of upstream's names but no `token-secret`: whoever may read Secrets there, or a copy of the store,
//! could join machines with it. It has a hash instead, and so a type of its own, since upstream's type asks for the secret.
//! The secret is 128 random bits, which no table holds; a plain hash is as good as a slow one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::Json;
use crate::kinds::SECRET;
use crate::object::Object;

/// Type of the Secrets.
pub const SECRET_TYPE: &str = "coracle.dev/bootstrap-token";
/// Namespace of the Secrets.
pub const NAMESPACE: &str = "kube-system";
/// What their names begin with.
const PREFIX: &str = "bootstrap-token-";
/// What a whole token begins with: the form, so that other forms are told apart.
const FORM: &str = "coracle2";

/// A token as people hand it on: `coracle2.<SHA-256 of the CA's certificate>.<id>.<secret>`.
#[derive(Clone)]
pub struct JoinToken {
    /// SHA-256 of the cluster's CA certificate, in hexadecimal.
    pub ca_hash: String,
    /// Its public part, six of `a-z0-9`.
    pub id: String,
    /// Its secret part, 32 hexadecimal digits.
    pub secret: String,
}

/// Not a token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// Something else.
    #[error("this is no join token; on the server, `coracle token create` prints one")]
    Other,
    /// The lasting kind that servers once had.
    #[error(
        "this join token is of a kind that servers no longer take; on the server, `coracle token create` prints a new one"
    )]
    Lasting,
}

impl JoinToken {
    /// Reads a token.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        match parts.as_slice() {
            [FORM, ca_hash, id, secret]
                if ca_hash.len() == 64 && is_id(id) && secret.len() == 32 =>
            {
                let [ca_hash, id, secret] = [ca_hash, id, secret].map(|part| (*part).to_owned());
                Ok(Self { ca_hash, id, secret })
            }
            ["coracle1", ..] => Err(NoToken::Lasting),
            _ => Err(NoToken::Other),
        }
    }

    /// The whole token.
    pub fn text(&self) -> String {
        format!("{FORM}.{}.{}", self.ca_hash, self.bearer())
    }

    /// What authenticates: `<id>.<secret>`, as upstream's.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// ID and secret of a bearer token that is of this kind (ServiceAccounts' have two dots).
pub fn of_bearer(bearer: &str) -> Option<(&str, &str)> {
    bearer.split_once('.').filter(|(id, secret)| is_id(id) && !secret.contains('.'))
}

/// Whether it can be a token's ID.
pub fn is_id(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Name of a token's Secret.
pub fn secret_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// ID of the token of a Secret of that name.
pub fn id_of(secret_name: &str) -> Option<&str> {
    secret_name.strip_prefix(PREFIX)
}

/// A token as the cluster keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its public part.
    pub id: String,
    /// SHA-256 of `<id>.<secret>`, in hexadecimal.
    pub hash: String,
    /// When it ends.
    pub expires: Timestamp,
    /// What it is for, as its maker said; may be empty.
    pub description: String,
}

impl Stored {
    /// The token of a Secret; none if it holds none.
    pub fn of(secret: &Object) -> Option<Self> {
        let id = id_of(&secret.meta.name)?;
        if secret.kind.resource != SECRET.resource || secret.meta.namespace != NAMESPACE {
            return None;
        }
        Self::read(id, &secret.value())
    }

    /// The same of the Secret of this token, as a client has it.
    pub fn read(id: &str, secret: &Value) -> Option<Self> {
        let field = |name: &str| {
            let bytes = STANDARD.decode(secret.text(&["data", name])).ok()?;
            String::from_utf8(bytes).ok()
        };
        (secret.text(&["type"]) == SECRET_TYPE).then_some(())?;
        Some(Self {
            id: id.to_owned(),
            hash: field("token-hash")?,
            expires: field("expiration")?.parse().ok()?,
            description: field("description").unwrap_or_default(),
        })
    }

    /// The Secret of it.
    pub fn secret(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret_name(&self.id), "namespace": NAMESPACE},
            "type": SECRET_TYPE,
            "immutable": true,
            "stringData": {
                "token-id": self.id,
                "token-hash": self.hash,
                "expiration": self.expires.to_string(),
                "description": self.description,
                "usage-bootstrap-authentication": "true",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_from_what_is_none() {
        let hash = "0123456789abcdef".repeat(4);
        let whole = format!("coracle2.{hash}.abc123.{}", "0f".repeat(16));
        let token = JoinToken::parse(&format!(" {whole}\n")).unwrap();
        assert_eq!((token.text(), token.id.as_str()), (whole.clone(), "abc123"));
        assert_eq!(of_bearer(&token.bearer()), Some(("abc123", token.secret.as_str())));
        for (text, error) in [
            ("", NoToken::Other),
            ("coracle1.0123.abc", NoToken::Lasting),
            (&whole[..whole.len() - 1], NoToken::Other),
            (&whole.replace("abc123", "ABC123"), NoToken::Other),
            (&format!("{whole}.x"), NoToken::Other),
        ] {
            assert_eq!(JoinToken::parse(text).err(), Some(error), "{text}");
        }
        for bearer in ["a.b", "header.payload.signature", "abc123", "abc123.a.b"] {
            assert_eq!(of_bearer(bearer), None, "{bearer}");
        }
    }

    #[test]
    fn secrets_hold_what_was_put_there() {
        let token = Stored {
            id: "abc123".into(),
            hash: "00ff".into(),
            expires: "2030-01-01T00:00:00Z".parse().unwrap(),
            description: "rack 7".into(),
        };
        let mut secret = token.secret();
        (SECRET.default)(&mut secret);
        let object = |value: &Value| Object::from_value(&SECRET, value).unwrap();
        assert_eq!(Stored::of(&object(&secret)), Some(token.clone()));
        for (pointer, value) in [
            ("/type", json!("Opaque")),
            ("/metadata/namespace", json!("default")),
            ("/metadata/name", json!("abc123")),
            ("/data/expiration", json!(STANDARD.encode("soon"))),
        ] {
            let mut other = secret.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_eq!(Stored::of(&object(&other)), None, "{pointer}");
        }
    }
}
