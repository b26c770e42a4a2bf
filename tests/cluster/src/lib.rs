//! coracle-test-cluster
