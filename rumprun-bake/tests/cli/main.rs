//! Tests of the real binary, as its users call it.

mod bad_input;
mod commands;
mod deploy;
mod netbsd;
mod netbsd_trouble;
mod network;
mod support;
mod trees;
