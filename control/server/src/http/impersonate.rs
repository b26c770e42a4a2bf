//! `Impersonate-*` headers (`kubectl --as`): acting as somebody else, for those who may.

use coracle_api::{ApiError, Cluster};
use http::HeaderMap;

use crate::auth::{AUTHENTICATED, Attributes, Auth, Identity};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Whom the caller wants to be: itself without such headers.
///
/// # Errors
/// 403 if it may not impersonate the user or one of the groups; 400 for groups without a user.
pub(super) fn impersonated(
    auth: &Auth,
    cluster: &Cluster,
    caller: Identity,
    headers: &HeaderMap,
) -> Result<Identity, ApiError> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
    };
    let mut groups = texts(GROUP);
    let Some(user) = texts(USER).into_iter().next().filter(|user| !user.is_empty()) else {
        let others = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        return match others {
            true => Err(ApiError::bad_request(
                "requested groups, UID or extra without impersonating a user: set Impersonate-User",
            )),
            false => Ok(caller),
        };
    };
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: String::new(),
        };
        auth.authorize(cluster, &caller, &attributes)
    };
    match user.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => {
            may("", "serviceaccounts", "", namespace, name)?;
            if groups.is_empty() {
                groups = vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
            }
        }
        None => may("", "users", "", "", &user)?,
    }
    for group in texts(GROUP) {
        may("", "groups", "", "", &group)?;
    }
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    let mut identity = Identity { user, uid, groups, ..Identity::default() };
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            // Keys may have what headers may not, percent-encoded.
            let key = percent_decoded(key);
            may("authentication.k8s.io", "userextras", &key, "", value)?;
            identity.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if identity.user == ANONYMOUS && !identity.groups.iter().any(|g| g == UNAUTHENTICATED) {
        identity.groups.push(UNAUTHENTICATED.into());
    }
    if identity.user != ANONYMOUS && !identity.groups.iter().any(|g| g == AUTHENTICATED) {
        identity.groups.push(AUTHENTICATED.into());
    }
    Ok(identity)
}

/// `%2F` as `/`; what is not so encoded stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
