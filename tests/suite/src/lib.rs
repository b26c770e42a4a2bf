//! coracle-suite
