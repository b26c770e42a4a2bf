//! Refusals.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of thing went wrong; decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemCode {
    /// No file at the image's path.
    ImageNotFound,
    /// The image is not a Wasm component.
    NotAComponent,
    /// The component exports nothing that the host can serve or run.
    MissingExport,
    /// The component imports something that the host does not offer.
    UnknownImport,
    /// There is no compiled code for this host's engine: compile the image, then ask again.
    NotCompiled,
    /// A field of the request cannot be honoured.
    InvalidSpec,
    /// No such sandbox or container.
    NotFound,
    /// It exists already and differs.
    Conflict,
    /// An address to serve on is taken.
    AddressInUse,
    /// The host is full; try again later.
    NoCapacity,
    /// The container's program could not be started: `message` says why, in the words of OCI runtimes.
    StartFailed,
    /// The host failed.
    Internal,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    /// The HTTP status under which it travels.
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            ProblemCode::ImageNotFound | ProblemCode::NotFound => StatusCode::NOT_FOUND,
            ProblemCode::NotAComponent
            | ProblemCode::MissingExport
            | ProblemCode::UnknownImport
            | ProblemCode::NotCompiled => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemCode::InvalidSpec => StatusCode::BAD_REQUEST,
            ProblemCode::Conflict | ProblemCode::AddressInUse => StatusCode::CONFLICT,
            ProblemCode::NoCapacity => StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::Internal | ProblemCode::StartFailed | ProblemCode::Unknown => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// A refusal: the JSON body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// What, where and what to do, for people.
    pub message: String,
    /// With [`ProblemCode::NotCompiled`]: the class of guests to compile the image for; whichever fits where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// With [`ProblemCode::StartFailed`]: the exit code that shells give this, 126 (not executable) or 127 (not found).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), class: None, exit_code: None }
    }

    /// A memory limit that is less than what is in use: `what` is `pod`, or a container with its name.
    pub fn memory_in_use(what: &str, limit: u64, used: u64) -> Problem {
        let message =
            format!("attempting to set {what} memory limit ({limit}) below current usage ({used})");
        Problem::new(ProblemCode::Conflict, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Problem {}
