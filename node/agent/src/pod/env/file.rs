//! `fileKeyRef`: variables that an init container left in a file of an `emptyDir`.

use std::io::Read;
use std::path::Path;

use coracle_sandbox::beneath::{Folder, leads_out};
use k8s_openapi::api::core::v1::FileKeySelector;

use super::ConfigError;

/// Longest file that is read.
const LONGEST: u64 = 64 << 10;

/// The key's value; `None` where it is optional and not there.
pub(super) fn value(
    wanted: &FileKeySelector,
    volumes: &Path,
) -> Result<Option<String>, ConfigError> {
    let optional = wanted.optional == Some(true);
    let error = |why: &str| ConfigError::File {
        key: wanted.key.clone(),
        path: wanted.path.clone(),
        volume: wanted.volume_name.clone(),
        why: why.to_owned(),
    };
    let root = volumes.join(&wanted.volume_name);
    let text = match read(&root, &wanted.path) {
        Ok(text) => text,
        Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(&e.to_string())),
    };
    match find(&text, &wanted.key) {
        Ok(Some(value)) => Ok(Some(value)),
        Ok(None) if optional => Ok(None),
        Ok(None) => Err(error("no such key")),
        Err(line) => Err(error(&format!("line {line} is not of the form KEY='VALUE'"))),
    }
}

/// The volume belongs to the Pod: its containers may exchange what is in it for anything at any time.
fn read(root: &Path, path: &str) -> std::io::Result<String> {
    let file = Folder::open(root)?.file(Path::new(path)).map_err(|e| match leads_out(&e) {
        true => std::io::Error::other("the path leads out of the volume"),
        false => e,
    })?;
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(std::io::Error::other(format!("the file is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

/// The last value of the key, or the number of a line that is malformed. Values stand in single quotes and may span
/// lines; comments and empty lines are skipped.
fn find(text: &str, key: &str) -> Result<Option<String>, usize> {
    let mut found = None;
    let mut rest = text;
    let line_of = |rest: &str| text[..text.len() - rest.len()].lines().count() + 1;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(found);
        }
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        let at = line_of(rest);
        let (name, after) = rest.split_once('=').ok_or(at)?;
        let (value, after) = after.strip_prefix('\'').and_then(|a| a.split_once('\'')).ok_or(at)?;
        let name = name.strip_prefix("export ").unwrap_or(name);
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c == '\'') {
            return Err(at);
        }
        if name == key {
            found = Some(value.to_owned());
        }
        // Nothing but a comment may follow on the line.
        let (line, after) = after.split_once('\n').unwrap_or((after, ""));
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            return Err(at);
        }
        rest = after;
    }
}
