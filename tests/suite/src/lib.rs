//! The end-to-end suite: what users do, with the real `kubectl` and the `kube` crate, against the real `coracle` binary.
//!
//! All of it is in one test binary, `tests/e2e`; this library is empty.
