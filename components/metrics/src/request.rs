//! HTTP requests, as far as the server needs them: RFC 9112, sections 2 and 3.

/// The most bytes of a request that are looked at: its line and headers.
pub const LIMIT: usize = 4096;

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The metrics; only their length for HEAD.
    Metrics {
        /// With the text.
        body: bool,
    },
    /// An error: its status line's end.
    Refuse(&'static str),
}

/// Looks at what has come of a request; `None` until its head is complete.
pub fn judge(bytes: &[u8]) -> Option<Answer> {
    // Empty lines in front of a request are ignored (RFC 9112, section 2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let bytes = &bytes[start..];
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let complete = |end: usize| {
        let headers = &bytes[end..];
        headers.windows(2).any(|pair| pair == b"\n\n") || headers.windows(3).any(|three| three == b"\n\r\n")
    };
    let Some(end) = line_end.filter(|&end| complete(end)) else {
        return (start + bytes.len() >= LIMIT)
            .then_some(Answer::Refuse("431 Request Header Fields Too Large"));
    };
    Some(answer(&bytes[..end]))
}

fn answer(line: &[u8]) -> Answer {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Answer::Refuse("400 Bad Request");
    };
    if !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
        return Answer::Refuse("505 HTTP Version Not Supported");
    }
    let body = match method {
        b"GET" => true,
        b"HEAD" => false,
        _ => return Answer::Refuse("405 Method Not Allowed"),
    };
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if path == b"/metrics" { Answer::Metrics { body } } else { Answer::Refuse("404 Not Found") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_when_their_head_is_complete() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(judge(&whole[..length]), None, "{length}");
        }
        assert_eq!(judge(whole), Some(Answer::Metrics { body: true }));
        for (text, expected) in [
            (&b"HEAD /metrics HTTP/1.0\r\n\r\n"[..], Answer::Metrics { body: false }),
            (b"\r\nGET /metrics?name=up HTTP/1.1\n\n", Answer::Metrics { body: true }),
            (b"GET / HTTP/1.1\r\n\r\n", Answer::Refuse("404 Not Found")),
            (b"GET /metrics/ HTTP/1.1\r\n\r\n", Answer::Refuse("404 Not Found")),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Answer::Refuse("405 Method Not Allowed")),
            (b"GET /metrics HTTP/2.0\r\n\r\n", Answer::Refuse("505 HTTP Version Not Supported")),
            (b"GET /metrics\r\n\r\n", Answer::Refuse("400 Bad Request")),
            (b"GET  /metrics HTTP/1.1\r\n\r\n", Answer::Refuse("400 Bad Request")),
            (b"\0\xff\n\n", Answer::Refuse("400 Bad Request")),
        ] {
            assert_eq!(judge(text), Some(expected), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn requests_without_an_end_are_refused() {
        let refused = Some(Answer::Refuse("431 Request Header Fields Too Large"));
        assert_eq!(judge(&[b'a'; LIMIT]), refused);
        assert_eq!(judge(&[b'\n'; LIMIT]), refused);
        let mut text = b"GET /metrics HTTP/1.1\r\n".to_vec();
        text.resize(LIMIT, b'x');
        assert_eq!(judge(&text), refused);
        assert_eq!(judge(&text[..LIMIT - 1]), None);
    }
}
