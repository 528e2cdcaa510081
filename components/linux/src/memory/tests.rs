//! The system calls on memory, as a task on the host makes them.
