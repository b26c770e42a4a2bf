//! Where others learn to verify ServiceAccounts' tokens: OpenID Connect discovery of their issuer, and its key.
//!
//! A role (`system:service-account-issuer-discovery`) says who may read this; in a new cluster, all ServiceAccounts.

use axum::response::Response;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use serde_json::json;

use super::App;
use super::answer::bytes_response;
use crate::auth::tokens::ISSUER;

/// The issuer is the API server's name in the cluster, and so is where its keys are.
pub(super) fn discovery() -> Response {
    let document = json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    lasting("application/json", &document)
}

pub(super) fn keys(app: &App) -> Response {
    lasting("application/jwk-set+json", &json!({"keys": [app.auth.token_key()]}))
}

fn lasting(media: &'static str, document: &serde_json::Value) -> Response {
    let mut answer = bytes_response(200, media, document.to_string().into());
    let hour = HeaderValue::from_static("public, max-age=3600");
    answer.headers_mut().insert(CACHE_CONTROL, hour);
    answer
}
