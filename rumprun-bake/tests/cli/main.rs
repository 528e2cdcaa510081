//! Tests of the real binary, as its users call it.

mod bad_input;
mod commands;
mod deploy;
mod netbsd;
mod network;
mod support;
mod trees;
