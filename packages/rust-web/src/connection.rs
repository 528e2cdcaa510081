//! A connection: requests in, responses out, nothing that blocks.

use std::{
    io::{self, Read, Write},
    time::Instant,
};

use mio::net::TcpStream;

const HEAD_LIMIT: usize = 16 << 10;
const BODY_LIMIT: usize = 16 << 20;
const HEADERS: usize = 64;
const CHUNK: usize = 64 << 10;
/// Responses that wait to be taken; more requests are read when the peer has taken some.
const OUTPUT_LIMIT: usize = 1 << 20;

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Open,
    Over,
}

pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Nothing more is read: the peer has ended, or the response says that it is the last.
    last: bool,
}

/// A request, as far as it matters here.
struct Request {
    method: String,
    path: String,
    close: bool,
    /// Where the body is in the input.
    body: std::ops::Range<usize>,
}

/// What the input holds.
enum Found {
    Request(Request),
    Incomplete,
    Wrong,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream, input: Vec::new(), output: Vec::new(), written: 0, last: false }
    }

    /// Reads, answers and writes as far as it goes without waiting.
    pub fn advance(&mut self, started: Instant) -> Progress {
        loop {
            let read = match self.read() {
                Ok(read) => read,
                Err(_) => return Progress::Over,
            };
            let answered = self.answer(started);
            match self.write() {
                Ok(true) if self.last => return Progress::Over,
                Ok(true) if read || answered => {}
                Ok(_) => return Progress::Open,
                Err(_) => return Progress::Over,
            }
        }
    }

    /// Takes what the peer sent; whether there was anything.
    fn read(&mut self) -> io::Result<bool> {
        if self.last {
            return Ok(false);
        }
        if self.output.len() - self.written > OUTPUT_LIMIT {
            // There may be something: it is looked for again when the peer has taken what waits.
            return Ok(true);
        }
        let filled = self.input.len();
        self.input.resize(filled + CHUNK, 0);
        let result = self.stream.read(&mut self.input[filled..]);
        self.input.truncate(filled + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => {
                self.last = true;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Answers every whole request; whether there was one.
    fn answer(&mut self, started: Instant) -> bool {
        let mut any = false;
        loop {
            match parse(&self.input) {
                Found::Incomplete => return any,
                Found::Wrong => {
                    self.output.extend_from_slice(
                        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    );
                    self.input.clear();
                    self.last = true;
                    return true;
                }
                Found::Request(request) => {
                    self.respond(&request, started);
                    self.last |= request.close;
                    self.input.drain(..request.body.end);
                    any = true;
                }
            }
        }
    }

    fn respond(&mut self, request: &Request, started: Instant) {
        let page = b"<!doctype html><title>Rust</title><h1>Hello from Rust</h1>\n";
        let health = || format!("{{\"status\":\"ok\",\"uptime\":{}}}\n", started.elapsed().as_secs_f64());
        let (status, kind, body) = match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/") => ("200 OK", "text/html; charset=utf-8", page.to_vec()),
            ("GET" | "HEAD", "/health") => ("200 OK", "application/json", health().into_bytes()),
            ("POST", "/echo") => {
                ("200 OK", "application/octet-stream", self.input[request.body.clone()].to_vec())
            }
            _ => ("404 Not Found", "text/plain", b"there is nothing here\n".to_vec()),
        };
        let connection = if request.close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
            body.len()
        );
        self.output.extend_from_slice(head.as_bytes());
        if request.method != "HEAD" {
            self.output.extend_from_slice(&body);
        }
    }

    /// Writes what the peer takes; whether everything is out.
    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }
}

fn parse(input: &[u8]) -> Found {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() <= HEAD_LIMIT => return Found::Incomplete,
        _ => return Found::Wrong,
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    if header("transfer-encoding").is_some() {
        return Found::Wrong;
    }
    let length = match header("content-length").map(str::parse::<usize>) {
        None => 0,
        Some(Ok(length)) if length <= BODY_LIMIT => length,
        Some(_) => return Found::Wrong,
    };
    if input.len() - head < length {
        return Found::Incomplete;
    }
    let old = request.version == Some(0);
    Found::Request(Request {
        method: request.method.unwrap_or_default().into(),
        path: request.path.unwrap_or_default().into(),
        close: header("connection").map_or(old, |value| value.eq_ignore_ascii_case("close")),
        body: head..head + length,
    })
}
