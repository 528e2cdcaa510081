//! Nomad: a service job for the QEMU task driver, which boots disk images and turns a stop into the power button.

use hcl::{Block, Body, Expression};

use super::{Deployment, Error, Plan};
use crate::launch::{
    ImageKind,
    network::{Backend, Model, user_backend},
};

pub fn deploy(plan: &Plan) -> Result<Deployment, Error> {
    if plan.kind != ImageKind::Disk {
        return plan.unsupported("boots disk images with its QEMU driver: bake with --format raw");
    }
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-smp", plan.cpus.to_string());
    add("-device", "virtio-rng-pci".into());
    for (index, disk) in plan.disks.iter().enumerate() {
        let file = disk.replace(',', ",,");
        add("-drive", format!("if=none,id=disk{index},format=raw,cache=writeback,file={file}"));
        add("-device", format!("virtio-blk-pci,drive=disk{index}"));
    }
    if !plan.command_line.is_empty() {
        let text = plan.command_line.replace(',', ",,");
        add("-fw_cfg", format!("name={},string={text}", image::machine::COMMAND_LINE_FILE));
    }
    let mut ports = Block::builder("network");
    let (mut reserved, mut users) = (false, 0);
    for (index, (nic, mac)) in plan.nics.iter().enumerate() {
        let model = match nic.model() {
            Model::Virtio => "virtio-net-pci",
            other => other.name(),
        };
        let mut words = format!("{model},netdev=net{index},mac={mac}");
        let queues = if nic.queues() > 1 { format!(",queues={}", nic.queues()) } else { String::new() };
        if nic.queues() > 1 {
            words += &format!(",mq=on,vectors={}", 2 * nic.queues() + 2);
        }
        match &nic.backend {
            Backend::Tap(name) => {
                add("-netdev", format!("tap,id=net{index},ifname={name},script=no,downscript=no{queues}"));
            }
            Backend::Bridge(name) if nic.queues() == 1 => {
                add("-netdev", format!("bridge,id=net{index},br={name}"))
            }
            Backend::Bridge(_) => return plan.unsupported("has bridges with one queue: leave out --queues"),
            Backend::User(published) => {
                for publish in published {
                    let label = format!("{}_{}", publish.protocol.name(), publish.host);
                    let port =
                        Block::builder("port").add_label(label).add_attribute(("static", publish.host));
                    ports = ports.add_block(port.build());
                    reserved = true;
                }
                // The driver's own port_map would make an interface with an address and a place of its choice.
                add("-netdev", user_backend(index, nic, published, users));
                users += 1;
            }
            Backend::Socket(_) => return plan.no_link(nic, "use --publish, --tap or --bridge"),
        }
        add("-device", words);
    }
    let config = Block::builder("config")
        .add_attribute(("image_path", plan.image.as_str()))
        .add_attribute(("accelerator", "kvm"))
        .add_attribute(("graceful_shutdown", true))
        .add_attribute(("args", arguments.into_iter().map(Expression::from).collect::<Vec<_>>()));
    let resources = Block::builder("resources")
        .add_attribute(("cores", plan.cpus))
        .add_attribute(("memory", plan.memory));
    let task = Block::builder("task")
        .add_label(plan.name.as_str())
        .add_attribute(("driver", "qemu"))
        .add_attribute(("kill_timeout", "20s"))
        .add_block(config.build())
        .add_block(resources.build());
    let mut group = Block::builder("group").add_label(plan.name.as_str());
    if reserved {
        group = group.add_block(ports.build());
    }
    let job = Block::builder("job")
        .add_label(plan.name.as_str())
        .add_attribute(("type", "service"))
        .add_block(group.add_block(task.build()).build());
    let body = Body::builder().add_block(job.build()).build();
    let text = hcl::to_string(&body)
        .map_err(|error| Error::Format { what: "Nomad job", message: error.to_string() })?;
    let notes = vec![
        "the image's folder must be in image_paths of the client's qemu plugin".to_owned(),
        format!("save it, then: nomad job run {}.nomad.hcl", plan.name),
    ];
    Ok(Deployment { text, notes })
}
