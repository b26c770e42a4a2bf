//! Conversion by a webhook.

use coracle_api::ApiError;
use coracle_api::custom::Webhook;
use serde_json::Value;

use super::Served;
use crate::cache::Cache;

pub(super) async fn convert(
    _cache: &Cache,
    served: &Served,
    _webhook: &Webhook,
    _wanted: &str,
    _trees: &mut [&mut Value],
) -> Result<(), ApiError> {
    Err(ApiError::internal(format!("conversion webhook for {} failed", served.kind().resource)))
}
