//! The zygote alone: `coracle-oci-host SOCKET DATA`, or `coracle-oci-host --cleanup FOLDER CGROUP`.

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match &args[..] {
        [socket, data] => {
            coracle_oci::run(coracle_oci::Config { socket: socket.clone(), data: data.clone() })
        }
        [flag, folder, cgroup] if flag.as_os_str() == "--cleanup" => {
            Ok(coracle_oci::cleanup(folder, cgroup)?)
        }
        _ => anyhow::bail!("usage: coracle-oci-host SOCKET DATA | --cleanup FOLDER CGROUP"),
    }
}
