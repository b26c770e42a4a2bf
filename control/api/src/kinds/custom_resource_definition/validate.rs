//! Checks of definitions (`apiextensions-apiserver/pkg/apis/apiextensions/validation`).
//!
//! Upstream checks an older form of the type, in which what all versions have in common stands in `spec.validation`,
//! `spec.subresources` and so on; errors name these places.

use std::collections::HashSet;

use serde_json::Value;

use super::schema;
use crate::custom::JsonPath;
use crate::json::Json;
use crate::names;
use crate::status::{FieldError, FieldProblem};

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", ""];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Field selectors of one version.
const MOST_SELECTABLE: usize = 8;
/// Bytes of a deprecation's text.
const LONGEST_WARNING: usize = 256;

/// Checks a whole definition.
pub(super) fn validate(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let none = Value::Null;
    let spec = definition.at(&["spec"]).unwrap_or(&none);
    let (group, plural) = (spec.text(&["group"]), spec.text(&["names", "plural"]));
    let name = definition.text(&["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(problem) = names::subdomain(group) {
        errors.push(FieldError::invalid("spec.group", group, problem));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", group, why));
    }
    one_of("spec.scope", spec.text(&["scope"]), &["Cluster", "Namespaced"], &mut errors);
    if spec.flag(&["preserveUnknownFields"]) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                   spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    versions(spec, &mut errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        if spec.text(&["names", field]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    accepted_names(spec.at(&["names"]), "spec.names", &mut errors);
    conversion(spec.at(&["conversion"]), &mut errors);
    accepted_names(definition.at(&["status", "acceptedNames"]), "status.acceptedNames", &mut errors);
    stored_versions(definition, &mut errors);
    approval(definition, group, &mut errors);
    errors
}

/// Checks a changed definition.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let conditions = old.list(&["status", "conditions"]).iter();
    let established = conditions
        .filter(|c| c.text(&["type"]) == "Established")
        .any(|c| c.text(&["status"]) == "True");
    let mut fixed: Vec<&[&str]> = vec![&["spec", "group"], &["spec", "names", "plural"]];
    if established {
        fixed.splice(0..0, [&["spec", "scope"][..], &["spec", "names", "kind"]]);
    }
    for path in fixed {
        if new.text(path) != old.text(path) {
            errors.push(FieldError::immutable(path.join("."), new.text(path)));
        }
    }
    errors
}

fn one_of(path: &str, value: &str, all: &[&str], errors: &mut Vec<FieldError>) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !all.contains(&value) {
        errors.push(FieldError::not_supported(path, value, all));
    }
}

fn versions(spec: &Value, errors: &mut Vec<FieldError>) {
    let versions = spec.list(&["versions"]);
    let mut names_seen = HashSet::new();
    let mut unique = true;
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = version.text(&["name"]);
        unique &= names_seen.insert(name);
        if !version.has(&["schema", "openAPIV3Schema"]) {
            let at = format!("{at}.schema.openAPIV3Schema");
            errors.push(FieldError::required(at, "schemas are required"));
        }
        if let Some(problem) = names::label_1035(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, problem));
        }
        warning(version, &at, errors);
    }
    // What all have in common is told of once.
    each(versions, "schema", "validation", |schema, version, at| {
        let status = version.has(&["subresources", "status"]);
        if let Some(schema) = schema.at(&["openAPIV3Schema"]) {
            schema::validate(schema, &format!("{at}.openAPIV3Schema"), status, errors);
        }
    });
    each(versions, "subresources", "subresources", |subresources, _, at| {
        if let Some(scale) = subresources.at(&["scale"]) {
            scale_paths(scale, &format!("{at}.scale"), errors);
        }
    });
    each(versions, "additionalPrinterColumns", "additionalPrinterColumns", |columns, _, at| {
        for (i, column) in columns.list(&[]).iter().enumerate() {
            printer_column(column, &format!("{at}[{i}]"), errors);
        }
    });
    each(versions, "selectableFields", "selectableFields", |fields, version, at| {
        let schema = version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&Value::Null);
        selectable(fields.list(&[]), schema, at, errors);
    });
    if !unique {
        let why = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", versions.to_vec(), why));
    }
    if versions.iter().filter(|version| version.flag(&["storage"])).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", versions.to_vec(), why));
    }
}

/// Calls back with a field of every version, or once, under another name, where all are alike.
fn each(
    versions: &[Value],
    field: &str,
    common: &str,
    mut check: impl FnMut(&Value, &Value, &str),
) {
    let Some(first) = versions.first() else { return };
    let alike = versions.iter().all(|v| v.get(field) == first.get(field));
    if alike {
        if let Some(value) = first.at(&[field]) {
            check(value, first, &format!("spec.{common}"));
        }
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if let Some(value) = version.at(&[field]) {
            check(value, version, &format!("spec.versions[{i}].{field}"));
        }
    }
}

fn warning(version: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = version.at(&["deprecationWarning"]).and_then(Value::as_str) else { return };
    let at = format!("{at}.deprecationWarning");
    let mut wrong = |why: String| errors.push(FieldError::invalid(at.as_str(), text, why));
    if !version.flag(&["deprecated"]) {
        return wrong("can only be set for deprecated versions".to_owned());
    }
    if text.len() > LONGEST_WARNING {
        wrong(format!("must be <= {LONGEST_WARNING} characters long"));
    }
    if text.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

/// Paths of plain fields.
fn simple_path(text: &str, at: &str) -> Option<FieldError> {
    (!text.starts_with('.')).then(|| {
        FieldError::invalid(at, text, "must be a simple json path starting with .")
    })
}

fn scale_paths(scale: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (field, under, told) in [
        ("specReplicasPath", &[".spec."][..], ".spec"),
        ("statusReplicasPath", &[".status."], ".status"),
        ("labelSelectorPath", &[".spec.", ".status."], "either .spec or .status"),
    ] {
        let (text, at) = (scale.text(&[field]), format!("{at}.{field}"));
        if text.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(FieldError::required(at, ""));
            }
        } else if let Some(error) = simple_path(text, &at) {
            errors.push(error);
        } else if !under.iter().any(|prefix| text.starts_with(prefix)) {
            let why = format!("should be a json path under {told}");
            errors.push(FieldError::invalid(at, text, why));
        } else if JsonPath::parse(text).ok().is_none_or(|path| path.fields().is_none()) {
            let why = "must be a json path in the dot notation";
            errors.push(FieldError::invalid(at, text, why));
        }
    }
}

fn printer_column(column: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if column.text(&["name"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let (ty, why) = (column.text(&["type"]), format!("must be one of {}", COLUMN_TYPES.join(",")));
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), why));
    } else if !COLUMN_TYPES.contains(&ty) {
        errors.push(FieldError::invalid(format!("{at}.type"), ty, why));
    }
    let format = column.text(&["format"]);
    if !COLUMN_FORMATS.contains(&format) {
        let all = COLUMN_FORMATS[..COLUMN_FORMATS.len() - 1].join(",");
        let why = format!("must be one of {all}");
        errors.push(FieldError::invalid(format!("{at}.format"), format, why));
    }
    let (path, at) = (column.text(&["jsonPath"]), format!("{at}.JSONPath"));
    if path.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if let Some(error) = simple_path(path, &at) {
        errors.push(error);
    } else if let Err(why) = JsonPath::parse(path) {
        errors.push(FieldError::invalid(at, path, why));
    }
}

fn selectable(fields: &[Value], schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (text, here) = (field.text(&["jsonPath"]), format!("{at}[{i}].jsonPath"));
        if text.is_empty() {
            errors.push(FieldError::required(here, ""));
            continue;
        }
        let path = JsonPath::parse(text).ok().filter(|_| text.starts_with('.'));
        let fields = path.as_ref().and_then(JsonPath::fields);
        let mut found = Some(schema);
        for name in fields.iter().flatten() {
            found = found.and_then(|schema| schema.at(&["properties", name]));
        }
        let Some((names, found)) = fields.zip(found) else {
            let why = "is an invalid path: does not refer to a valid field";
            errors.push(FieldError::invalid(here, text, why));
            continue;
        };
        if names.first() == Some(&"metadata") {
            let why = "must not point to fields in metadata";
            errors.push(FieldError::invalid(here.as_str(), text, why));
        }
        if !matches!(found.text(&["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.push(FieldError::invalid(here.as_str(), text, why));
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(here, text));
        }
    }
    if seen.len() > MOST_SELECTABLE {
        errors.push(FieldError {
            problem: FieldProblem::TooMany(seen.len()),
            path: at.to_owned(),
            detail: format!("must have at most {MOST_SELECTABLE} items"),
        });
    }
}

fn accepted_names(given: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    let Some(given) = given else { return };
    for field in ["plural", "singular", "kind", "listKind"] {
        let text = given.text(&[field]);
        let mixed = matches!(field, "kind" | "listKind");
        let lower = if mixed { text.to_lowercase() } else { text.to_owned() };
        if !text.is_empty()
            && let Some(problem) = names::label_1035(&lower)
        {
            let why = match mixed {
                true => format!("may have mixed case, but should otherwise match: {problem}"),
                false => problem,
            };
            errors.push(FieldError::invalid(format!("{at}.{field}"), text, why));
        }
    }
    let kind = given.text(&["kind"]);
    for (field, list) in ["shortNames", "categories"].map(|field| (field, given.list(&[field]))) {
        if field == "categories" && !kind.is_empty() && kind == given.text(&["listKind"]) {
            let why = "kind and listKind may not be the same";
            errors.push(FieldError::invalid(format!("{at}.listKind"), kind, why));
        }
        for (i, name) in list.iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            if let Some(problem) = names::label_1035(name) {
                errors.push(FieldError::invalid(format!("{at}.{field}[{i}]"), name, problem));
            }
        }
    }
}

fn conversion(conversion: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(conversion) = conversion else { return };
    let strategy = conversion.text(&["strategy"]);
    one_of("spec.conversion.strategy", strategy, &["None", "Webhook"], errors);
    let client = "spec.conversion.webhookClientConfig";
    let reviews_at = "spec.conversion.conversionReviewVersions";
    let reviews = conversion.list(&["webhook", "conversionReviewVersions"]);
    let config = conversion.at(&["webhook", "clientConfig"]);
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.push(FieldError::forbidden(client, why));
        }
        if !reviews.is_empty() {
            errors.push(FieldError::forbidden(reviews_at, why));
        }
        return;
    }
    match config {
        None => {
            errors.push(FieldError::required(client, "required when strategy is set to Webhook"));
        }
        Some(config) => match (config.at(&["url"]).and_then(Value::as_str), config.at(&["service"])) {
            (Some(url), None) => webhook_url(url, &format!("{client}.url"), errors),
            (None, Some(service)) => webhook_service(service, &format!("{client}.service"), errors),
            _ => {
                let why = "exactly one of url or service is required";
                errors.push(FieldError::required(client, why));
            }
        },
    }
    if reviews.is_empty() {
        errors.push(FieldError::required(reviews_at, ""));
        return;
    }
    for (i, version) in reviews.iter().enumerate() {
        let text = version.as_str().unwrap_or_default();
        let at = format!("{reviews_at}[{i}]");
        if reviews[..i].contains(version) {
            errors.push(FieldError::invalid(at, text, "duplicate version"));
        } else if let Some(problem) = names::label_1035(text) {
            errors.push(FieldError::invalid(at, text, problem));
        }
    }
    if !reviews.iter().any(|v| v.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v))) {
        let why = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::invalid(reviews_at, reviews.to_vec(), why));
    }
}

fn webhook_url(url: &str, at: &str, errors: &mut Vec<FieldError>) {
    let form = "; desired format: https://host[/path]";
    let mut wrong = |value: &str, why: String| errors.push(FieldError::invalid(at, value, why));
    let Some((scheme, rest)) = url.split_once("://") else {
        let why = format!("url must be a valid URL: {url} has no scheme{form}");
        return wrong(url, why);
    };
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{form}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        wrong("", format!("host must be specified{form}"));
    }
    if let Some((user, _)) = host.split_once('@') {
        wrong(user, "user information is not permitted in the URL".to_owned());
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        wrong(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if let Some((_, query)) = rest.split_once('?') {
        wrong(query, "query parameters are not permitted in the URL".to_owned());
    }
}

fn webhook_service(service: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (field, why) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if service.text(&[field]).is_empty() {
            errors.push(FieldError::required(format!("{at}.{field}"), why));
        }
    }
    let port = service.int(&["port"]).unwrap_or(443);
    if let Some(problem) = names::port_number(port) {
        let why = format!("port is not valid: {problem}");
        errors.push(FieldError::invalid(format!("{at}.port"), port, why));
    }
    let path = service.text(&["path"]);
    if !path.is_empty() && !path.starts_with('/') {
        errors.push(FieldError::invalid(format!("{at}.path"), path, "must start with a '/'"));
    }
}

fn stored_versions(definition: &Value, errors: &mut Vec<FieldError>) {
    let at = "status.storedVersions";
    let stored = definition.list(&["status", "storedVersions"]);
    if stored.is_empty() {
        let why = "must have at least one stored version";
        errors.push(FieldError::invalid(at, stored.to_vec(), why));
        return;
    }
    let versions = definition.list(&["spec", "versions"]);
    for version in versions.iter().filter(|version| version.flag(&["storage"])) {
        let name = version.text(&["name"]);
        if !stored.iter().any(|known| known == name) {
            let why = format!("must have the storage version {name}");
            errors.push(FieldError::invalid(at, stored.to_vec(), why));
        }
    }
    for (i, known) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.get("name") == Some(known)) {
            let name = known.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{at}[{i}]"), name, why));
        }
    }
}

/// Groups of the Kubernetes community need its approval.
fn approval(definition: &Value, group: &str, errors: &mut Vec<FieldError>) {
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group == *own || group.ends_with(&format!(".{own}")));
    if !protected {
        return;
    }
    let at = format!("metadata.annotations[{APPROVAL}]");
    let value = definition.text(&["metadata", "annotations", APPROVAL]);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if value.is_empty() {
        let why = format!("protected groups must have approval annotation \"{APPROVAL}\", {see}");
        errors.push(FieldError::required(at, why));
    } else if !value.starts_with("unapproved")
        && value.split_once("://").is_none_or(|(scheme, host)| scheme.is_empty() || host.is_empty())
    {
        let why = format!(
            "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \
             \"unapproved\", {see}"
        );
        errors.push(FieldError::invalid(at, value, why));
    }
}
