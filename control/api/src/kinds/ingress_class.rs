//! IngressClass.

use super::common::{AGE, NAME, object_age, text};
use super::*;
use crate::json::{Json, default_text, object};
use crate::names;
use crate::path::Path;
use crate::status::FieldProblem;

/// The annotation that makes a class the one of Ingresses that name none.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// The controller of the class that every cluster begins with: the nodes' own proxies.
pub const CONTROLLER: &str = "coracle.dev/ingress";

/// Longest name of a controller, in bytes.
const MAX_CONTROLLER: usize = 250;

/// `ingressclasses.networking.k8s.io`.
pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    resource: "ingressclasses.networking.k8s.io",
    namespaced: false,
    generation: Generation::Spec,
    default: |class| {
        if let Some(parameters) = class
            .as_object_mut()
            .and_then(|class| object(class, "spec"))
            .and_then(|spec| object(spec, "parameters"))
        {
            default_text(parameters, "scope", "Cluster");
        }
    },
    validate,
    validate_update: |new, old| {
        let controller = new.text(&["spec", "controller"]);
        if controller == old.text(&["spec", "controller"]) {
            return Vec::new();
        }
        vec![FieldError::immutable("spec.controller", controller)]
    },
    columns: &[
        NAME,
        text("Controller", "The controller that serves Ingresses of this class."),
        text("Parameters", "Further configuration of the controller."),
        AGE,
    ],
    cells: |object, now| {
        let class = object.value();
        let parameters = match class.at(&["spec", "parameters"]) {
            None => "<none>".to_owned(),
            Some(parameters) => {
                let (kind, name) = (parameters.text(&["kind"]), parameters.text(&["name"]));
                match parameters.text(&["apiGroup"]) {
                    "" => format!("{kind}/{name}"),
                    group => format!("{kind}.{group}/{name}"),
                }
            }
        };
        vec![
            object.meta.name.as_str().into(),
            class.text(&["spec", "controller"]).into(),
            parameters.into(),
            object_age(object, now),
        ]
    },
    ..Kind::BASE
};

fn validate(class: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let (at, controller) = (spec.child("controller"), class.text(&["spec", "controller"]));
    if controller.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else {
        if controller.len() > MAX_CONTROLLER {
            errors.push(FieldError {
                problem: FieldProblem::TooLong,
                path: at.into(),
                detail: format!("may not be more than {MAX_CONTROLLER} bytes"),
            });
        }
        if let Some(problem) = names::domain_prefixed_path(controller) {
            errors.push(FieldError::invalid(at, controller, problem));
        }
    }
    if let Some(parameters) = class.at(&["spec", "parameters"]) {
        let at = spec.child("parameters");
        typed_reference(parameters, &at, &mut errors);
        scope(parameters, &at, &mut errors);
    }
    errors
}

/// Names an object by its group, kind and name.
pub(super) fn typed_reference(reference: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(group) = reference.at(&["apiGroup"]).and_then(Value::as_str)
        && let Some(problem) = names::subdomain(group)
    {
        errors.push(FieldError::invalid(at.child("apiGroup"), group, problem));
    }
    for field in ["kind", "name"] {
        let text = reference.text(&[field]);
        if text.is_empty() {
            errors.push(FieldError::required(at.child(field), ""));
        } else if let Some(problem) = names::path_segment(text) {
            errors.push(FieldError::invalid(at.child(field), text, problem));
        }
    }
}

fn scope(parameters: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let named = at.child("namespace");
    let namespace = parameters.at(&["namespace"]).and_then(Value::as_str);
    match (parameters.text(&["scope"]), namespace) {
        ("", _) => errors.push(FieldError::required(at.child("scope"), "")),
        ("Cluster", None) => {}
        ("Cluster", Some(_)) => {
            errors.push(FieldError::forbidden(named, "`parameters.scope` is set to 'Cluster'"));
        }
        ("Namespace", None) => {
            errors.push(FieldError::required(named, "`parameters.scope` is set to 'Namespace'"));
        }
        ("Namespace", Some(namespace)) => {
            if let Some(problem) = names::label_1123(namespace) {
                errors.push(FieldError::invalid(named, namespace, problem));
            }
        }
        (other, _) => errors.push(FieldError::not_supported(
            at.child("scope"),
            other,
            &["Cluster", "Namespace"],
        )),
    }
}
