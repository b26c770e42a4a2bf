//! JSON patch as the reference server's library reads it, where policies count on that: a test that fails undoes the patch without
//! being an error, `replace` also adds a key to a map, places in lists may count from the end, and the whole document is no place.
//! Errors are that library's (`evanphx/json-patch`).

use serde_json::{Map, Value};

use super::json::{MAX_COPIED, MAX_OPERATIONS, size};

const MISSING: &str = "missing value";
const INVALID_INDEX: &str = "invalid array index";

/// The target with the operations done to it, each an object with `op`, `path`, `from` and `value`; `None` where a test failed.
///
/// # Errors
/// An operation that does not apply, or patches that would do too much.
pub fn apply_operations(mut target: Value, operations: &[Value]) -> Result<Option<Value>, String> {
    if operations.len() > MAX_OPERATIONS {
        return Err(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        ));
    }
    let mut copied = 0;
    for operation in operations {
        let text = |field: &str| operation[field].as_str().unwrap_or_default();
        let (op, path, from) = (text("op"), text("path"), text("from"));
        let value = || operation.get("value").cloned().unwrap_or_default();
        let missing =
            |what: &str| format!("{op} operation does not apply: doc is missing {what}: {MISSING}");
        let missing_path = || missing(&format!("path: {path:?}"));
        let failed = |why: String| format!("error in {op} for path: '{path}': {why}");
        match op {
            "add" => {
                let (of, key) = find(&mut target, path).ok_or_else(missing_path)?;
                of.add(&key, value()).map_err(failed)?;
            }
            "remove" => {
                let (of, key) = find(&mut target, path).ok_or_else(missing_path)?;
                of.remove(&key).map_err(failed)?;
            }
            "replace" => {
                let (of, key) =
                    find(&mut target, path).ok_or_else(|| missing(&format!("path: {path}")))?;
                of.set(&key, value()).map_err(|_| missing(&format!("key: {path}")))?;
            }
            "test" => {
                let (of, key) = find(&mut target, path).ok_or_else(|| {
                    format!("test operation does not apply: is missing path: {path}: {MISSING}")
                })?;
                let found = of.get(&key).map_err(failed)?.unwrap_or_default();
                if !same(&found, &value()) {
                    return Ok(None);
                }
            }
            "move" | "copy" => {
                let missing_from = || missing(&format!("from path: {from}"));
                let (of, key) = find(&mut target, from).ok_or_else(missing_from)?;
                let value = of.get(&key).map_err(failed)?;
                if op == "move" {
                    of.remove(&key).map_err(failed)?;
                } else {
                    copied += value.as_ref().map_or(0, size);
                    if copied > MAX_COPIED {
                        return Err(format!(
                            "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                        ));
                    }
                }
                let missing_to = || missing(&format!("destination path: {path}"));
                let (of, key) = find(&mut target, path).ok_or_else(missing_to)?;
                of.add(&key, value.unwrap_or_default()).map_err(failed)?;
            }
            other => return Err(format!("Unexpected kind: {other}")),
        }
    }
    Ok(Some(target))
}

/// Equal as JSON is: numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// What holds the last step of a path.
enum Holder<'v> {
    Map(&'v mut Map<String, Value>),
    List(&'v mut Vec<Value>),
}

/// What a path leads to, and its last step; none for the whole document and for what is not there.
fn find<'v>(target: &'v mut Value, path: &str) -> Option<(Holder<'v>, String)> {
    let mut steps = path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
    let mut last = steps.next()?;
    let mut at = target;
    for step in steps {
        at = match at {
            Value::Object(map) => map.get_mut(&last)?,
            Value::Array(list) => {
                let place = place(&last, list.len()).ok()?;
                list.get_mut(place)?
            }
            _ => return None,
        };
        last = step;
    }
    match at {
        Value::Object(map) => Some((Holder::Map(map), last)),
        Value::Array(list) => Some((Holder::List(list), last)),
        _ => None,
    }
}

/// A place in a list of that length.
fn place(key: &str, length: usize) -> Result<usize, String> {
    let place: i64 =
        key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let outside = || format!("Unable to access invalid index: {place}: {INVALID_INDEX}");
    let counted = if place < 0 { place + length } else { place };
    if counted >= length {
        return Err(outside());
    }
    usize::try_from(counted).map_err(|_| outside())
}

impl Holder<'_> {
    /// A key that a map has not is no error.
    fn get(&self, key: &str) -> Result<Option<Value>, String> {
        match self {
            Self::Map(map) => Ok(map.get(key).cloned()),
            Self::List(list) => Ok(list.get(place(key, list.len())?).cloned()),
        }
    }

    fn set(self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Self::Map(map) => {
                map.insert(key.to_owned(), value);
            }
            Self::List(list) => {
                let place = place(key, list.len())?;
                list[place] = value;
            }
        }
        Ok(())
    }

    fn add(self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Self::Map(map) => {
                map.insert(key.to_owned(), value);
            }
            Self::List(list) if key == "-" => list.push(value),
            Self::List(list) => list.insert(place(key, list.len() + 1)?, value),
        }
        Ok(())
    }

    fn remove(self, key: &str) -> Result<(), String> {
        match self {
            Self::Map(map) => {
                let removed = map.remove(key);
                removed
                    .map(drop)
                    .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}"))
            }
            Self::List(list) => {
                list.remove(place(key, list.len())?);
                Ok(())
            }
        }
    }
}
