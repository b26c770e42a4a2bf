//! Files of the volumes that a Pod mounts. Paths are absolute, as in the Pod's manifest.

use std::io::{Read, Write};

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

/// The innermost directory that the Pod mounts above a path, and the path's rest.
fn mounted(path: &str) -> Result<(Descriptor, String), String> {
    let below = |mount: &str| {
        let rest = path.strip_prefix(mount.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').to_string())
    };
    let mounts = get_directories().into_iter();
    let mounts = mounts.filter_map(|(directory, mount)| Some((directory, below(&mount)?)));
    mounts
        .min_by_key(|(_, rest)| rest.len())
        .ok_or_else(|| format!("{path}: no volume is mounted there"))
}

fn open(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, String> {
    let (directory, rest) = mounted(path)?;
    let rest = if rest.is_empty() { "." } else { &rest };
    directory
        .open_at(PathFlags::SYMLINK_FOLLOW, rest, how, flags)
        .map_err(|error| format!("{path}: {}", error.message()))
}

/// A file's text.
pub fn read(path: &str) -> Result<String, String> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut stream =
        file.read_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| format!("{path}: {error}"))?;
    Ok(text)
}

/// The names in a folder, in order.
pub fn list(path: &str) -> Result<Vec<String>, String> {
    let fail = |error: ErrorCode| format!("{path}: {}", error.message());
    let folder = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?;
    let entries = folder.read_directory().map_err(fail)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read_directory_entry().map_err(fail)? {
        names.push(entry.name);
    }
    names.sort();
    Ok(names)
}

/// Puts a file in place of any older one.
pub fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let file = open(path, how, DescriptorFlags::WRITE)?;
    let mut stream =
        file.write_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    stream.write_all(bytes).map_err(|error| format!("{path}: {error}"))?;
    stream.blocking_flush().map_err(|error| format!("{path}: {error}"))
}
