//! PriorityLevelConfiguration.

use super::common::{AGE, NAME, object_age, prepare_status, text};
use super::*;
use crate::json::{Json, default_number, object, object_or_new, set_default};
use crate::path::Path;

/// `prioritylevelconfigurations.flowcontrol.apiserver.k8s.io`.
pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    resource: "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare: prepare_status,
    validate,
    columns: &[
        NAME,
        text("Type", "Whether requests of this level are limited."),
        text("NominalConcurrencyShares", "Its share of all that may be served at once."),
        text("Queues", "How many queues there are."),
        text("HandSize", "How many queues a flow may be put into."),
        text("QueueLengthLimit", "How many requests a queue holds."),
        AGE,
    ],
    cells: |object, now| {
        let level = object.value();
        let number = |path: &[&str]| match level.int(path) {
            Some(number) => number.into(),
            None => Value::from("<none>"),
        };
        let queuing =
            |field| number(&["spec", "limited", "limitResponse", "queuing", field]);
        vec![
            object.meta.name.as_str().into(),
            level.text(&["spec", "type"]).into(),
            number(&["spec", "limited", "nominalConcurrencyShares"]),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

/// Most queues of a level.
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS: u32 = 60;

fn default(level: &mut Value) {
    let Some(spec) = level.as_object_mut().and_then(|l| object_or_new(l, "spec")) else { return };
    if let Some(exempt) = object(spec, "exempt") {
        set_default(exempt, "nominalConcurrencyShares", || 0);
        set_default(exempt, "lendablePercent", || 0);
    }
    let Some(limited) = object(spec, "limited") else { return };
    set_default(limited, "nominalConcurrencyShares", || 30);
    set_default(limited, "lendablePercent", || 0);
    if let Some(queuing) = object(limited, "limitResponse").and_then(|r| object(r, "queuing")) {
        for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            default_number(queuing, field, value);
        }
    }
}

fn validate(level: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = level.at(&["spec"]).unwrap_or(&Value::Null);
    let (name, kind) = (level.text(&["metadata", "name"]), spec.text(&["type"]));
    if (name == "exempt") != (kind == "Exempt") {
        let why = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid(at.child("type"), kind, why));
    }
    match (kind, spec.at(&["limited"]), spec.at(&["exempt"])) {
        ("Exempt", limited, exempt) => {
            if limited.is_some() {
                let why = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(at.child("limited"), why));
            }
            if let Some(exempt) = exempt {
                shares(exempt, &at.child("exempt"), &mut errors);
            }
        }
        ("Limited", limited, exempt) => {
            if exempt.is_some() {
                let why = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(at.child("exempt"), why));
            }
            let at = at.child("limited");
            match limited {
                None => {
                    let why = "must not be empty when type is Limited";
                    errors.push(FieldError::required(at, why));
                }
                Some(all) => limited_level(all, &at, &mut errors),
            }
        }
        (other, ..) => {
            let all = ["Exempt", "Limited"];
            errors.push(FieldError::not_supported(at.child("type"), other, &all));
        }
    }
    if let Some((_, fixed)) = flow_control::MANDATORY_LEVELS.iter().find(|(n, _)| *n == name)
        && without_exempt(spec) != without_exempt(&fixed())
    {
        let why = format!("spec of '{name}' must equal the fixed value");
        errors.push(FieldError::invalid(at, spec.clone(), why));
    }
    flow_schema::conditions(level, &mut errors);
    errors
}

/// The shares of the exempt level may be changed, as nothing else of the mandatory ones.
fn without_exempt(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("exempt");
    }
    spec
}

fn shares(level: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let shares = level.int(&["nominalConcurrencyShares"]).unwrap_or(0);
    if shares < 0 {
        let why = "must be a non-negative integer";
        errors.push(FieldError::invalid(at.child("nominalConcurrencyShares"), shares, why));
    }
    let lendable = level.int(&["lendablePercent"]).unwrap_or(0);
    if !(0..=100).contains(&lendable) {
        let why = "must be between 0 and 100, inclusive";
        errors.push(FieldError::invalid(at.child("lendablePercent"), lendable, why));
    }
}

fn limited_level(level: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    shares(level, at, errors);
    if let Some(percent) = level.int(&["borrowingLimitPercent"])
        && percent < 0
    {
        let why = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(at.child("borrowingLimitPercent"), percent, why));
    }
    let at = at.child("limitResponse");
    let queuing = level.at(&["limitResponse", "queuing"]);
    match level.text(&["limitResponse", "type"]) {
        "Reject" => {
            if queuing.is_some() {
                let why = "must be nil if limited.limitResponse.type is not Limited";
                errors.push(FieldError::forbidden(at.child("queuing"), why));
            }
        }
        "Queue" => match queuing {
            Some(queuing) => queues(queuing, &at.child("queuing"), errors),
            None => {
                let why = "must not be empty if limited.limitResponse.type is Limited";
                errors.push(FieldError::required(at.child("queuing"), why));
            }
        },
        other => {
            let all = ["Queue", "Reject"];
            errors.push(FieldError::not_supported(at.child("type"), other, &all));
        }
    }
}

fn queues(queuing: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let of = |field| queuing.int(&[field]).unwrap_or(0);
    let (queues, hand, limit) = (of("queues"), of("handSize"), of("queueLengthLimit"));
    let mut wrong = |field, value: i64, why: String| {
        errors.push(FieldError::invalid(at.child(field), value, why));
    };
    if limit <= 0 {
        wrong("queueLengthLimit", limit, "must be positive".into());
    }
    if queues <= 0 {
        wrong("queues", queues, "must be positive".into());
    } else if queues > MAX_QUEUES {
        wrong("queues", queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    if hand <= 0 {
        wrong("handSize", hand, "must be positive".into());
    } else if hand > queues {
        wrong("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if let bits = entropy_bits(queues, hand)
        && bits > HASH_BITS
    {
        wrong(
            "handSize",
            hand,
            format!(
                "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
            ),
        );
    }
}

/// Bits of a hash that it takes to deal a hand out of a deck.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}
