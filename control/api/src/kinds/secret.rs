//! Secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::common::{AGE, NAME, fields, object_age, text};
use super::config_map::{immutable, keys_and_size};
use super::*;
use crate::json::{Json, default_text, object_or_new};
use crate::path::Path;

/// `secrets`.
pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    resource: "secrets",
    default,
    validate,
    validate_update: |new, old| {
        let mut errors = immutable(new, old, &["data"]);
        if new.text(&["type"]) != old.text(&["type"]) {
            errors.push(FieldError::immutable("type", new.text(&["type"])));
        }
        errors
    },
    columns: &[
        NAME,
        text("Type", "Facilitates programmatic handling of secret data."),
        text("Data", "How many keys there are."),
        AGE,
    ],
    cells: |object, now| {
        let secret = object.value();
        vec![
            object.meta.name.as_str().into(),
            secret.text(&["type"]).into(),
            secret.pairs(&["data"]).count().into(),
            object_age(object, now),
        ]
    },
    fields: fields!["type"],
    ..Kind::BASE
};

/// `stringData` is write-only: it ends up in `data`, over what is there.
fn default(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    default_text(secret, "type", "Opaque");
    if let Some(Value::Object(plain)) = secret.remove("stringData")
        && let Some(data) = object_or_new(secret, "data")
    {
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
    }
}

fn validate(secret: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    keys_and_size(secret, &[("data", true)], &mut errors);
    let at = Path::new("data");
    let value = |key: &str| secret.at(&["data", key]).and_then(Value::as_str);
    let mut required = |keys: &[&str]| {
        for key in keys {
            if value(key).is_none() {
                errors.push(FieldError::required(at.key(key), ""));
            }
        }
    };
    match secret.text(&["type"]) {
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(str::is_empty) => {
            errors.push(FieldError::required(at.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            errors.push(FieldError::required(at.key("username"), ""));
            errors.push(FieldError::required(at.key("password"), ""));
        }
        "kubernetes.io/dockerconfigjson" => json_key(secret, ".dockerconfigjson", &mut errors),
        "kubernetes.io/dockercfg" => json_key(secret, ".dockercfg", &mut errors),
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if secret.text(&["metadata", "annotations", account]).is_empty() {
                errors.push(FieldError::required(
                    Path::new("metadata.annotations").key(account),
                    "",
                ));
            }
        }
        _ => {}
    }
    errors
}

/// A key that must hold JSON. The value itself is not repeated in the error.
fn json_key(secret: &Value, key: &str, errors: &mut Vec<FieldError>) {
    let at = Path::new("data");
    match secret.at(&["data", key]).and_then(Value::as_str) {
        None => errors.push(FieldError::required(at.key(key), "")),
        Some(text) => {
            let problem = match STANDARD.decode(text) {
                Ok(bytes) => {
                    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).err().map(|e| e.to_string())
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                errors.push(FieldError::invalid(at.key(key), "<secret contents redacted>", problem));
            }
        }
    }
}
