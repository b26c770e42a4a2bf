//! Who a container's program runs as: names are looked up in the image, never on the machine.

use std::io::Read;
use std::path::Path;

use coracle_sandbox::{OciContainer, Problem, ProblemCode};

use crate::rootfs::Root;

/// Bytes of an image's `/etc/passwd` or `/etc/group` that are read; what is behind them counts for nothing.
const MOST_BYTES: u64 = 4 << 20;
/// The kernel's `NGROUPS_MAX` would be 65536; nobody has so many.
const MOST_GROUPS: usize = 1024;

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Its folder; `/` where the image names none.
    pub(crate) home: String,
}

/// The image's two lists.
#[derive(Debug, Default)]
struct Lists {
    passwd: String,
    group: String,
}

/// Looks up who runs.
pub(crate) fn resolve(root: &Root, wanted: &OciContainer) -> Result<User, Problem> {
    let read = |path: &str| {
        let mut text = Vec::new();
        if let Ok(file) = root.open_file(Path::new(path)) {
            let _ = file.take(MOST_BYTES).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    let lists = Lists { passwd: read("etc/passwd"), group: read("etc/group") };
    let user = lists.user(wanted).map_err(|e| Problem::new(ProblemCode::InvalidSpec, e))?;
    if wanted.run_as_non_root && user.uid == 0 {
        // The kubelet's words, which people search for.
        let message = "container has runAsNonRoot and image will run as root";
        return Err(Problem::new(ProblemCode::InvalidSpec, message));
    }
    Ok(user)
}

impl Lists {
    fn user(&self, wanted: &OciContainer) -> Result<User, String> {
        let (name, group) = match wanted.user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (wanted.user.as_str(), None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let number = name.parse::<u32>().ok();
        // A number may have an entry too, with a group and a folder.
        let entry = self.entry(&self.passwd, |fields| match number {
            Some(number) => fields.get(2).is_some_and(|uid| uid.parse() == Ok(number)),
            None => fields[0] == name,
        });
        let field = |n: usize| entry.as_ref().and_then(|fields| fields.get(n)).copied();
        let known = field(2).and_then(|uid| uid.parse().ok());
        let uid = number.or(known).ok_or_else(|| {
            format!("unable to find user {name}: no matching entries in passwd file")
        })?;
        let gid = match group.filter(|group| !group.is_empty()) {
            Some(group) => self.group(group)?,
            None => field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0),
        };
        let mut groups: Vec<u32> = wanted.groups.clone();
        groups.extend(wanted.fs_group);
        // As containerd has it, a group that is named leaves the image's memberships out.
        if let (Some(user), false, None) = (field(0), wanted.strict_groups, group) {
            groups.extend(self.memberships(user));
        }
        let mut seen = std::collections::HashSet::new();
        groups.retain(|gid| seen.insert(*gid));
        if groups.len() > MOST_GROUPS {
            return Err(format!("user {name} is in more than {MOST_GROUPS} groups"));
        }
        let home = field(5).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
        Ok(User { uid, gid, groups, home })
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        let entry = self.entry(&self.group, |fields| fields[0] == name);
        let known = entry.and_then(|fields| fields.get(2)?.parse().ok());
        name.parse::<u32>().ok().or(known).ok_or_else(|| {
            format!("unable to find group {name}: no matching entries in group file")
        })
    }

    /// Groups that list this user.
    fn memberships(&self, user: &str) -> Vec<u32> {
        let entries = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let of_user = entries.filter(|fields| {
            fields.get(3).is_some_and(|members| members.split(',').any(|m| m.trim() == user))
        });
        of_user.filter_map(|fields| fields.get(2)?.parse().ok()).collect()
    }

    fn entry<'a>(&self, list: &'a str, is: impl Fn(&[&str]) -> bool) -> Option<Vec<&'a str>> {
        let entries = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
        entries.into_iter().find(|fields| is(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &str, change: impl FnOnce(&mut OciContainer), expected: Result<User, &str>) {
        let lists = Lists {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\n"
                .into(),
            group: "root:x:0:\nwww:x:34:\nlogs:x:40:other,web\nodd:x:nan:web\n".into(),
        };
        let mut wanted = OciContainer { user: user.into(), ..Default::default() };
        change(&mut wanted);
        match (lists.user(&wanted), expected) {
            (Ok(got), Ok(user)) => assert_eq!(got, user),
            (Err(message), Err(word)) => assert!(message.contains(word), "{message}"),
            (got, _) => panic!("{user}: {got:?}"),
        }
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, &'static str> {
        Ok(User { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn names_are_looked_up_in_the_image() {
        check("", |_| {}, user(0, 0, &[], "/root"));
        check("web", |_| {}, user(33, 34, &[40], "/var/www"));
        check("33", |_| {}, user(33, 34, &[40], "/var/www"));
        check("web", |c| c.strict_groups = true, user(33, 34, &[], "/var/www"));
        check("web:logs", |_| {}, user(33, 40, &[], "/var/www"));
        check("1000", |_| {}, user(1000, 0, &[], "/"));
        check("1000:2000", |_| {}, user(1000, 2000, &[], "/"));
        let more = |c: &mut OciContainer| {
            c.groups = vec![5, 7, 5];
            c.fs_group = Some(9);
        };
        check("web", more, user(33, 34, &[5, 7, 9, 40], "/var/www"));
        check("nobody", |_| {}, Err("unable to find user nobody"));
        check("web:nobodies", |_| {}, Err("unable to find group nobodies"));
    }
}
