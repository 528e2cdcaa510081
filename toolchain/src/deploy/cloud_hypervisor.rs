//! Cloud Hypervisor: its command line.

use super::{Deployment, Error, Plan};
use crate::quote;

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    plan.needs_elf()?;
    if plan.disks.iter().any(|disk| disk.contains([',', '"'])) {
        return plan.unsupported("takes no commas or quotes in the path of a disk");
    }
    let mut lines = vec![
        "cloud-hypervisor".to_owned(),
        format!("--kernel {}", quote::shell(&plan.image)),
        format!("--cpus boot={}", plan.cpus),
        format!("--memory size={}M", plan.memory),
        "--serial tty".into(),
        "--console off".into(),
    ];
    if !plan.command_line.is_empty() {
        lines.push(format!("--cmdline {}", quote::shell(&plan.command_line)));
    }
    if !plan.disks.is_empty() {
        let disks = plan.disks.iter().map(|disk| quote::shell(&format!("path={disk}")));
        lines.push(format!("--disk {}", disks.collect::<Vec<_>>().join(" ")));
    }
    let mut nets = Vec::new();
    for (nic, mac) in &plan.nics {
        plan.needs_virtio(nic)?;
        // Each pair is two queues here.
        let queues = 2 * nic.queues();
        nets.push(format!("tap={},mac={mac},num_queues={queues}", plan.tap(nic)?));
    }
    if !nets.is_empty() {
        lines.push(format!("--net {}", nets.join(" ")));
    }
    Ok(Deployment { text: format!("{}\n", lines.join(" \\\n    ")), notes: Vec::new() })
}
