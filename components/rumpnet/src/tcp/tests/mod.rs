//! Tests of whole connections: scripts with exact times.

mod script;
mod scripts;
