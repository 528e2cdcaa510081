//! A server that is looked at and pestered: nmap's guesses, ping floods, clients that send nonsense or never read.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown},
    time::Duration,
};

use tests::{
    Guest,
    clients::ping,
    needs,
    network::Link,
    recipe::{Server, image},
};

fn boot(cpus: usize) -> Option<Server> {
    let guest = Guest::new(&image("nginx")?).cpus(cpus);
    let mut server = Server::boot(guest, Link::Tap { queues: cpus as u16 }, &[80, 443])?;
    works(&mut server);
    Some(server)
}

fn works(server: &mut Server) {
    server.wait_for_answer(80, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
}

#[test]
fn nmap_sees_what_there_is() {
    needs!("nmap");
    let Some(mut server) = boot(2) else { return };
    let (host, _) = server.address(80);
    let report = server.client("nmap", ["-n", "-sV", "-p", "22,80,443,8080", &host]);
    for line in ["22/tcp   closed", "80/tcp   open   http", "443/tcp  open   ssl/http", "8080/tcp closed"] {
        assert!(report.contains(line), "{line}: {report}");
    }
    assert!(report.contains("nginx"), "{report}");
    works(&mut server);
    let report = server.client("nmap", ["-n", "-O", "-sS", "-p", "1-1000", &host]);
    assert!(report.contains("80/tcp  open") && report.contains("443/tcp open"), "{report}");
    works(&mut server);
    let report = server.client("nmap", ["-n", "-sU", "-p", "53,123,9999", &host]);
    assert!(report.contains("9999/udp closed"), "{report}");
    works(&mut server);
}

#[test]
fn a_ping_flood_is_answered() {
    needs!("ping");
    let Some(mut server) = boot(1) else { return };
    let (host, _) = server.address(80);
    for size in ["56", "1400", "8000"] {
        ping(&server.network, &["-s", size, "-f", "-c", "2000", "-W", "5", &host]);
    }
    ping(&server.network, &["-f", "-c", "1000", "fd77::2"]);
    works(&mut server);
}

#[test]
fn bad_clients_do_no_harm() {
    let Some(mut server) = boot(4) else { return };
    let endpoint = server.network.endpoint(80);
    assert!(matches!(endpoint.ip(), IpAddr::V4(_)));
    let mut random = fastrand::Rng::with_seed(4);
    let mut open = Vec::new();
    for number in 0..300 {
        let mut stream = server.network.connect(80).expect("nginx listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        match number % 5 {
            // Nonsense, and away.
            0 => {
                let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3000).collect();
                let _ = stream.write_all(&noise);
            }
            // Half a request that is never finished.
            1 => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost:").expect("connected");
                open.push(stream);
            }
            // Requests whose answers nobody reads.
            2 => {
                let _ = stream.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000));
                open.push(stream);
            }
            // A request, and the sending half closed before the answer.
            3 => {
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("connected");
                stream.shutdown(Shutdown::Write).expect("connected");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("an answer");
                assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("</p>\n"), "{answer}");
            }
            // Nothing at all.
            _ => {}
        }
    }
    works(&mut server);
    drop(open);
    works(&mut server);
}
