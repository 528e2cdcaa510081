//! What bakes, inspects and launches images: the library behind the command line.
//!
//! [`bake()`] follows programs ([`follow`], [`elf`]), packs a root file system ([`collect`], [`skeleton`]), builds
//! the kernel ([`kernel`]) and writes an image ([`boot_elf`], [`disk`]); [`launch`] runs one, [`deploy`] has others run it.

pub mod bake;
pub mod boot_elf;
pub mod collect;
pub mod configs;
pub mod configuration;
pub mod deploy;
pub mod disk;
pub mod doctor;
pub mod elf;
pub mod follow;
pub mod hash;
pub mod inspect;
pub mod kernel;
pub mod launch;
pub mod manifest;
pub mod netbsd;
pub mod output;
pub mod package;
pub mod programs;
pub mod quote;
pub mod recipe;
pub mod report;
pub mod sbom;
pub mod size;
pub mod skeleton;
pub mod xen;

pub use image::{
    command_line::{CommandLine, METRICS, NO_ECHO},
    config::Configuration,
};
