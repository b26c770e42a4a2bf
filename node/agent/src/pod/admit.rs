//! Pods that this node takes from nobody, whoever put them here: those that no scheduler would have. Pure.
//!
//! That others have the room at the moment is no reason: they may be about to go, and the scheduler knows better.

use coracle_api::pod::Requests;
use k8s_openapi::api::core::v1::Pod;

/// The reason and what people are told, as the kubelet has them. `asked` is what the Pod asks for, `others` what all
/// other Pods here do, which costs a look at each; `room` is what the node offers, in millicores and bytes.
pub(super) fn refusal(
    pod: &Pod,
    asked: Requests,
    others: impl FnOnce() -> Requests,
    room: (u64, u64),
) -> Option<(&'static str, String)> {
    let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    if os.is_some_and(|os| os.name != "linux") {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(("PodOSNotSupported", why.to_owned()));
    }
    let of_cpu: fn(&Requests) -> i64 = |of| of.cpu_milli;
    let all = [("cpu", of_cpu, room.0), ("memory", |of| of.memory, room.1)];
    let exceeds = |asked: i64, room: u64| u64::try_from(asked).is_ok_and(|asked| asked > room);
    let (name, amount, room) = all.into_iter().find(|(_, of, room)| exceeds(of(&asked), *room))?;
    let (reason, used) =
        (if name == "cpu" { "OutOfcpu" } else { "OutOfmemory" }, amount(&others()));
    let asked = amount(&asked);
    let why = format!(
        "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {room}"
    );
    Some((reason, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_never_run_is_refused() {
        let check = |os: &str, cpu: i64, memory: i64, expected: Option<(&str, &str)>| {
            let mut pod = json!({"spec": {"containers": []}});
            if !os.is_empty() {
                pod["spec"]["os"] = json!({"name": os});
            }
            let pod: Pod = serde_json::from_value(pod).expect("a Pod");
            let asked = Requests { cpu_milli: cpu, memory, ..Requests::default() };
            let others = Requests { cpu_milli: 1500, memory: 1 << 20, ..Requests::default() };
            let refused = refusal(&pod, asked, || others, (2000, 2 << 20));
            let refused = refused.as_ref().map(|(reason, why)| (*reason, why.as_str()));
            assert_eq!(refused, expected);
        };
        check("", 2000, 2 << 20, None);
        check("linux", 0, 0, None);
        check(
            "windows",
            3000,
            0,
            Some((
                "PodOSNotSupported",
                "Failed to admit pod as the OS field doesn't match node OS",
            )),
        );
        check(
            "",
            2001,
            0,
            Some((
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 2001, used: 1500, capacity: 2000",
            )),
        );
        check(
            "",
            0,
            3 << 20,
            Some((
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 3145728, used: 1048576, capacity: 2097152",
            )),
        );
    }
}
