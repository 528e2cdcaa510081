//! Firecracker: the JSON of `firecracker --config-file` (the resources of its API in one object).

use serde_json::json;

use super::{Deployment, Error, Plan};

/// Firecracker gives a machine no more CPUs.
const MAXIMUM_CPUS: u32 = 32;

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    plan.needs_elf()?;
    if plan.cpus > MAXIMUM_CPUS {
        return plan.unsupported(format!("has at most {MAXIMUM_CPUS} CPUs"));
    }
    let mut interfaces = Vec::new();
    for (index, (nic, mac)) in plan.nics.iter().enumerate() {
        plan.needs_virtio(nic)?;
        if nic.queues() > 1 {
            return plan.unsupported("has NICs with one queue: leave out --queues");
        }
        interfaces.push(json!({
            "iface_id": format!("eth{index}"),
            "guest_mac": mac.to_string(),
            "host_dev_name": plan.tap(nic)?,
        }));
    }
    let disks = plan.disks.iter().enumerate().map(|(index, path)| {
        json!({
            "drive_id": format!("disk{index}"),
            "path_on_host": path,
            "is_root_device": false,
            "is_read_only": false,
            // The guest's flushes reach the disk.
            "cache_type": "Writeback",
        })
    });
    let configuration = json!({
        "boot-source": { "kernel_image_path": plan.image, "boot_args": plan.command_line },
        "machine-config": { "vcpu_count": plan.cpus, "mem_size_mib": plan.memory, "smt": false },
        "drives": disks.collect::<Vec<_>>(),
        "network-interfaces": interfaces,
    });
    let text = format!("{configuration:#}\n");
    let run = format!("firecracker --no-api --config-file {}.json", plan.name);
    Ok(Deployment {
        text,
        notes: vec![format!("save it, then: {run} (a version with PVH boot: 1.12 or newer)")],
    })
}
