//! The errors that clients see: field errors from validation, and the one error that becomes a `Status`.
//!
//! Texts and reasons follow `k8s.io/apimachinery/pkg/api/errors` and `…/util/validation/field`, because clients match on
//! them. Domain code returns these; only the server's `http` turns them into a response.

use std::fmt;

use serde_json::{Value, json};

use crate::kinds::Kind;

/// One thing wrong with one field (`field.Error` upstream).
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub problem: FieldProblem,
    /// Path, such as `spec.containers[0].image`.
    pub path: String,
    /// The text after the problem's own words.
    pub detail: String,
}

/// The kinds of field errors, with the value where upstream prints it.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldProblem {
    /// `Required value`.
    Required,
    /// `Invalid value: …`.
    Invalid(Value),
    /// `Invalid value`, where the value would not help.
    InvalidAsSuch,
    /// `Invalid value: …`, of a value of another type.
    TypeInvalid(Value),
    /// `Unsupported value: …: supported values: …`.
    NotSupported(Value),
    /// `Duplicate value: …`.
    Duplicate(Value),
    /// `Forbidden`.
    Forbidden,
    /// `Too long`.
    TooLong,
    /// `Too many: …`.
    TooMany(usize),
    /// `Not found: …`.
    NotFound(Value),
    /// `Internal error`.
    Internal,
}

impl FieldError {
    /// A required field is missing.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { problem: FieldProblem::Required, path: path.into(), detail: detail.into() }
    }

    /// A value is not allowed.
    pub fn invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            problem: FieldProblem::Invalid(value.into()),
            path: path.into(),
            detail: detail.into(),
        }
    }

    /// A combination of values is not allowed.
    pub fn invalid_as_such(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { problem: FieldProblem::InvalidAsSuch, path: path.into(), detail: detail.into() }
    }

    /// A value is none of an enumeration.
    pub fn not_supported(
        path: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let list: Vec<_> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        Self {
            problem: FieldProblem::NotSupported(value.into()),
            path: path.into(),
            detail: format!("supported values: {}", list.join(", ")),
        }
    }

    /// A value occurs twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            problem: FieldProblem::Duplicate(value.into()),
            path: path.into(),
            detail: String::new(),
        }
    }

    /// A field may not be set, or not changed.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { problem: FieldProblem::Forbidden, path: path.into(), detail: detail.into() }
    }

    /// The field may not change: upstream's `field is immutable`.
    pub fn immutable(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::invalid(path, value, "field is immutable")
    }

    /// The problem and detail without the path: the `message` of a status cause.
    pub fn body(&self) -> String {
        let head = match &self.problem {
            FieldProblem::Required => "Required value".to_owned(),
            FieldProblem::Invalid(v) | FieldProblem::TypeInvalid(v) => {
                format!("Invalid value: {v}")
            }
            FieldProblem::InvalidAsSuch => "Invalid value".to_owned(),
            FieldProblem::NotSupported(v) => format!("Unsupported value: {v}"),
            FieldProblem::Duplicate(v) => format!("Duplicate value: {v}"),
            FieldProblem::Forbidden => "Forbidden".to_owned(),
            FieldProblem::TooLong => "Too long".to_owned(),
            FieldProblem::TooMany(n) => format!("Too many: {n}"),
            FieldProblem::NotFound(v) => format!("Not found: {v}"),
            FieldProblem::Internal => "Internal error".to_owned(),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }

    /// The cause's `reason` in a `Status`.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            FieldProblem::Required => "FieldValueRequired",
            FieldProblem::Invalid(_) | FieldProblem::InvalidAsSuch => "FieldValueInvalid",
            FieldProblem::TypeInvalid(_) => "FieldValueTypeInvalid",
            FieldProblem::NotSupported(_) => "FieldValueNotSupported",
            FieldProblem::Duplicate(_) => "FieldValueDuplicate",
            FieldProblem::Forbidden => "FieldValueForbidden",
            FieldProblem::TooLong => "FieldValueTooLong",
            FieldProblem::TooMany(_) => "FieldValueTooMany",
            FieldProblem::NotFound(_) => "FieldValueNotFound",
            FieldProblem::Internal => "InternalError",
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// An answer other than success. [`ApiError::status`] is the `metav1.Status` that goes out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`; empty where upstream has none.
    pub reason: &'static str,
    /// For people, and matched by clients.
    pub message: String,
    /// `details.{name,group,kind,uid}`, where known.
    pub details: Option<Box<Details>>,
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind, or resource, as upstream fills it.
    pub kind: String,
    /// Single causes: reason, message, field.
    pub causes: Vec<(String, String, String)>,
    /// Try again after so many seconds.
    pub retry_after_seconds: Option<u32>,
    /// For a list that cannot go on as it began: the token with which it can go on all the same.
    pub go_on_with: String,
}

impl ApiError {
    /// An error with neither object nor causes.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            ..Details::default()
        }));
        self
    }

    /// `pods "x" not found`.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.resource))
            .about(kind, name)
    }

    /// `pods "x" already exists`.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.resource))
            .about(kind, name)
    }

    /// `Operation cannot be fulfilled on pods "x": …`.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource),
        )
        .about(kind, name)
    }

    /// The object moved on since it was read: upstream's text for optimistic locking.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with a cause per field error.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_as((kind.group, kind.kind), name, errors)
    }

    /// The same of what is no kind of the table, by group and kind, such as `ListOptions` of `meta.k8s.io`.
    pub fn invalid_as((group, kind): (&str, &str), name: &str, errors: &[FieldError]) -> Self {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut error =
            Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {text}"));
        error.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: errors
                .iter()
                .map(|e| (e.reason().to_owned(), e.body(), e.path.clone()))
                .collect(),
            ..Details::default()
        }));
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403 about an object: `pods "x" is forbidden: why`.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let object = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{}{object} is forbidden: {why}", kind.resource))
            .about(kind, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 410: a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 405.
    pub fn method_not_supported(kind: &Kind, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind \"{}\"", kind.resource),
        )
        .about(kind, "")
    }

    /// 500.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
    }

    /// 503 with a hint when to try again.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", why)
    }

    /// The `metav1.Status` to answer with.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if self.reason.is_empty()
            && let Some(map) = status.as_object_mut()
        {
            map.remove("reason");
        }
        if let Some(details) = &self.details {
            let mut out = serde_json::Map::new();
            if !details.go_on_with.is_empty() {
                status["metadata"]["continue"] = details.go_on_with.as_str().into();
            }
            for (field, value) in
                [("name", &details.name), ("group", &details.group), ("kind", &details.kind)]
            {
                if !value.is_empty() {
                    out.insert(field.into(), value.as_str().into());
                }
            }
            if !details.causes.is_empty() {
                let causes: Vec<Value> = details
                    .causes
                    .iter()
                    .map(|(reason, message, field)| json!({"reason": reason, "message": message, "field": field}))
                    .collect();
                out.insert("causes".into(), causes.into());
            }
            if let Some(seconds) = details.retry_after_seconds {
                out.insert("retryAfterSeconds".into(), seconds.into());
            }
            if !out.is_empty() {
                status["details"] = out.into();
            }
        }
        status
    }
}
