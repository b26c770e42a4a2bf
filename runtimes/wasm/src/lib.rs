//! coracle-wasm
