//! The rules in CEL of definitions' schemas (`x-kubernetes-validations`), compiled when an object first meets them.

use std::sync::{Arc, OnceLock};

use coracle_api::json::Json;
use coracle_api::status::FieldProblem;
use coracle_api::{FieldError, Object};
use coracle_cel::Rules;
use serde_json::Value;

use super::Served;

/// The rules of one definition.
#[derive(Debug, Default)]
pub(super) struct RuleSets {
    /// UID and generation of what they were read from.
    source: (String, i64),
    /// Version and its schema, of those that have rules.
    versions: Vec<(String, Value, OnceLock<Rules>)>,
}

impl RuleSets {
    /// Those of a definition's object; what is `known` is taken over where nothing changed.
    pub(super) fn of(object: &Object, known: Option<&Arc<Self>>) -> Arc<Self> {
        let source = (object.meta.uid.clone(), object.meta.generation);
        if let Some(known) = known.filter(|known| known.source == source) {
            return known.clone();
        }
        let mut versions = Vec::new();
        for version in object.value().list(&["spec", "versions"]) {
            let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) else { continue };
            if has_rules(schema) {
                let name = version.text(&["name"]).to_owned();
                versions.push((name, schema.clone(), OnceLock::new()));
            }
        }
        Arc::new(Self { source, versions })
    }

    fn version(&self, name: &str) -> Option<&Rules> {
        let (_, schema, rules) = self.versions.iter().find(|(version, ..)| version == name)?;
        Some(rules.get_or_init(|| Rules::compile(schema, "").0))
    }
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.contains_key("x-kubernetes-validations") || fields.values().any(has_rules)
        }
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

impl Served {
    /// Checks a whole object of this version against its schema, then, if that leaves something to compare, against its rules.
    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let version = self.version();
        let mut errors = version.validate(new, old);
        let Some(rules) = self.rules.as_ref().and_then(|r| r.version(version.kind.version)) else {
            return errors;
        };
        // Rules count on types and sizes.
        let blocks = |error: &FieldError| {
            matches!(
                error.problem,
                FieldProblem::Required
                    | FieldProblem::TooLong
                    | FieldProblem::TooMany(_)
                    | FieldProblem::TypeInvalid(_)
            )
        };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Value::Null, why));
        } else {
            errors.extend(rules.check(new, old));
        }
        errors
    }
}

/// What does not compile of a definition that is written; `old` is what was stored.
pub(crate) fn problems(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let versions = new.list(&["spec", "versions"]);
    if old.is_some_and(|old| old.list(&["spec", "versions"]) == versions) {
        return Vec::new();
    }
    let schema = |version: &Value| version.at(&["schema", "openAPIV3Schema"]).cloned();
    let schemas: Vec<_> = versions.iter().map(schema).collect();
    // Upstream tells once of what all versions have in common.
    let alike = schemas.windows(2).all(|pair| pair[0] == pair[1]);
    let several = if alike { &schemas[..schemas.len().min(1)] } else { &schemas[..] };
    // What was let in with a version before is let in with it again.
    let known = |name: &str| {
        let versions = old.map_or(&[][..], |old| old.list(&["spec", "versions"]));
        versions.iter().find(|version| version.text(&["name"]) == name).and_then(schema)
    };
    let mut errors = Vec::new();
    for (i, schema) in several.iter().enumerate() {
        let Some(schema) = schema.as_ref().filter(|schema| has_rules(schema)) else { continue };
        if known(versions[i].text(&["name"])).as_ref() == Some(schema) {
            continue;
        }
        let at = match alike {
            true => "spec.validation.openAPIV3Schema".to_owned(),
            false => format!("spec.versions[{i}].schema.openAPIV3Schema"),
        };
        errors.extend(Rules::compile(schema, &at).1);
    }
    errors
}
