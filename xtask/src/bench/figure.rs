//! A figure: what was measured, beside Linux where that can be had, and what it should be.

use std::fmt;

use serde::Serialize;

/// What a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Aim {
    /// Compared: ours divided by Linux's at most this. Alone: the figure at most this.
    AtMost(f64),
    /// Compared: ours divided by Linux's at least this.
    AtLeast(f64),
    /// Our figure at least this, whatever Linux's is.
    OursAtLeast(f64),
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The unit of `ours` and `linux`.
    pub unit: String,
    /// Our figure.
    pub ours: f64,
    /// The Linux guest's, in the same run.
    pub linux: Option<f64>,
    /// What it should be.
    pub aim: Aim,
    /// Whether it is.
    pub met: bool,
}

impl Figure {
    /// A figure that both have.
    pub fn compared(name: &str, unit: &str, ours: f64, linux: f64, aim: Aim) -> Self {
        let met = match aim {
            Aim::AtMost(ratio) => ours / linux <= ratio,
            Aim::AtLeast(ratio) => ours / linux >= ratio,
            Aim::OursAtLeast(least) => ours >= least,
        };
        Figure { name: name.into(), unit: unit.into(), ours, linux: Some(linux), aim, met }
    }

    /// A figure that only we have.
    pub fn alone(name: &str, unit: &str, ours: f64, aim: Aim) -> Self {
        let met = match aim {
            Aim::AtMost(most) => ours <= most,
            Aim::AtLeast(least) | Aim::OursAtLeast(least) => ours >= least,
        };
        Figure { name: name.into(), unit: unit.into(), ours, linux: None, aim, met }
    }

    /// Ours divided by Linux's.
    pub fn ratio(&self) -> Option<f64> {
        self.linux.map(|linux| self.ours / linux)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = if self.ours >= 100.0 { 0 } else { 2 };
        write!(out, "{:<34}{:>12.precision$} {:<3}", self.name, self.ours, self.unit)?;
        match (self.linux, self.ratio()) {
            (Some(linux), Some(ratio)) => {
                write!(out, "  Linux {linux:>12.precision$} {:<3}  ratio {ratio:>6.3}", self.unit)?;
            }
            _ => write!(out, "{:44}", "")?,
        }
        match self.aim {
            Aim::AtMost(most) if self.linux.is_some() => write!(out, "  aim <= {most:.3}")?,
            Aim::AtMost(most) => write!(out, "  aim <= {most} {}", self.unit)?,
            Aim::AtLeast(least) => write!(out, "  aim >= {least:.3}")?,
            Aim::OursAtLeast(least) => write!(out, "  aim >= {least} {}", self.unit)?,
        }
        write!(out, "  {}", if self.met { "met" } else { "missed" })
    }
}
