//! One attempt at a check.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    launch::{Outcome, captured::Machine},
    recipe::{
        Action, Protocol, Recipe,
        error::{Error, host_error},
        launch::Reach,
    },
};

/// How long one attempt may take to be answered; the service may just be starting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_LIMIT: usize = 16 << 20;
/// How much of an answer is shown.
const SHOWN: usize = 400;
const POLL: Duration = Duration::from_millis(10);

/// What an attempt gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Success.
    Yes,
    /// No success, but another attempt may have it.
    NotYet(String),
    /// No success.
    No(String),
    /// It can't be tried here.
    Skip(String),
}

/// Tries once, for at most `left`.
pub fn attempt(
    recipe: &Recipe,
    action: &Action,
    reaches: &[Option<Reach>],
    machine: &mut Machine,
    ended: Option<Outcome>,
    left: Duration,
) -> Result<Answer, Error> {
    let patience = left.min(PATIENCE).max(POLL);
    let at = |port: usize| {
        reaches.get(port).copied().flatten().map(|reach| SocketAddr::new(reach.address, reach.port))
    };
    const UNREACHABLE: &str =
        "its address is not known: the interface has no published port, nor address=...";
    Ok(match action {
        Action::Console { text } if machine.console().contains(text) => Answer::Yes,
        Action::Console { .. } => Answer::NotYet("the console never showed it".into()),
        Action::Exit { status } => match ended {
            Some(Outcome::Exited(found)) if found == *status => Answer::Yes,
            Some(_) => Answer::NotYet("it ended otherwise".into()),
            None => Answer::NotYet("it goes on".into()),
        },
        Action::Http { port, path, status, expect } => match at(*port) {
            Some(address) => http(address, path, *status, expect, patience),
            None => Answer::Skip(UNREACHABLE.into()),
        },
        Action::Send { port, text, expect } => match at(*port) {
            Some(address) => {
                let protocol = recipe.ports.get(*port).map(|port| port.protocol).unwrap_or_default();
                let result = match protocol {
                    Protocol::Tcp => tcp(address, text.as_bytes(), expect, patience),
                    Protocol::Udp => udp(address, text.as_bytes(), expect, patience),
                };
                result.unwrap_or_else(|error| Answer::NotYet(format!("{address}: {error}")))
            }
            None => Answer::Skip(UNREACHABLE.into()),
        },
        Action::Command { port, words, status, expect, .. } => {
            if port.is_some_and(|port| at(port).is_none()) {
                return Ok(Answer::Skip(UNREACHABLE.into()));
            }
            let words: Vec<String> =
                words.iter().map(|word| substituted(word, recipe, port.and_then(at), &at)).collect();
            command(&words, &recipe.folder, *status, expect, left)?
        }
    })
}

/// The start of an answer, for a message.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    format!("{:?}", text.trim_end())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn http(address: SocketAddr, path: &str, status: u16, expect: &str, patience: Duration) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build()
        .into();
    let url = format!("http://{address}{path}");
    let result = agent.get(&url).call().and_then(|mut response| {
        let body = response.body_mut().with_config().limit(ANSWER_LIMIT as u64).read_to_vec()?;
        Ok((response.status().as_u16(), body))
    });
    match result {
        Err(error) => Answer::NotYet(format!("{url}: {error}")),
        Ok((found, _)) if found != status => Answer::NotYet(format!("{url}: status {found}")),
        Ok((_, body)) if contains(&body, expect) => Answer::Yes,
        Ok((_, body)) => Answer::NotYet(format!("{url}: no {expect:?} in {}", shown(&body))),
    }
}

fn tcp(address: SocketAddr, text: &[u8], expect: &str, patience: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(text)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if contains(&answer, expect) {
            return Ok(Answer::Yes);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() >= ANSWER_LIMIT {
            return Ok(Answer::NotYet(format!("{address} answered {}", shown(&answer))));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Answer::NotYet(format!("{address} closed after {}", shown(&answer)))),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

fn udp(address: SocketAddr, text: &[u8], expect: &str, patience: Duration) -> io::Result<Answer> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    // Datagrams get lost: better ask again soon.
    socket.set_read_timeout(Some(patience.min(Duration::from_secs(1))))?;
    socket.send(text)?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    match contains(&buffer[..length], expect) {
        true => Ok(Answer::Yes),
        false => Ok(Answer::NotYet(format!("{address} answered {}", shown(&buffer[..length])))),
    }
}

/// `{port}`, `{port:NAME}`, `{address}` and `{folder}` replaced.
fn substituted(
    word: &str,
    recipe: &Recipe,
    own: Option<SocketAddr>,
    at: &dyn Fn(usize) -> Option<SocketAddr>,
) -> String {
    let mut text = word.replace("{folder}", &recipe.folder.display().to_string());
    if let Some(own) = own {
        text = text.replace("{port}", &own.port().to_string()).replace("{address}", &own.ip().to_string());
    }
    for (index, port) in recipe.ports.iter().enumerate() {
        if let Some(address) = at(index) {
            text = text.replace(&format!("{{port:{}}}", port.name), &address.port().to_string());
        }
    }
    text
}

/// Runs a command; what it prints goes to a file, which can't fill up as a pipe can.
fn command(
    words: &[String],
    folder: &Path,
    status: i32,
    expect: &str,
    left: Duration,
) -> Result<Answer, Error> {
    let mut output = tempfile::tempfile().map_err(host_error("a temporary file"))?;
    let share = || output.try_clone().map_err(host_error("a temporary file"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).stdout(share()?).stderr(share()?);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(Answer::No(format!("{}: {error}", words[0]))),
    };
    let deadline = Instant::now() + left;
    let ended = loop {
        match child.try_wait().map_err(host_error(&words[0]))? {
            Some(status) => break Some(status),
            None if Instant::now() >= deadline => break None,
            None => thread::sleep(POLL),
        }
    };
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut printed = Vec::new();
    io::Seek::rewind(&mut output).map_err(host_error("a temporary file"))?;
    output.take(ANSWER_LIMIT as u64).read_to_end(&mut printed).map_err(host_error("a temporary file"))?;
    Ok(match ended {
        None => Answer::NotYet(format!("`{}` goes on; it printed {}", words.join(" "), shown(&printed))),
        Some(found) if found.code() != Some(status) => {
            Answer::NotYet(format!("`{}`: {found}; it printed {}", words.join(" "), shown(&printed)))
        }
        Some(_) if contains(&printed, expect) => Answer::Yes,
        Some(_) => Answer::NotYet(format!("`{}` printed {}", words.join(" "), shown(&printed))),
    })
}
