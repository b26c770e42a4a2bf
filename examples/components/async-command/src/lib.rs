//! A command of WASI 0.3.
//!
//! ```text
//! hello            print the arguments and a name from the environment
//! fail             end with an error
//! tcp-echo PORT    serve connections, all at once, sending back what comes
//! ```

use wasip3::cli::{environment, stdout};
use wasip3::exports::cli::run::Guest;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

struct Command;

wasip3::cli::command::export!(Command);

impl Guest for Command {
    async fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        match arguments[..] {
            ["tcp-echo", port] => serve(port.parse().map_err(drop)?).await,
            ["fail"] => Err(()),
            _ => {
                let variables = environment::get_environment();
                let name = variables.iter().find(|(name, _)| name == "HOSTNAME");
                let name = name.map_or("?", |(_, value)| value);
                print(format!("Hello from WASI 0.3 on {name}: {arguments:?}\n")).await;
                Ok(())
            }
        }
    }
}

async fn print(text: String) {
    let (mut sender, stream) = wit_stream::new();
    let written = stdout::write_via_stream(stream);
    sender.write_all(text.into_bytes()).await;
    drop(sender);
    let _ = written.await;
}

async fn serve(port: u16) -> Result<(), ()> {
    let failed = |code| println(format!("failed: {code:?}"));
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    let address = Ipv4SocketAddress { port, address: (0, 0, 0, 0) };
    socket.bind(IpSocketAddress::Ipv4(address)).map_err(failed)?;
    let mut clients = socket.listen().map_err(failed)?;
    print(format!("listening: {:?}\n", socket.get_local_address())).await;
    while let Some(client) = clients.next().await {
        spawn_local(async move {
            let (received, _) = client.receive();
            let _ = client.send(received).await;
        });
    }
    Ok(())
}

fn println(text: String) {
    spawn_local(print(text + "\n"));
}
