//! Checks of `openAPIV3Schema`: that it is structural, that its defaults fit it, that it says nothing that is not supported
//! (`apiextensions-apiserver/pkg/apiserver/schema/validation.go`, `…/complete.go`, `…/defaulting/validation.go`).

use serde_json::Value;

use crate::custom::Structure;
use crate::custom::structure::compile_pattern;
use crate::json::Json;
use crate::status::FieldError;

/// What stands at the root beside a status that is written apart.
const AT_ROOT: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const AT_ROOT_TOLD: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
    MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
    XPreserveUnknownFields XValidations]";
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// What only the structure may say, below `allOf` and its like (and whether emptiness, falsity or absence is asked for).
const STRUCTURE_ONLY: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];
const UNSUPPORTED: [(&str, &str); 6] = [
    ("id", "id is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("$ref", "$ref is not supported"),
];

/// Checks the schema at `at`; `status` says whether the version has `/status`.
pub(super) fn validate(schema: &Value, at: &str, status: bool, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    if status {
        root(schema, at, errors);
    }
    if schema.flag(&["nullable"]) {
        let why = "nullable cannot be true at the root";
        errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
    }
    let mut structural = Vec::new();
    invariants(schema, Level::Root, at, &mut structural);
    completeness(schema, at, &mut structural);
    structural.sort_by_cached_key(ToString::to_string);
    if structural.is_empty() {
        defaults(schema, at, true, &mut structural);
    }
    errors.append(&mut structural);
    let whole = Whole { defaults: Ok(()), in_meta: false };
    supported(schema, at, true, whole, errors);
    if errors.len() == before
        && let Err(why) = Structure::compile(schema)
    {
        let at = at.trim_end_matches(".openAPIV3Schema");
        errors.push(FieldError::invalid(at, "", format!("error building validator: {why}")));
    }
}

fn given(schema: &Value, field: &str) -> bool {
    match schema.get(field) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        // `additionalProperties: {}` says something.
        Some(_) => true,
    }
}

fn root(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let ty = schema.text(&["type"]);
    if !ty.is_empty() && ty != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(format!("{at}.type"), ty, why));
        return;
    }
    let odd = schema.pairs(&[]).any(|(name, _)| given(schema, name) && !AT_ROOT.contains(&name));
    if odd {
        let why = format!(
            "only {AT_ROOT_TOLD} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.push(FieldError::invalid(at, schema.clone(), why));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What holds of every node of the structure.
fn invariants(schema: &Value, level: Level, at: &str, errors: &mut Vec<FieldError>) {
    let ty = schema.text(&["type"]);
    if ty == "array" && !schema.has(&["items"]) {
        errors.push(FieldError::required(format!("{at}.items"), "must be specified"));
    }
    if let Some(items @ Value::Object(_)) = schema.at(&["items"]) {
        invariants(items, Level::Item, &format!("{at}.items"), errors);
    }
    for (name, property) in schema.pairs(&["properties"]) {
        invariants(property, Level::Field, &format!("{at}.properties[{name}]"), errors);
    }
    if let Some(additional) = schema.at(&["additionalProperties"]) {
        let at = format!("{at}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(at.as_str(), "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at, errors);
        }
    }
    let flag = |name: &str| schema.flag(&[name]);
    let int_or_string = flag("x-kubernetes-int-or-string");
    let preserve = flag("x-kubernetes-preserve-unknown-fields");
    let embedded = flag("x-kubernetes-embedded-resource");
    for (name, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserve),
        ("x-kubernetes-embedded-resource", embedded),
    ] {
        if int_or_string && set {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(format!("{at}.{name}"), true, why));
        }
    }
    values(schema, is_int_or_string(schema), level, at, errors);

    let type_at = || format!("{at}.type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(type_at(), why),
            ty => FieldError::invalid(type_at(), ty, why),
        });
    } else if ty.is_empty() && !int_or_string && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(type_at(), why));
    }
    if embedded && schema.has(&["additionalProperties"]) {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(type_at(), ty, "must be object at the root"));
    }
    metadata(schema, level, embedded, at, errors);
    let bare = schema.map(&["properties"]).is_none_or(serde_json::Map::is_empty);
    if embedded && !preserve && bare {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{at}.properties"), why));
    }
}

/// What a definition may say of what all objects have.
fn metadata(
    schema: &Value,
    level: Level,
    embedded: bool,
    at: &str,
    errors: &mut Vec<FieldError>,
) {
    let is_object = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(property) = schema.at(&["properties", name])
            && is_object
            && property.text(&["type"]) != "string"
        {
            let at = format!("{at}.properties[{name}].type");
            errors.push(FieldError::invalid(at, property.text(&["type"]), "must be string"));
        }
    }
    let Some(metadata) = schema.at(&["properties", "metadata"]) else { return };
    let at = format!("{at}.properties[metadata]");
    if is_object && metadata.text(&["type"]) != "object" {
        let ty = metadata.text(&["type"]);
        errors.push(FieldError::invalid(format!("{at}.type"), ty, "must be object"));
    }
    let known = |name: &str| matches!(name, "name" | "generateName");
    let only_names = metadata.pairs(&["properties"]).all(|(name, _)| known(name));
    let only_properties = metadata
        .pairs(&[])
        .all(|(name, _)| !given(metadata, name) || matches!(name, "type" | "properties" | "default"));
    if level == Level::Root && !(only_names && only_properties) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(at, why));
    }
}

/// Which of the two forms in which integer-or-string may be written out is used, if one: the place that is passed over.
fn is_int_or_string(schema: &Value) -> Option<&'static str> {
    let both = |of: &Value| {
        let any = of.list(&["anyOf"]);
        let is = |one: &Value, ty: &str| {
            one.as_object().is_some_and(|map| map.len() == 1) && one.text(&["type"]) == ty
        };
        any.len() == 2 && is(&any[0], "integer") && is(&any[1], "string")
    };
    if both(schema) {
        return Some("anyOf");
    }
    schema.list(&["allOf"]).first().filter(|first| both(first)).map(|_| "allOf")
}

/// What checks values: the same below every junctor.
fn values(
    schema: &Value,
    skip: Option<&str>,
    level: Level,
    at: &str,
    errors: &mut Vec<FieldError>,
) {
    for junctor in ["anyOf", "allOf", "oneOf"] {
        if skip == Some(junctor) && junctor == "anyOf" {
            continue;
        }
        for (i, one) in schema.list(&[junctor]).iter().enumerate() {
            let skip = (skip == Some("allOf") && junctor == "allOf" && i == 0).then_some("anyOf");
            nested(one, skip, level, &format!("{at}.{junctor}[{i}]"), errors);
        }
    }
    if let Some(not) = schema.at(&["not"]) {
        nested(not, None, level, &format!("{at}.not"), errors);
    }
    let pattern = schema.text(&["pattern"]);
    if !pattern.is_empty()
        && let Err(why) = compile_pattern(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(format!("{at}.pattern"), pattern, why));
    }
}

fn nested(
    schema: &Value,
    skip: Option<&str>,
    level: Level,
    at: &str,
    errors: &mut Vec<FieldError>,
) {
    values(schema, skip, level, at, errors);
    if let Some(items) = schema.at(&["items"]) {
        nested(items, None, level, &format!("{at}.items"), errors);
    }
    for (name, property) in schema.pairs(&["properties"]) {
        nested(property, None, Level::Field, &format!("{at}.properties[{name}]"), errors);
    }
    for (name, why) in STRUCTURE_ONLY {
        if given(schema, name) {
            errors.push(FieldError::forbidden(format!("{at}.{name}"), why));
        }
    }
    for name in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if given(schema, name) {
            let why = "must be empty to be structural";
            errors.push(FieldError::forbidden(format!("{at}.{name}"), why));
        }
    }
    if schema.has(&["properties", "metadata"]) {
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{at}.properties[metadata]"), why));
    }
}

/// Every field that is checked somewhere is a field of the structure.
fn completeness(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    junctors(schema, Some(schema), at, at, errors);
    if let Some(items) = schema.at(&["items"]) {
        completeness(items, &format!("{at}.items"), errors);
    }
    for (name, property) in schema.pairs(&["properties"]) {
        completeness(property, &format!("{at}.properties[{name}]"), errors);
    }
    if let Some(additional) = schema.at(&["additionalProperties"]) {
        completeness(additional, &format!("{at}.additionalProperties"), errors);
    }
}

fn junctors(
    checks: &Value,
    structure: Option<&Value>,
    at: &str,
    checked_at: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(not) = checks.at(&["not"]) {
        complete(not, structure, at, &format!("{checked_at}.not"), errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (i, one) in checks.list(&[junctor]).iter().enumerate() {
            complete(one, structure, at, &format!("{checked_at}.{junctor}[{i}]"), errors);
        }
    }
}

fn complete(
    checks: &Value,
    structure: Option<&Value>,
    at: &str,
    checked_at: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(structure) = structure else {
        errors.push(FieldError::required(at, format!("because it is defined in {checked_at}")));
        return;
    };
    junctors(checks, Some(structure), at, checked_at, errors);
    if let Some(items) = checks.at(&["items"]) {
        let (at, checked_at) = (format!("{at}.items"), format!("{checked_at}.items"));
        complete(items, structure.at(&["items"]), &at, &checked_at, errors);
    }
    for (name, property) in checks.pairs(&["properties"]) {
        let part = format!("properties[{name}]");
        let (at, checked_at) = (format!("{at}.{part}"), format!("{checked_at}.{part}"));
        complete(property, structure.at(&["properties", name]), &at, &checked_at, errors);
    }
}

/// Defaults are values of what they stand in for.
fn defaults(schema: &Value, at: &str, is_object: bool, errors: &mut Vec<FieldError>) {
    let is_object = is_object || schema.flag(&["x-kubernetes-embedded-resource"]);
    if let Some(default) = schema.at(&["default"])
        && let Ok(structure) = Structure::compile(schema)
    {
        let at = format!("{at}.default");
        let mut pruned = default.clone();
        if !structure.prune_value(&mut pruned).is_empty() {
            let why = "must not have unknown fields";
            errors.push(FieldError::invalid(at.as_str(), default.clone(), why));
        }
        errors.extend(structure.validate(default, None).into_iter().map(|error| {
            let path = match error.path.as_str() {
                "<nil>" => at.clone(),
                path if path.starts_with('[') => format!("{at}{path}"),
                path => format!("{at}.{path}"),
            };
            FieldError { path, ..error }
        }));
    }
    if let Some(items @ Value::Object(_)) = schema.at(&["items"]) {
        defaults(items, &format!("{at}.items"), false, errors);
    }
    for (name, property) in schema.pairs(&["properties"]) {
        if !(is_object && META.contains(&name)) {
            defaults(property, &format!("{at}.properties[{name}]"), false, errors);
        }
    }
}

/// What holds where one is in a schema.
#[derive(Clone, Copy)]
struct Whole<'a> {
    /// Whether defaults may be set, or why not.
    defaults: Result<(), &'a str>,
    in_meta: bool,
}

/// Keywords that are supported, with values that they may have.
fn supported(
    schema: &Value,
    at: &str,
    is_root: bool,
    whole: Whole<'_>,
    errors: &mut Vec<FieldError>,
) {
    let ty = schema.text(&["type"]);
    let mut forbid = |field: &str, why: &str| {
        errors.push(FieldError::forbidden(format!("{at}.{field}"), why));
    };
    if schema.has(&["default"])
        && let Err(reason) = whole.defaults
    {
        forbid("default", format!("must not be set {reason}").trim_end());
    }
    for (field, why) in UNSUPPORTED {
        if given(schema, field) {
            forbid(field, why);
        }
    }
    if ty == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if schema.at(&["items"]).is_some_and(Value::is_array) {
        forbid("items", "items must be a schema object and not an array");
    }
    if whole.in_meta && schema.flag(&["x-kubernetes-embedded-resource"]) {
        forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
    }
    if schema.flag(&["uniqueItems"]) {
        forbid(
            "uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let additional = schema.at(&["additionalProperties"]);
    let has_properties = schema.map(&["properties"]).is_some_and(|all| !all.is_empty());
    if has_properties && additional.is_some_and(|a| *a != Value::Bool(true)) {
        forbid(
            "additionalProperties",
            "additionalProperties and properties are mutual exclusive",
        );
    }
    if !ty.is_empty() && ty != "null" && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(format!("{at}.type"), ty, &TYPES));
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = format!("{at}.x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(at, false, "must be true or undefined"));
    }
    lists(schema, at, errors);
    rules(schema, at, errors);

    if let Some(of @ Value::Object(_)) = additional {
        let forbidden = Err("inside additionalProperties applying to object metadata");
        let inner = Whole { defaults: if whole.in_meta { forbidden } else { whole.defaults }, ..whole };
        supported(of, &format!("{at}.additionalProperties"), false, inner, errors);
    }
    let is_object = is_root || schema.flag(&["x-kubernetes-embedded-resource"]);
    for (name, property) in schema.pairs(&["properties"]) {
        let mut inner = whole;
        let reason = format!("in top-level {name}");
        if is_object && META.contains(&name) {
            inner.in_meta = true;
            if is_root {
                inner.defaults = Err(&reason);
            }
        }
        supported(property, &format!("{at}.properties[{name}]"), false, inner, errors);
    }
    if let Some(not) = schema.at(&["not"]) {
        supported(not, &format!("{at}.not"), false, whole, errors);
    }
    for junctor in ["allOf", "oneOf", "anyOf"] {
        for (i, one) in schema.list(&[junctor]).iter().enumerate() {
            supported(one, &format!("{at}.{junctor}[{i}]"), false, whole, errors);
        }
    }
    if let Some(items @ Value::Object(_)) = schema.at(&["items"]) {
        supported(items, &format!("{at}.items"), false, whole, errors);
    }
}

/// `x-kubernetes-list-type`, `…-map-keys` and `…-map-type`.
fn lists(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let ty = schema.text(&["type"]);
    let mut mistyped = |field: &str, wanted: &str| {
        if schema.has(&[field]) && ty != wanted {
            let why = format!("must be {wanted} if {field} is specified");
            errors.push(match ty {
                "" => FieldError::required(format!("{at}.type"), why),
                ty => FieldError::invalid(format!("{at}.type"), ty, why),
            });
        }
    };
    mistyped("x-kubernetes-map-type", "object");
    mistyped("x-kubernetes-list-type", "array");
    let map_type = schema.text(&["x-kubernetes-map-type"]);
    if schema.has(&["x-kubernetes-map-type"]) && !matches!(map_type, "atomic" | "granular") {
        let at = format!("{at}.x-kubernetes-map-type");
        errors.push(FieldError::not_supported(at, map_type, &["atomic", "granular"]));
    }
    let list_at = format!("{at}.x-kubernetes-list-type");
    let list_type = schema.text(&["x-kubernetes-list-type"]);
    let keys = schema.list(&["x-kubernetes-list-map-keys"]);
    if schema.has(&["x-kubernetes-list-type"]) && !matches!(list_type, "atomic" | "set" | "map") {
        errors.push(FieldError::not_supported(
            list_at.as_str(),
            list_type,
            &["atomic", "set", "map"],
        ));
    }
    if !keys.is_empty() && list_type != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            "" => FieldError::required(list_at.as_str(), why),
            other => FieldError::invalid(list_at.as_str(), other, why),
        });
    }
    let Some(items) = schema.at(&["items"]).filter(|items| items.is_object()) else {
        if list_type == "map" {
            let why = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(format!("{at}.items"), why));
        }
        return;
    };
    if list_type == "set" {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let inner = items.text(&["x-kubernetes-list-type"]);
        match items.text(&["type"]) {
            "array" if !matches!(inner, "" | "atomic") => {
                let at = format!("{at}.items.x-kubernetes-list-type");
                errors.push(FieldError::invalid(at, inner, why));
            }
            "object" if items.text(&["x-kubernetes-map-type"]) != "atomic" => {
                let at = format!("{at}.items.x-kubernetes-map-type");
                errors.push(FieldError::invalid(at, Value::Null, why));
            }
            _ => {}
        }
    }
    if list_type == "map" {
        map_keys(items, keys, at, errors);
    }
    if matches!(list_type, "set" | "map") && items.flag(&["nullable"]) {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(format!("{at}.items.nullable"), why));
    }
}

fn map_keys(items: &Value, keys: &[Value], at: &str, errors: &mut Vec<FieldError>) {
    let keys_at = format!("{at}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(keys_at.as_str(), why));
    }
    let ty = items.text(&["type"]);
    if ty != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(format!("{at}.items.type"), ty, why));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let at = format!("{at}.items.properties[{name}]");
        let mut wrong = |why: &str| {
            errors.push(FieldError::invalid(keys_at.as_str(), keys.to_vec(), why));
        };
        let property = items.at(&["properties", name]);
        if property.is_none() {
            wrong("entries must all be names of item properties");
        }
        if keys[..i].contains(key) {
            wrong("must not contain duplicate entries");
        }
        let Some(property) = property else { continue };
        if matches!(property.text(&["type"]), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(format!("{at}.type"), "object", why));
        }
        if !items.list(&["required"]).contains(key) && !property.has(&["default"]) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{at}.default"), why));
        }
        if property.flag(&["nullable"]) {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
        }
    }
}

/// The form of `x-kubernetes-validations`; what the rules say is not looked into here.
fn rules(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, rule) in schema.list(&["x-kubernetes-validations"]).iter().enumerate() {
        let at = |field: &str| format!("{at}.x-kubernetes-validations[{i}].{field}");
        let (text, message) = (rule.text(&["rule"]), rule.text(&["message"]));
        let breaks = |text: &str| text.trim().contains(['\n', '\r']);
        if text.trim().is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            let why = "message must be non-empty if specified";
            errors.push(FieldError::invalid(at("message"), message, why));
        } else if breaks(message) {
            let why = "message must not contain line breaks";
            errors.push(FieldError::invalid(at("message"), message, why));
        } else if breaks(text) && message.is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), why));
        }
        let reason = rule.text(&["reason"]);
        let reasons = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if !reason.is_empty() && !reasons.contains(&reason) {
            errors.push(FieldError::not_supported(at("reason"), reason, &reasons));
        }
    }
}
