//! `probe-net`: sockets and look-ups, as the arguments say.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use crate::{print, signals};

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    signals::end_at_once();
    let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let done = match arguments[..] {
        ["tcp-echo", at] => tcp_echo(at),
        ["udp-echo", at] => udp_echo(at),
        ["tcp", to, text] => tcp_call(to, text),
        ["udp", to, text] => udp_call(to, text),
        ["resolve", name] => resolve(name),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    done.or_else(|error| {
        print(&format!("failed: {error}"))?;
        std::process::exit(1)
    })
}

fn say(line: &str) -> Result<(), Error> {
    print(line).map_err(Error::other)
}

fn tcp_echo(at: &str) -> Result<(), Error> {
    let listener = TcpListener::bind(at)?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    for client in listener.incoming() {
        let client = client?;
        say(&format!("connection from {}", client.peer_addr()?))?;
        let _ = std::io::copy(&mut &client, &mut &client);
    }
    Ok(())
}

fn tcp_call(to: &str, text: &str) -> Result<(), Error> {
    let mut stream = TcpStream::connect(to)?;
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    say(&format!("{local} called {remote}: {answer}"))
}

fn udp_echo(at: &str) -> Result<(), Error> {
    let socket = UdpSocket::bind(at)?;
    say(&format!("listening on {}", socket.local_addr()?))?;
    let mut datagram = [0; 64 << 10];
    loop {
        let (count, from) = socket.recv_from(&mut datagram)?;
        if let Err(error) = socket.send_to(&datagram[..count], from) {
            say(&format!("cannot answer: {error}"))?;
        }
    }
}

fn udp_call(to: &str, text: &str) -> Result<(), Error> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    socket.send(text.as_bytes())?;
    let mut datagram = [0; 1 << 10];
    let count = socket.recv(&mut datagram)?;
    say(&format!("{to} answered: {}", String::from_utf8_lossy(&datagram[..count])))
}

fn resolve(name: &str) -> Result<(), Error> {
    for address in (name, 0).to_socket_addrs()? {
        say(&format!("{name} is {}", address.ip()))?;
    }
    Ok(())
}
