//! coracle-tidy
