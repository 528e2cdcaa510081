//! The arguments of `package`, as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::{FormatArgument, RunOptions};

pub const EXAMPLES: &str = "\
NAME is a recipe's name or the path of its folder. Recipes are looked for in the folders given with --packages, in
./packages, and in the project's own.

Examples:
  rumprun-bake package list
  rumprun-bake package bake sqlite
  rumprun-bake package run nginx --cpus 2               boot it, with its ports published on this machine
  rumprun-bake package check ./my-recipe                bake, boot and prove that it answers
  rumprun-bake package bake --all -j 4 -o images --json bake everything, as a CI does

Exit status: 0 success, 1 failure, 2 wrong usage, 3 no such recipe or a wrong one, 4 something that the recipe needs
is not installed or doesn't exist, 5 a checksum differs, 6 the program doesn't build, 7 a check failed. With --all: that
of the recipes that failed, 1 if they failed for different reasons. `package run` ends as `run` does.";

#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// List the recipes.
    List {
        #[command(flatten)]
        search: Search,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a recipe makes.
    Show {
        /// The recipe.
        name: String,
        #[command(flatten)]
        search: Search,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bake recipes; images whose inputs did not change come from the cache.
    Bake(PackageBake),
    /// Print the keys of images: a hash of everything that decides how they come out.
    Key {
        /// The recipes.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All recipes, and one key for all of them together.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        #[command(flatten)]
        search: Search,
        /// The images' kind.
        #[arg(long, value_enum, default_value_t = FormatArgument::Elf)]
        format: FormatArgument,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bake a recipe and boot it.
    Run(PackageRun),
    /// Bake recipes, boot them, and prove that they work.
    Check(PackageCheck),
}

#[derive(Debug, Args)]
pub struct Search {
    /// Look for recipes in this folder first; may be repeated.
    #[arg(long = "packages", value_name = "DIR")]
    pub folders: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PackageBake {
    /// The recipes.
    #[arg(required_unless_present = "all")]
    pub names: Vec<String>,
    /// All recipes.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    #[command(flatten)]
    pub search: Search,
    /// The image; with several recipes, the folder for the images.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// How many are baked at a time; as many as there are CPUs if not given.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// The images' kind.
    #[arg(long, value_enum, default_value_t = FormatArgument::Elf)]
    pub format: FormatArgument,
    /// Say what was baked as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PackageRun {
    /// The recipe.
    pub name: String,
    #[command(flatten)]
    pub search: Search,
    /// Where the disks are kept; ./NAME-data if not given.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub options: RunOptions,
}

#[derive(Debug, Args)]
pub struct PackageCheck {
    /// The recipes.
    #[arg(required_unless_present = "all")]
    pub names: Vec<String>,
    /// All recipes.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    #[command(flatten)]
    pub search: Search,
    /// Say what was found as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub options: RunOptions,
}
