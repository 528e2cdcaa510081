//! The text exposition format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use rumpkern::counter::{self, Metric, MetricKind, Sink};

/// In front of every name.
const PREFIX: &str = "rumprun_";
/// The most bytes of a text; what doesn't fit is left out.
pub const LIMIT: usize = 256 << 10;

/// Everything that is registered.
pub fn render() -> Vec<u8> {
    let mut text = Text { text: String::new(), name: String::new(), is_time: false };
    counter::collect(&mut text);
    text.text.into_bytes()
}

struct Text {
    text: String,
    /// The full name of the metric whose samples come.
    name: String,
    /// Its values are nanoseconds, which are shown as seconds: Prometheus's base unit.
    is_time: bool,
}

/// Characters that can't stand in a name or a label's name become underscores.
fn name_into(out: &mut String, name: &str) {
    let plain = |character: char| match character {
        'a'..='z' | '0'..='9' | '_' => character,
        'A'..='Z' => character.to_ascii_lowercase(),
        _ => '_',
    };
    out.extend(name.chars().map(plain));
}

/// In help, quotes stay as they are.
fn escape_into(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

impl Text {
    /// Adds a line, if there is room for all of it.
    fn line(&mut self, line: &str) {
        if self.text.len() + line.len() < LIMIT && self.text.try_reserve(line.len() + 1).is_ok() {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }
}

impl Sink for Text {
    fn metric(&mut self, metric: &Metric) {
        let mut name = String::from(PREFIX);
        name_into(&mut name, metric.group);
        name.push('_');
        let time = metric.name.strip_suffix("nanoseconds");
        self.is_time = time.is_some();
        name_into(&mut name, time.unwrap_or(metric.name));
        if self.is_time {
            name.push_str("seconds");
        }
        let kind = match metric.kind {
            MetricKind::Counter => {
                name.push_str("_total");
                "counter"
            }
            MetricKind::Gauge => "gauge",
        };
        let mut line = String::new();
        for part in ["# HELP ", &name, " "] {
            line.push_str(part);
        }
        escape_into(&mut line, metric.help, false);
        self.line(&line);
        line.clear();
        for part in ["# TYPE ", &name, " ", kind] {
            line.push_str(part);
        }
        self.line(&line);
        self.name = name;
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let mut line = self.name.clone();
        for (index, (name, value)) in labels.iter().enumerate() {
            line.push(if index == 0 { '{' } else { ',' });
            name_into(&mut line, name);
            line.push_str("=\"");
            escape_into(&mut line, value, true);
            line.push('"');
        }
        if !labels.is_empty() {
            line.push('}');
        }
        line.push(' ');
        if self.is_time {
            line.push_str(&format!("{}.{:09}", value / 1_000_000_000, value % 1_000_000_000));
        } else {
            line.push_str(&value.to_string());
        }
        self.line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fill: impl FnOnce(&mut Text)) -> String {
        let mut text = Text { text: String::new(), name: String::new(), is_time: false };
        fill(&mut text);
        text.text
    }

    #[test]
    fn names_labels_and_help_are_as_prometheus_wants_them() {
        let text = text(|text| {
            let help = "A \"help\" with\na line and a \\";
            text.metric(&Metric { group: "tcp", name: "SEGMENTS_IN", help, kind: MetricKind::Counter });
            text.sample(&[], 7);
            text.metric(&Metric { group: "up", name: "nanoseconds", help: "", kind: MetricKind::Gauge });
            text.sample(&[], 12_000_345_678);
            text.metric(&Metric { group: "net", name: "Öpen", help: "Gauge", kind: MetricKind::Gauge });
            text.sample(&[("interface", "e\"0\\\n"), ("b c", "ü")], u64::MAX);
        });
        let expected = "# HELP rumprun_tcp_segments_in_total A \"help\" with\\na line and a \\\\\n\
                        # TYPE rumprun_tcp_segments_in_total counter\nrumprun_tcp_segments_in_total 7\n\
                        # HELP rumprun_up_seconds \n# TYPE rumprun_up_seconds gauge\n\
                        rumprun_up_seconds 12.000345678\n\
                        # HELP rumprun_net__pen Gauge\n# TYPE rumprun_net__pen gauge\n\
                        rumprun_net__pen{interface=\"e\\\"0\\\\\\n\",b_c=\"ü\"} 18446744073709551615\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_text_stays_within_its_limit() {
        let text = text(|text| {
            text.metric(&Metric { group: "a", name: "b", help: "", kind: MetricKind::Gauge });
            let long = "x".repeat(1000);
            (0..10_000).for_each(|value| text.sample(&[("label", &long)], value));
        });
        assert!(text.len() <= LIMIT && text.len() > LIMIT - 2000 && text.ends_with('\n'));
    }

    /// promtool says what Prometheus itself would.
    #[test]
    fn prometheus_accepts_everything_that_is_registered() {
        use std::{
            io::Write,
            process::{Command, Stdio},
        };
        crate::register();
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            std::println!("skipped: promtool is not installed (Debian: prometheus)");
            return;
        };
        child.stdin.take().expect("a pipe").write_all(&render()).expect("written");
        let output = child.wait_with_output().expect("promtool ends");
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{said}\n{:?}", String::from_utf8(render()));
    }
}
