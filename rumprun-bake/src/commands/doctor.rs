//! `doctor`.

use std::process::ExitCode;

use anyhow::Result;
use toolchain::doctor;

pub fn doctor(json: bool) -> Result<ExitCode> {
    let checks = doctor::examine();
    let mend = doctor::mending_command(&checks);
    if json {
        super::print_json(&serde_json::json!({ "checks": checks, "mend": mend }))?;
    } else {
        let mut text = String::new();
        for check in &checks {
            let state = match (check.present, check.required) {
                (true, _) => "ok     ",
                (false, true) => "MISSING",
                (false, false) => "missing",
            };
            let detail = check.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
            text += &format!("{state}  {:<16} for {}{detail}\n", check.name, check.purpose);
        }
        if let Some(command) = &mend {
            text += &format!("\nto mend: {command}\n");
        }
        super::print(&text)?;
    }
    let complete = checks.iter().all(|check| check.present || !check.required);
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(super::FAILURE) })
}
