//! What a machine asks before it becomes a node, and a node when it returns: is this a cluster that it can be part of?

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use coracle_api::ApiError;
use serde_json::json;

use super::answer::{Failure, json_response};
use super::{App, query_of};

/// This program's version, which the agents' must fit.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Agents may be so many minor versions older, as upstream's.
const OLDER: u64 = 3;

/// GET `/coracle/v1/join?version=VERSION`: the CA, the network, and this server's version.
pub(super) async fn facts(State(app): State<App>, request: Request) -> Response {
    let query = query_of(request.uri());
    if let Some(why) = skew(query.get("version").unwrap_or_default(), VERSION) {
        return Failure(ApiError::bad_request(why)).into_response();
    }
    json_response(
        200,
        &json!({"ca": app.auth.pki().ca_pem(), "network": app.auth.network(), "version": VERSION}),
    )
}

/// What is wrong with an agent of that version, if anything; what is no version is nothing to compare.
fn skew(agent: &str, server: &str) -> Option<String> {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let (own, other) = (parse(agent)?, parse(server)?);
    if own > other {
        return Some(format!(
            "this machine's coracle {agent} is newer than the server's {server}: upgrade the server first"
        ));
    }
    let too_old = own.0 != other.0 || other.1 - own.1 > OLDER;
    too_old.then(|| {
        format!(
            "this machine's coracle {agent} is too old for the server's {server}, which works with agents at most {OLDER} minor versions older: upgrade it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::skew;

    #[test]
    fn versions_fit_or_it_is_said_what_to_upgrade() {
        for (agent, server, expected) in [
            ("0.5.1", "0.5.0", None),
            ("0.2.9", "0.5.0", None),
            ("", "0.5.0", None),
            ("0.6.0", "0.5.9", Some("upgrade the server first")),
            ("1.0.0", "0.5.0", Some("upgrade the server first")),
            ("0.1.9", "0.5.0", Some("upgrade it")),
            ("0.9.0", "1.0.0", Some("upgrade it")),
        ] {
            let said = skew(agent, server);
            assert_eq!(said.is_some(), expected.is_some(), "{agent} {server}");
            if let (Some(said), Some(part)) = (said, expected) {
                assert!(said.contains(part) && said.contains(agent) && said.contains(server));
            }
        }
    }
}
