//! `JobSpec`: defaults and checks (`pkg/apis/batch/{v1,validation}` upstream).

use std::collections::HashSet;

use serde_json::Value;

use crate::indexes::Indexes;
use crate::json::{Fields, Json, default_text, object, objects, set_default};
use crate::kinds::pod::{defaults, validate as pods};
use crate::kinds::workload::not_negative;
use crate::names;
use crate::path::Path;
use crate::status::{FieldError, FieldProblem};

/// Bounds of Indexed Jobs, which keep what is written about indexes small.
const MOST_PARALLEL: i64 = 100_000;
const MOST_FAILED: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MOST_PARALLEL_OF_MANY: i64 = 10_000;
const MOST_FAILED_OF_MANY: i64 = 10_000;
const MOST_RULES: usize = 20;
const MOST_EXIT_CODES: usize = 255;
const MOST_CONDITIONS: usize = 20;
const LONGEST_INDEXES: usize = 64 * 1024;
const LONGEST_MANAGER: usize = 63;

type Errors = Vec<FieldError>;

/// Defaults of a Job's spec.
pub(in crate::kinds) fn default(spec: &mut Fields) {
    if !spec.has(&["completions"]) && !spec.has(&["parallelism"]) {
        spec.insert("completions".into(), 1.into());
    }
    set_default(spec, "parallelism", || 1);
    let per_index = spec.has(&["backoffLimitPerIndex"]);
    set_default(spec, "backoffLimit", || if per_index { i32::MAX } else { 6 });
    default_text(spec, "completionMode", "NonIndexed");
    for field in ["suspend", "manualSelector"] {
        set_default(spec, field, || false);
    }
    let policy = spec.has(&["podFailurePolicy"]);
    default_text(
        spec,
        "podReplacementPolicy",
        if policy { "Failed" } else { "TerminatingOrFailed" },
    );
    if let Some(policy) = object(spec, "podFailurePolicy") {
        for rule in objects(policy, "rules") {
            for pattern in objects(rule, "onPodConditions") {
                default_text(pattern, "status", "True");
            }
        }
    }
    if let Some(template) = object(spec, "template") {
        defaults::template(template);
    }
}

/// Checks a Job's spec but for its selector.
pub(in crate::kinds) fn validate(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec, field, at, errors);
    }
    if spec.has(&["maxFailedIndexes"]) && !spec.has(&["backoffLimitPerIndex"]) {
        errors.push(FieldError::required(
            at.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
    managed_by(spec, at, errors);
    match spec.text(&["completionMode"]) {
        "Indexed" => indexed(spec, at, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
                if let Some(value) = spec.at(&[field]) {
                    errors.push(FieldError::invalid(
                        at.child(field),
                        value.clone(),
                        "requires indexed completion mode",
                    ));
                }
            }
        }
        other => errors.push(FieldError::not_supported(
            at.child("completionMode"),
            other,
            &["NonIndexed", "Indexed"],
        )),
    }
    if spec.has(&["podFailurePolicy"]) {
        pod_failure_policy(spec, &at.child("podFailurePolicy"), errors);
    }
    let supported: &[&str] = if spec.has(&["podFailurePolicy"]) {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    let replacement = spec.text(&["podReplacementPolicy"]);
    if !replacement.is_empty() && !supported.contains(&replacement) {
        errors.push(FieldError::not_supported(
            at.child("podReplacementPolicy"),
            replacement,
            supported,
        ));
    }
    template(spec, at, errors);
}

fn managed_by(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let Some(manager) = spec.at(&["managedBy"]).and_then(Value::as_str) else { return };
    let at = at.child("managedBy");
    match manager.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            if let Some(problem) = names::subdomain(domain) {
                errors.push(FieldError::invalid(at, domain, problem));
            }
        }
        _ if manager.is_empty() => errors.push(FieldError::required(at, "")),
        _ => errors.push(FieldError::invalid(
            at,
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    if manager.len() > LONGEST_MANAGER {
        errors.push(FieldError {
            problem: FieldProblem::TooLong,
            path: at.into(),
            detail: format!("may not be more than {LONGEST_MANAGER} bytes"),
        });
    }
}

fn indexed(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut at_most = |field: &str, most: i64, why: String| {
        if let Some(value) = spec.int(&[field])
            && value > most
        {
            errors.push(FieldError::invalid(at.child(field), value, why));
        }
    };
    at_most(
        "parallelism",
        MOST_PARALLEL,
        format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed"),
    );
    let completions = spec.int(&["completions"]);
    if let Some(completions) = completions {
        at_most("maxFailedIndexes", completions, "must be less than or equal to completions".into());
    }
    at_most("maxFailedIndexes", MOST_FAILED, format!("must be less than or equal to {MOST_FAILED}"));
    if completions > Some(MANY_COMPLETIONS) && spec.has(&["backoffLimitPerIndex"]) {
        for (field, most) in
            [("parallelism", MOST_PARALLEL_OF_MANY), ("maxFailedIndexes", MOST_FAILED_OF_MANY)]
        {
            at_most(field, most, format!(
                "must be less than or equal to {most} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            ));
        }
        if !spec.has(&["maxFailedIndexes"]) {
            errors.push(FieldError::required(
                at.child("maxFailedIndexes"),
                format!("must be specified when completions is above {MANY_COMPLETIONS}"),
            ));
        }
    }
    let Some(completions) = completions else {
        errors.push(FieldError::required(
            at.child("completions"),
            "when completion mode is Indexed",
        ));
        return;
    };
    if spec.has(&["successPolicy"]) {
        success_policy(spec, completions, &at.child("successPolicy"), errors);
    }
}

fn too_many(at: &Path<'_>, found: usize, most: usize, errors: &mut Errors) {
    if found > most {
        errors.push(FieldError {
            problem: FieldProblem::TooMany(found),
            path: at.into(),
            detail: format!("must have at most {most} items"),
        });
    }
}

/// A required text out of a sorted enumeration, in the words of batch's validation.
fn one_of(value: &str, at: &Path<'_>, allowed: &[&str], errors: &mut Errors) {
    if value.is_empty() {
        let list: Vec<_> = allowed.iter().map(|v| format!("\"{v}\"")).collect();
        errors.push(FieldError::required(at, format!("valid values: [{}]", list.join(" "))));
    } else if !allowed.contains(&value) {
        errors.push(FieldError::not_supported(at, value, allowed));
    }
}

fn pod_failure_policy(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let template = spec.at(&["template", "spec"]).unwrap_or(&Value::Null);
    let lists = template.list(&["containers"]).iter().chain(template.list(&["initContainers"]));
    let containers: HashSet<&str> = lists.map(|container| container.text(&["name"])).collect();
    let rules = spec.list(&["podFailurePolicy", "rules"]);
    let at = at.child("rules");
    too_many(&at, rules.len(), MOST_RULES, errors);
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let action = rule.text(&["action"]);
        if action == "FailIndex" {
            if !spec.has(&["backoffLimitPerIndex"]) {
                let why = "requires the backoffLimitPerIndex to be set";
                errors.push(FieldError::invalid(at.child("action"), action, why));
            }
        } else {
            let allowed = ["Count", "FailIndex", "FailJob", "Ignore"];
            one_of(action, &at.child("action"), &allowed, errors);
        }
        let conditions = rule.list(&["onPodConditions"]);
        if let Some(codes) = rule.at(&["onExitCodes"]) {
            on_exit_codes(codes, &containers, &at.child("onExitCodes"), errors);
        }
        on_pod_conditions(conditions, &at.child("onPodConditions"), errors);
        match (rule.has(&["onExitCodes"]), conditions.is_empty()) {
            (true, false) => errors.push(FieldError::invalid_as_such(
                at,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            (false, true) => errors.push(FieldError::invalid_as_such(
                at,
                "specifying one of OnExitCodes and OnPodConditions is required",
            )),
            _ => {}
        }
    }
}

fn on_pod_conditions(conditions: &[Value], at: &Path<'_>, errors: &mut Errors) {
    too_many(at, conditions.len(), MOST_CONDITIONS, errors);
    for (i, pattern) in conditions.iter().enumerate() {
        let at = at.index(i);
        let kind = pattern.text(&["type"]);
        if let Some(problem) = names::qualified(kind) {
            errors.push(FieldError::invalid(at.child("type"), kind, problem));
        }
        let allowed = ["False", "True", "Unknown"];
        one_of(pattern.text(&["status"]), &at.child("status"), &allowed, errors);
    }
}

fn on_exit_codes(rule: &Value, containers: &HashSet<&str>, at: &Path<'_>, errors: &mut Errors) {
    let operator = rule.text(&["operator"]);
    one_of(operator, &at.child("operator"), &["In", "NotIn"], errors);
    if let Some(name) = rule.at(&["containerName"]).and_then(Value::as_str)
        && !containers.contains(name)
    {
        errors.push(FieldError::invalid(
            at.child("containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let values = rule.list(&["values"]);
    let at = at.child("values");
    if values.is_empty() {
        errors.push(FieldError::invalid(at, values.to_vec(), "at least one value is required"));
    }
    too_many(&at, values.len(), MOST_EXIT_CODES, errors);
    let codes: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = HashSet::new();
    for (i, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            let why = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(at.index(i), *code, why));
        }
        if !seen.insert(code) {
            errors.push(FieldError::duplicate(at.index(i), *code));
        }
    }
    if !codes.is_sorted() {
        errors.push(FieldError::invalid(at, values.to_vec(), "must be ordered"));
    }
}

fn success_policy(spec: &Value, completions: i64, at: &Path<'_>, errors: &mut Errors) {
    let rules = spec.list(&["successPolicy", "rules"]);
    let at = at.child("rules");
    if rules.is_empty() {
        errors.push(FieldError::required(
            at,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    too_many(&at, rules.len(), MOST_RULES, errors);
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let wanted = rule.at(&["succeededIndexes"]).and_then(Value::as_str);
        let count = rule.int(&["succeededCount"]);
        if wanted.is_none() && count.is_none() {
            errors.push(FieldError::required(
                at,
                "at least one of succeededCount or succeededIndexes must be specified",
            ));
        }
        let mut total = None;
        if let Some(text) = wanted {
            let at = at.child("succeededIndexes");
            if text.len() > LONGEST_INDEXES {
                errors.push(FieldError {
                    problem: FieldProblem::TooLong,
                    path: (&at).into(),
                    detail: format!("may not be more than {LONGEST_INDEXES} bytes"),
                });
            }
            match Indexes::parse(text, completions) {
                Ok(indexes) => total = Some(indexes.count()),
                Err(why) => errors.push(FieldError::invalid(
                    at,
                    text,
                    format!("error parsing succeededIndexes: {why}"),
                )),
            }
        }
        not_negative(rule, "succeededCount", &at, errors);
        for (most, what) in [
            (Some(completions), "specified completions"),
            (total, "indexes in the specified succeededIndexes field"),
        ] {
            if let (Some(count), Some(most)) = (count, most)
                && count > most
            {
                errors.push(FieldError::invalid(
                    at.child("succeededCount"),
                    count,
                    format!("must be less than or equal to {most} (the number of {what})"),
                ));
            }
        }
    }
}

/// The template's Pods end some time, so they must not always be restarted.
fn template(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let Some(template) = spec.at(&["template"]) else {
        return errors.push(FieldError::required(at.child("template"), ""));
    };
    pods::template_spec(template, &at.child("template"), errors);
    let policy = template.text(&["spec", "restartPolicy"]);
    let template = at.child("template");
    let at = template.child("spec");
    let at = at.child("restartPolicy");
    match policy {
        "" | "Always" => {
            errors.push(FieldError::required(at, "valid values: \"OnFailure\", \"Never\""));
        }
        "Never" => {}
        "OnFailure" if spec.has(&["podFailurePolicy"]) => errors.push(FieldError::invalid(
            at,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        )),
        "OnFailure" => {}
        other => errors.push(FieldError::not_supported(at, other, &["OnFailure", "Never"])),
    }
}
