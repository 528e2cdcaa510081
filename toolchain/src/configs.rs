//! The baking configurations: which platform and which components an image gets.

/// Where images of a configuration are meant to run. One kernel knows all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a machine, real or QEMU's.
    Machine,
    /// In a domain of Xen.
    Xen,
}

/// A baking configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for `list`.
    pub summary: &'static str,
    /// What it is for, for `describe`.
    pub description: &'static str,
    /// Where its images run if nothing else is said.
    pub place: Place,
    /// Where its images boot.
    pub platform: &'static str,
    /// What is in its kernel.
    pub components: &'static [&'static str],
    /// Cargo features of the kernel crate. Configurations with the same ones have the same kernel.
    pub features: &'static [&'static str],
}

/// What the kernel has in it.
const COMPONENTS: &[&str] =
    &["linux", "rumpkern", "rumpvfs", "rumpdev", "rumpnet", "virtio", "e1000e", "xenfront", "ext4"];

/// Every configuration.
pub const CONFIGS: &[Config] = &[
    Config {
        name: "hw_direct",
        summary: "PC hardware and virtual machines: Linux programs on the built-in components",
        description: "Runs unmodified x86-64 Linux programs on a PC, QEMU, Firecracker or Cloud Hypervisor. \
                      Everything is in one image: the application, its files, file systems and drivers. The kernel is \
                      that of xen_direct, so an ELF image is a Xen domain, too.",
        place: Place::Machine,
        platform: "hw: PVH and Multiboot2 boot, ACPI, APIC, PCI, virtio",
        components: COMPONENTS,
        features: &[],
    },
    Config {
        name: "xen_direct",
        summary: "PVH domains of Xen: Linux programs on the built-in components",
        description: "Runs unmodified x86-64 Linux programs in a domain of Xen 4.11 or later. The kernel is that of \
                      hw_direct: it looks at its entry for where it is. What differs is that `run` takes Xen if it \
                      isn't told otherwise, and that there are ELF images only.",
        place: Place::Xen,
        platform: "xen: PVH boot, event channels, grant tables, xenstore",
        components: COMPONENTS,
        features: &[],
    },
];

/// No such configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown configuration `{name}`: did you mean `{nearest}`? `rumprun-bake list` shows all")]
pub struct Unknown {
    /// What was asked for.
    pub name: String,
    /// The one whose name is nearest.
    pub nearest: &'static str,
}

/// Finds a configuration by name.
pub fn find(name: &str) -> Result<&'static Config, Unknown> {
    CONFIGS.iter().find(|config| config.name == name).ok_or_else(|| Unknown {
        name: name.into(),
        nearest: CONFIGS
            .iter()
            .map(|config| config.name)
            .min_by_key(|candidate| distance(name, candidate))
            .unwrap_or_default(),
    })
}

/// Edits that turn one word into the other (Levenshtein).
pub fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, character) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let substitute = diagonal + usize::from(character != *other);
            diagonal = row[column + 1];
            row[column + 1] = substitute.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        assert_eq!(find("hw_direct").map(|config| config.name), Ok("hw_direct"));
        assert!(find("xendirect").expect_err("unknown").to_string().contains("`xen_direct`"));
        assert!(find("hw-dirct").expect_err("unknown").to_string().contains("`hw_direct`"));
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")), (3, 2, 0));
    }
}
