//! Components that misbehave in ways no compiler would make, from a few lines of Wasm text.
//!
//! The core module imports what `probe-http` imports, so its world is taken from that component.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use coracle_sandbox::Image;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};

use super::fixture::{TestHost, example, image};

/// What the guests have at hand. `$begin` answers 200 and returns the body and its stream;
/// `$say` writes "part\n"; `$nap` sleeps for milliseconds.
const TOOLS: &str = r#"
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-response"
    (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-response.body"
    (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-body.write"
    (func $stream (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish"
    (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[resource-drop]outgoing-body" (func $drop-body (param i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.check-write"
    (func $check (param i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.write"
    (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-flush"
    (func $flush (param i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream"
    (func $drop-stream (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
    (func $subscribe (param i64) (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "part\n")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func $begin (param $out i32) (result i32 i32)
    (local $response i32)
    (local.set $response (call $response (call $fields)))
    (call $body (local.get $response) (i32.const 64))
    (call $answer (local.get $out) (local.get $response))
    (call $stream (i32.load (i32.const 68)) (i32.const 80))
    (i32.load (i32.const 68))
    (i32.load (i32.const 84)))
  (func $answer (param $out i32) (param $response i32)
    (call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0) (i64.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
  (func $say (param $stream i32)
    (call $check (local.get $stream) (i32.const 96))
    (call $write (local.get $stream) (i32.const 1024) (i32.const 5) (i32.const 96))
    (call $flush (local.get $stream) (i32.const 96)))
  (func $nap (param $ms i64)
    (local $pollable i32)
    (local.set $pollable
      (call $subscribe (i64.mul (local.get $ms) (i64.const 1000000))))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable)))
"#;

/// A component whose handler does this, with `$out` to answer to and locals `$body` and `$stream`.
pub(super) fn crafted(host: &TestHost, name: &str, handler: &str) -> Image {
    let module = format!(
        r#"(module {TOOLS}
          (func (export "wasi:http/incoming-handler@0.2.12#handle") (param $request i32)
            (param $out i32) (local $body i32) (local $stream i32)
            {handler}))"#
    );
    encoded(host, name, &module, "probe-http")
}

/// A command that opens the first folder it mounts again and again, until it is told no; then it naps for so many milliseconds
/// and ends well.
pub(super) fn opener(host: &TestHost, name: &str, nap: u32) -> Image {
    let module = format!(
        r#"(module
          (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $folders (param i32)))
          (import "wasi:filesystem/types@0.2.12" "[method]descriptor.open-at"
            (func $open (param i32 i32 i32 i32 i32 i32 i32)))
          (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
            (func $subscribe (param i64) (result i32)))
          (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
          (memory (export "memory") 2)
          (data (i32.const 1024) ".")
          (global $free (mut i32) (i32.const 4096))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $free)
            (global.set $free
              (i32.and (i32.add (i32.add (global.get $free) (local.get 3)) (i32.const 15)) (i32.const -16))))
          (func (export "wasi:cli/run@0.2.12#run") (result i32)
            (call $folders (i32.const 64))
            (loop $again
              (call $open (i32.load (i32.load (i32.const 64))) (i32.const 0) (i32.const 1024)
                (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 80))
              (br_if $again (i32.eqz (i32.load8_u (i32.const 80)))))
            (call $block (call $subscribe (i64.const {nap}000000)))
            (i32.const 0)))"#
    );
    encoded(host, name, &module, "probe-files")
}

/// A handler that sends more requests to a server than it may have connections, naps for a while, and goes on, without end and
/// without a look at any answer.
pub(super) fn caller(host: &TestHost, name: &str, server: SocketAddr) -> Image {
    let authority = server.to_string();
    let module = format!(
        r#"(module
          (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
          (import "wasi:http/types@0.2.12" "[constructor]outgoing-request"
            (func $request (param i32) (result i32)))
          (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-scheme"
            (func $scheme (param i32 i32 i32 i32 i32) (result i32)))
          (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
            (func $authority (param i32 i32 i32 i32) (result i32)))
          (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-path-with-query"
            (func $path (param i32 i32 i32 i32) (result i32)))
          (import "wasi:http/outgoing-handler@0.2.12" "handle"
            (func $handle (param i32 i32 i32 i32)))
          (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
            (func $subscribe (param i64) (result i32)))
          (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 1000) "/")
          (data (i32.const 1024) "{authority}")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
          (func $one
            (local $request i32)
            (local.set $request (call $request (call $fields)))
            (drop (call $scheme (local.get $request) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
            (drop (call $authority (local.get $request) (i32.const 1) (i32.const 1024)
              (i32.const {})))
            (drop (call $path (local.get $request) (i32.const 1) (i32.const 1000) (i32.const 1)))
            (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 80)))
          (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
            (local $count i32)
            (loop $again
              (call $one)
              (local.set $count (i32.add (local.get $count) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $count) (i32.const 3000))))
            (call $block (call $subscribe (i64.const 2000000000)))
            (loop $again (call $one) (br $again))))"#,
        authority.len()
    );
    encoded(host, name, &module, "probe-http")
}

/// A command that connects to a server with one socket after the other, until it is told no; then it naps for so many
/// milliseconds and ends well.
pub(super) fn dialer(host: &TestHost, name: &str, server: SocketAddrV4, nap: u32) -> Image {
    let [a, b, c, d] = server.ip().octets();
    let port = server.port();
    let module = format!(
        r#"(module
          (import "wasi:sockets/instance-network@0.2.12" "instance-network"
            (func $network (result i32)))
          (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket"
            (func $create (param i32 i32)))
          (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.start-connect"
            (func $connect (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.finish-connect"
            (func $connected (param i32 i32)))
          (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
            (func $subscribe (param i64) (result i32)))
          (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
          (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
          (func (export "wasi:cli/run@0.2.12#run") (result i32)
            (local $network i32)
            (local.set $network (call $network))
            (loop $again
              (call $create (i32.const 0) (i32.const 64))
              (if (i32.eqz (i32.load8_u (i32.const 64))) (then
                (call $connect (i32.load (i32.const 68)) (local.get $network) (i32.const 0)
                  (i32.const {port}) (i32.const {a}) (i32.const {b}) (i32.const {c}) (i32.const {d})
                  (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                  (i32.const 80))
                (call $connected (i32.load (i32.const 68)) (i32.const 96))
                (br $again))))
            (call $block (call $subscribe (i64.const {nap}000000)))
            (i32.const 0)))"#
    );
    encoded(host, name, &module, "probe-net")
}

/// A module as a component of the world of `model`.
fn encoded(host: &TestHost, name: &str, module: &str, model: &str) -> Image {
    let mut module = wat::parse_str(module).unwrap();
    let model = std::fs::read(example(model).path).unwrap();
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&model).unwrap() else {
        panic!("a component");
    };
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    let encoder = ComponentEncoder::default().module(&module).unwrap();
    let component = encoder.validate(true).encode().unwrap();
    let path: PathBuf = host.folder.path().join(format!("{name}.wasm"));
    std::fs::write(&path, component).unwrap();
    image(path)
}
