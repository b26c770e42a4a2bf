//! The proxy from outside: a process's worth of it in a thread, real sockets, endpoints that tell what they were asked.

mod backends;
mod fixture;

mod limits;
mod protocols;
mod requests;
mod tls;
