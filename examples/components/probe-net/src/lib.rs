//! Not an example but a fixture for tests: sockets, look-ups and clocks, as the arguments say.
//!
//! ```text
//! tcp-echo ADDRESS      serve connections one after the other, sending back what comes
//! udp-echo ADDRESS      send datagrams back to where they came from
//! tcp ADDRESS TEXT      connect, send TEXT, print our address, the other's and the answer
//! udp ADDRESS TEXT      the same with datagrams
//! resolve NAME          print its addresses
//! clocks                print the time of day in seconds, then nanoseconds that 5 ms took
//! ```
//! Any failure is printed with its error code, and the exit code is 1.

use std::io::Write;
use std::net::SocketAddr;

use wasip2::cli::{environment, stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::exports::cli::run::Guest;
use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{OutgoingDatagram, UdpSocket};
use wasip2::sockets::udp_create_socket::create_udp_socket;
use wasip2::sockets::{ip_name_lookup, tcp};

struct Probe;

wasip2::cli::command::export!(Probe);

impl Guest for Probe {
    fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        let done = match arguments[..] {
            ["tcp-echo", at] => tcp_echo(at),
            ["udp-echo", at] => udp_echo(at),
            ["tcp", to, text] => tcp_call(to, text),
            ["udp", to, text] => udp_call(to, text),
            ["resolve", name] => resolve(name),
            ["clocks"] => {
                let begun = monotonic_clock::now();
                monotonic_clock::subscribe_duration(5_000_000).block();
                let passed = monotonic_clock::now() - begun;
                print(&format!("{} {passed}", wall_clock::now().seconds));
                Ok(())
            }
            _ => Err(ErrorCode::InvalidArgument),
        };
        done.map_err(|code| print(&format!("failed: {}", code.name())))
    }
}

fn print(line: &str) {
    let mut stdout = stdout::get_stdout();
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.blocking_flush();
}

fn parsed(text: &str) -> Result<(IpSocketAddress, IpAddressFamily), ErrorCode> {
    match text.parse().map_err(|_| ErrorCode::InvalidArgument)? {
        SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            let address = Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) };
            Ok((IpSocketAddress::Ipv4(address), IpAddressFamily::Ipv4))
        }
        SocketAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.ip().segments();
            let address = Ipv6SocketAddress {
                port: address.port(),
                flow_info: 0,
                address: (a, b, c, d, e, f, g, h),
                scope_id: 0,
            };
            Ok((IpSocketAddress::Ipv6(address), IpAddressFamily::Ipv6))
        }
    }
}

fn shown(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => {
            SocketAddr::from(([a, b, c, d], port)).to_string()
        }
        IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port,
            address: (a, b, c, d, e, f, g, h),
            ..
        }) => SocketAddr::from(([a, b, c, d, e, f, g, h], port)).to_string(),
    }
}

/// Repeats what would block, waiting in between.
fn wait<T>(
    subscribe: impl Fn() -> wasip2::io::poll::Pollable,
    mut attempt: impl FnMut() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match attempt() {
            Err(ErrorCode::WouldBlock) => subscribe().block(),
            done => return done,
        }
    }
}

fn tcp_echo(at: &str) -> Result<(), ErrorCode> {
    let (address, family) = parsed(at)?;
    let socket = create_tcp_socket(family)?;
    socket.start_bind(&instance_network(), address)?;
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.finish_listen()?;
    print(&format!("listening on {}", shown(socket.local_address()?)));
    loop {
        let (client, input, output) = wait(|| socket.subscribe(), || socket.accept())?;
        print(&format!("connection from {}", shown(client.remote_address()?)));
        loop {
            match input.blocking_read(32 << 10) {
                Ok(bytes) => {
                    if bytes.chunks(4096).any(|part| output.blocking_write_and_flush(part).is_err())
                    {
                        break;
                    }
                }
                Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => break,
            }
        }
        let _ = client.shutdown(tcp::ShutdownType::Both);
        drop((input, output));
    }
}

fn tcp_call(to: &str, text: &str) -> Result<(), ErrorCode> {
    let (address, family) = parsed(to)?;
    let socket: TcpSocket = create_tcp_socket(family)?;
    socket.start_connect(&instance_network(), address)?;
    let (input, output) = wait(|| socket.subscribe(), || socket.finish_connect())?;
    let (local, remote) = (shown(socket.local_address()?), shown(socket.remote_address()?));
    output.blocking_write_and_flush(text.as_bytes()).map_err(|_| ErrorCode::Unknown)?;
    socket.shutdown(tcp::ShutdownType::Send)?;
    let mut answer = Vec::new();
    while let Ok(bytes) = input.blocking_read(4096) {
        answer.extend(bytes);
    }
    print(&format!("{local} called {remote}: {}", String::from_utf8_lossy(&answer)));
    Ok(())
}

fn bound(address: IpSocketAddress, family: IpAddressFamily) -> Result<UdpSocket, ErrorCode> {
    let socket = create_udp_socket(family)?;
    socket.start_bind(&instance_network(), address)?;
    socket.finish_bind()?;
    Ok(socket)
}

fn udp_echo(at: &str) -> Result<(), ErrorCode> {
    let (address, family) = parsed(at)?;
    let socket = bound(address, family)?;
    print(&format!("listening on {}", shown(socket.local_address()?)));
    let (input, output) = socket.stream(None)?;
    loop {
        let came = input.receive(16)?;
        if came.is_empty() {
            input.subscribe().block();
        }
        for datagram in came {
            let answer = OutgoingDatagram {
                data: datagram.data,
                remote_address: Some(datagram.remote_address),
            };
            wait(
                || output.subscribe(),
                || match output.check_send()? {
                    0 => Err(ErrorCode::WouldBlock),
                    _ => Ok(()),
                },
            )?;
            if let Err(code) = output.send(&[answer]) {
                print(&format!("cannot answer: {}", code.name()));
            }
        }
    }
}

fn udp_call(to: &str, text: &str) -> Result<(), ErrorCode> {
    let (address, family) = parsed(to)?;
    let any = if address_is_v6(&family) { "[::]:0" } else { "0.0.0.0:0" };
    let socket = bound(parsed(any)?.0, family)?;
    let (input, output) = socket.stream(Some(address))?;
    wait(
        || output.subscribe(),
        || match output.check_send()? {
            0 => Err(ErrorCode::WouldBlock),
            _ => Ok(()),
        },
    )?;
    output.send(&[OutgoingDatagram { data: text.into(), remote_address: None }])?;
    let patience = monotonic_clock::subscribe_duration(5_000_000_000);
    loop {
        if let Some(datagram) = input.receive(1)?.into_iter().next() {
            let answer = String::from_utf8_lossy(&datagram.data).into_owned();
            print(&format!("{} answered: {answer}", shown(datagram.remote_address)));
            return Ok(());
        }
        wasip2::io::poll::poll(&[&input.subscribe(), &patience]);
        if patience.ready() {
            return Err(ErrorCode::Timeout);
        }
    }
}

fn address_is_v6(family: &IpAddressFamily) -> bool {
    matches!(family, IpAddressFamily::Ipv6)
}

fn resolve(name: &str) -> Result<(), ErrorCode> {
    let stream = ip_name_lookup::resolve_addresses(&instance_network(), name)?;
    while let Some(address) = wait(|| stream.subscribe(), || stream.resolve_next_address())? {
        let ip = match address {
            IpAddress::Ipv4((a, b, c, d)) => std::net::IpAddr::from([a, b, c, d]),
            IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
                std::net::IpAddr::from([a, b, c, d, e, f, g, h])
            }
        };
        print(&format!("{name} is {ip}"));
    }
    Ok(())
}
