//! How long work says what it is doing; the command line shows it as a bar, as lines, or not at all.

/// Takes messages.
pub trait Report {
    /// A step begins ("building the kernel").
    fn step(&self, message: &str);
    /// Where the current step is.
    fn detail(&self, _message: &str) {}
    /// Something the user should know, although the work goes on.
    fn warn(&self, message: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Report for Silent {
    fn step(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
}
