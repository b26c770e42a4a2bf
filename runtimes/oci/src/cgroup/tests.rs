use std::path::PathBuf;

use super::mounts::Mount;
use super::*;

#[test]
fn hierarchies_are_found_in_mountinfo() {
    let one = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
               26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
               27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
               28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
               29 25 0:23 / /var/other/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
    let cpu = Some(vec!["cpu".to_owned(), "cpuacct".to_owned()]);
    let expected = Mount { path: PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), controllers: cpu };
    assert_eq!(Mounts::read(one).0, [expected]);

    let two = "25 20 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let expected = Mount { path: PathBuf::from("/sys/fs/cgroup"), controllers: None };
    assert_eq!(Mounts::read(two).0, [expected]);
}
