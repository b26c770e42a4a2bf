//! LimitRanger (`plugin/pkg/admission/limitranger` upstream): what the LimitRanges of a namespace give containers that do not say
//! what they need, and have against those that say too little or too much.

use std::sync::Arc;

use coracle_api::json::{Fields, Json, object_or_new};
use coracle_api::quota::{self, Amounts};
use coracle_api::{ApiError, Object, kinds};
use serde_json::Value;

use super::{Operation, Request};
use crate::registry::Registry;

/// Where it says what it has set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

impl Registry {
    fn limit_ranges(&self, namespace: &str) -> Vec<Arc<Object>> {
        let cluster = self.cache.read();
        if cluster.count(&kinds::LIMIT_RANGE) == 0 {
            return Vec::new();
        }
        cluster.list_in(&kinds::LIMIT_RANGE, namespace).cloned().collect()
    }

    /// Gives the containers of a new Pod what they do not say.
    pub(super) fn default_limits(&self, request: &Request<'_>, pod: &mut Value) {
        if !request.kind.is_pod() {
            return;
        }
        for range in self.limit_ranges(request.namespace) {
            fill_in(&range.value(), pod);
        }
    }

    /// Checks a new Pod, or a claim for a volume.
    pub(super) fn check_limits(
        &self,
        request: &Request<'_>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let is_claim = request.kind.resource == kinds::PERSISTENT_VOLUME_CLAIM.resource;
        let concerned = match (request.operation, request.subresource) {
            (Operation::Create, "") => request.kind.is_pod() || is_claim,
            (Operation::Update, "") => is_claim,
            (Operation::Update, "resize") => request.kind.is_pod(),
            _ => false,
        };
        let Some(new) = new.filter(|_| concerned) else { return Ok(()) };
        for range in self.limit_ranges(request.namespace) {
            let mut errors = Vec::new();
            for item in range.value().list(&["spec", "limits"]) {
                match (item.text(&["type"]), is_claim) {
                    ("PersistentVolumeClaim", true) => claim(item, new, &mut errors),
                    ("Container", false) => containers(item, new, &mut errors),
                    ("Pod", false) => whole_pod(item, new, &mut errors),
                    _ => {}
                }
            }
            errors.dedup();
            let why = match &errors[..] {
                [] => continue,
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            return Err(ApiError::forbidden(request.kind, new.text(&["metadata", "name"]), &why));
        }
        Ok(())
    }
}

fn fill_in(range: &Value, pod: &mut Value) {
    let items = range.list(&["spec", "limits"]).iter();
    let mut set = Vec::new();
    for item in items.filter(|item| item.text(&["type"]) == "Container") {
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            let containers =
                pod.get_mut("spec").and_then(|spec| spec.get_mut(list)?.as_array_mut());
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                let name = container.text(&["name"]).to_owned();
                for (of, kind) in [("requests", "request"), ("limits", "limit")] {
                    let defaults = if of == "limits" { "default" } else { "defaultRequest" };
                    let added = add(container, of, item.map(&[defaults]));
                    if !added.is_empty() {
                        set.push(format!("{} {kind} for {what} {name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if !set.is_empty()
        && let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = object_or_new(metadata, "annotations")
    {
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

/// Adds what is not there; the names of what was added, in order.
fn add(container: &mut Fields, list: &str, defaults: Option<&Fields>) -> Vec<String> {
    let mut added = Vec::new();
    let Some(defaults) = defaults.filter(|defaults| !defaults.is_empty()) else { return added };
    let resources = object_or_new(container, "resources");
    let Some(list) = resources.and_then(|resources| object_or_new(resources, list)) else {
        return added;
    };
    for (name, value) in defaults {
        if !list.contains_key(name) {
            list.insert(name.clone(), value.clone());
            added.push(name.clone());
        }
    }
    added.sort();
    added
}

fn containers(item: &Value, pod: &Value, errors: &mut Vec<String>) {
    for list in ["containers", "initContainers"] {
        for container in pod.list(&["spec", list]) {
            let of = |list| quota::amounts(container.at(&["resources", list]));
            constrain(item, &of("requests"), &of("limits"), errors);
        }
    }
}

fn whole_pod(item: &Value, pod: &Value, errors: &mut Vec<String>) {
    let used = quota::usage(&kinds::POD, pod);
    let of = |prefix: &str| -> Amounts {
        let named =
            used.iter().filter_map(|(name, amount)| Some((name.strip_prefix(prefix)?, *amount)));
        named.map(|(name, amount)| (name.to_owned(), amount)).collect()
    };
    constrain(item, &of("requests."), &of("limits."), errors);
}

fn claim(item: &Value, claim: &Value, errors: &mut Vec<String>) {
    let requests = quota::amounts(claim.at(&["spec", "resources", "requests"]));
    minimum(item, &requests, &Amounts::new(), errors);
    for (name, most) in quota::amounts(item.at(&["max"])) {
        let head = format!("maximum {name} usage per {} is {most}", item.text(&["type"]));
        match requests.get(&name) {
            None => errors.push(format!("{head}.  No request is specified")),
            Some(request) if *request > most => {
                errors.push(format!("{head}, but request is {request}"));
            }
            Some(_) => {}
        }
    }
}

fn minimum(item: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, least) in quota::amounts(item.at(&["min"])) {
        let head = format!("minimum {name} usage per {} is {least}", item.text(&["type"]));
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => errors.push(format!("{head}.  No request is specified")),
            (Some(request), _) if *request < least => {
                errors.push(format!("{head}, but request is {request}"));
            }
            (_, Some(limit)) if *limit < least => {
                errors.push(format!("{head}, but limit is {limit}"));
            }
            _ => {}
        }
    }
}

fn constrain(item: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    minimum(item, requests, limits, errors);
    let per = item.text(&["type"]);
    for (name, most) in quota::amounts(item.at(&["max"])) {
        let head = format!("maximum {name} usage per {per} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => {
                errors.push(format!("{head}, but limit is {limit}"));
            }
            (Some(request), _) if *request > most => {
                errors.push(format!("{head}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, most) in quota::amounts(item.at(&["maxLimitRequestRatio"])) {
        let head = format!("{name} max limit to request ratio per {per} is {most}");
        let of = |amounts: &Amounts| amounts.get(&name).copied().filter(|amount| !amount.is_zero());
        match (of(requests), of(limits)) {
            (None, _) => {
                errors.push(format!("{head}, but no request is specified or request is 0"));
            }
            (_, None) => errors.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                // Amounts of one resource, so of one unit; a fraction finer than thousandths is told, not compared.
                let (request, limit) = (request.milli() as f64, limit.milli() as f64);
                if limit * 1000.0 > most.milli() as f64 * request {
                    errors.push(format!("{head}, but provided ratio is {:.6}", limit / request));
                }
            }
        }
    }
}
