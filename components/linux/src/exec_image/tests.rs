//! Loading made-up programs into a space on the host.
