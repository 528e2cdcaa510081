//! Tests of whole connections: scripts with exact times, and two ends over a bad network, the whole stack.

mod random;
mod script;
mod scripts;
mod simulation;
mod stack;
