//! KubeVirt: a VirtualMachine whose image comes from a registry (as kernel of a kernel boot, or as container disk), a
//! claim for each disk, and a Service for published ports.

use std::fs;

use serde_json::{Value, json};

use super::{Deployment, Error, Plan, Request, container};
use crate::launch::{
    ImageKind,
    network::{Backend, Model, Publish},
};

/// The registry's name for the image unless one is given.
fn default_reference(plan: &Plan) -> String {
    format!("registry.example.com/{}:latest", plan.name)
}

pub fn deploy(plan: &Plan, request: &Request) -> Result<Deployment, Error> {
    let reference = request.reference.clone().unwrap_or_else(|| default_reference(plan));
    let inside = match plan.kind {
        ImageKind::Elf => format!("/boot/{}.elf", plan.name),
        ImageKind::Disk => format!("/disk/{}.img", plan.name),
        ImageKind::Iso => format!("/disk/{}.iso", plan.name),
    };
    let mut documents = vec![machine(plan, &reference, &inside)?];
    for (index, disk) in plan.disks.iter().enumerate() {
        documents.push(claim(plan, index, disk)?);
    }
    documents.extend(service(plan));
    let mut notes = Vec::new();
    match &request.container_disk {
        Some(path) => {
            container::write(path, &plan.image, &inside, &reference)?;
            let archive = path.display();
            notes.push(format!("{archive} is written; push it: skopeo copy oci-archive:{archive} docker://{reference}"));
        }
        None => notes.push(format!(
            "the image {reference} has to have {inside}; --container-disk FILE.tar writes one, --reference names it"
        )),
    }
    notes.push(format!("save it, then: kubectl apply -f {}.yaml", plan.name));
    let yaml = |document: &Value| {
        serde_yaml_ng::to_string(document)
            .map_err(|error| Error::Format { what: "YAML", message: error.to_string() })
    };
    let texts = documents.iter().map(yaml).collect::<Result<Vec<_>, _>>()?;
    Ok(Deployment { text: texts.join("---\n"), notes })
}

fn machine(plan: &Plan, reference: &str, inside: &str) -> Result<Value, Error> {
    let name = &plan.name;
    let (mut disks, mut volumes) = (Vec::new(), Vec::new());
    let mut firmware = json!({});
    if plan.kind == ImageKind::Elf {
        firmware = json!({ "kernelBoot": { "container": { "image": reference, "kernelPath": inside } } });
        if !plan.command_line.is_empty() {
            firmware["kernelBoot"]["kernelArgs"] = plan.command_line.as_str().into();
        }
    } else {
        plan.needs_no_words()?;
        let kind = if plan.kind == ImageKind::Iso { "cdrom" } else { "disk" };
        disks.push(json!({ "name": "image", "bootOrder": 1, kind: { "bus": "sata" } }));
        volumes.push(json!({ "name": "image", "containerDisk": { "image": reference, "path": inside } }));
    }
    for index in 0..plan.disks.len() {
        disks.push(json!({ "name": format!("disk{index}"), "disk": { "bus": "virtio" } }));
        volumes.push(json!({
            "name": format!("disk{index}"),
            "persistentVolumeClaim": { "claimName": format!("{name}-disk{index}") },
        }));
    }
    let (mut interfaces, mut networks) = (Vec::new(), Vec::new());
    for (index, (nic, mac)) in plan.nics.iter().enumerate() {
        let label = format!("eth{index}");
        let model = match nic.model() {
            Model::Virtio => "virtio",
            Model::E1000e => "e1000e",
            Model::E1000 => "e1000",
            Model::Igb => return plan.unsupported("has no igb: use virtio, e1000e or e1000"),
        };
        let mut interface = json!({ "name": label, "model": model, "macAddress": mac.to_string() });
        match &nic.backend {
            Backend::User(published) => {
                if plan.nics[..index].iter().any(|(nic, _)| matches!(nic.backend, Backend::User(_))) {
                    return plan.unsupported("has one pod network: use --bridge for the others");
                }
                interface["masquerade"] = json!({});
                if !published.is_empty() {
                    let port = |publish: &Publish| json!({ "port": publish.guest, "protocol": publish.protocol.name().to_uppercase() });
                    interface["ports"] = published.iter().map(port).collect();
                }
                networks.push(json!({ "name": label, "pod": {} }));
            }
            Backend::Bridge(bridge) => {
                interface["bridge"] = json!({});
                networks.push(json!({ "name": label, "multus": { "networkName": bridge } }));
            }
            Backend::Tap(_) | Backend::Socket(_) => {
                return plan
                    .no_link(nic, "use --publish for the pod's network, --bridge NETWORK for one of Multus");
            }
        }
        interfaces.push(interface);
    }
    let mut devices = json!({ "rng": {}, "disks": disks, "interfaces": interfaces });
    if plan.nics.is_empty() {
        devices["autoattachPodInterface"] = false.into();
    }
    if plan.nics.iter().any(|(nic, _)| nic.queues() > 1) {
        devices["networkInterfaceMultiqueue"] = true.into();
    }
    Ok(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": { "labels": { "app": name, "kubevirt.io/domain": name } },
                "spec": {
                    "architecture": "amd64",
                    "terminationGracePeriodSeconds": 20,
                    "domain": {
                        "machine": { "type": "q35" },
                        "cpu": { "cores": plan.cpus },
                        "memory": { "guest": format!("{}Mi", plan.memory) },
                        "firmware": firmware,
                        "devices": devices,
                    },
                    "networks": networks,
                    "volumes": volumes,
                },
            },
        },
    }))
}

fn claim(plan: &Plan, index: usize, disk: &str) -> Result<Value, Error> {
    let metadata = fs::metadata(disk).map_err(|source| Error::File { path: disk.into(), source })?;
    let mebibytes = metadata.len().div_ceil(1 << 20).max(1);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": format!("{}-disk{index}", plan.name) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block",
            "resources": { "requests": { "storage": format!("{mebibytes}Mi") } },
        },
    }))
}

fn service(plan: &Plan) -> Option<Value> {
    let port = |publish: &Publish| {
        let protocol = publish.protocol.name();
        json!({
            "name": format!("{protocol}-{}", publish.host),
            "port": publish.host,
            "targetPort": publish.guest,
            "protocol": protocol.to_uppercase(),
        })
    };
    let published = plan.nics.iter().flat_map(|(nic, _)| match &nic.backend {
        Backend::User(published) => published.as_slice(),
        _ => &[],
    });
    let ports: Vec<Value> = published.map(port).collect();
    (!ports.is_empty()).then(|| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": plan.name },
            "spec": { "selector": { "kubevirt.io/domain": plan.name }, "ports": ports },
        })
    })
}
