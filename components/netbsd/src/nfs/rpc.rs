//! Remote procedure calls (RFC 5531): calls and their replies as messages, and the marks of records on TCP.

use alloc::vec::Vec;

use super::xdr::{Reader, Writer};

/// `msg_type`.
const CALL: u32 = 0;
const REPLY: u32 = 1;
/// The version of the protocol.
const VERSION: u32 = 2;
/// `auth_flavor`: none, and numbers of a user.
const NO_CREDENTIALS: u32 = 0;
const SYSTEM: u32 = 1;
/// The longest body of credentials (section 8.2).
const LONGEST_CREDENTIALS: usize = 400;
/// `reply_stat` and `accept_stat` of a call that was served.
const ACCEPTED: u32 = 0;
const SUCCESS: u32 = 0;
/// In a record's mark: it is the message's last (section 11).
const LAST: u32 = 1 << 31;
/// Bytes of a record's mark.
pub const MARK: usize = 4;

/// What is called: program, version, procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Procedure {
    /// The program's number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure's number.
    pub number: u32,
}

/// A call by root, to which the arguments are appended.
pub fn call(transaction: u32, procedure: Procedure) -> Writer {
    let Procedure { program, version, number } = procedure;
    let mut credentials = Writer::default();
    // A stamp, the machine's name, user, group, other groups (appendix A).
    credentials.words(&[0]).bytes(b"").words(&[0, 0, 0]);
    let mut message = Writer::default();
    message.words(&[transaction, CALL, VERSION, program, version, number, SYSTEM]).bytes(&credentials.0);
    message.words(&[NO_CREDENTIALS]).bytes(b"");
    message
}

/// The results in a reply to a call; `None` if it isn't that, or the call wasn't served.
pub fn results(transaction: u32, message: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(message);
    let expected = [transaction, REPLY, ACCEPTED];
    for word in expected {
        (reader.word()? == word).then_some(())?;
    }
    reader.word()?;
    reader.bytes(LONGEST_CREDENTIALS)?;
    (reader.word()? == SUCCESS).then_some(reader)
}

/// Why a call isn't served (`accept_stat`).
pub enum Refusal {
    /// There is no such program.
    Program,
    /// It has other versions: from the first to the second.
    Version([u32; 2]),
    /// It has no such procedure.
    Procedure,
    /// The arguments can't be read.
    Arguments,
}

/// The transaction, procedure and arguments of a call; `None` if it is none. Who calls isn't looked at.
pub fn called(message: &[u8]) -> Option<(u32, Procedure, Reader<'_>)> {
    let mut reader = Reader::new(message);
    let transaction = reader.word()?;
    for expected in [CALL, VERSION] {
        (reader.word()? == expected).then_some(())?;
    }
    let procedure = Procedure { program: reader.word()?, version: reader.word()?, number: reader.word()? };
    // Credentials, and what proves them.
    for _ in 0..2 {
        reader.word()?;
        reader.bytes(LONGEST_CREDENTIALS)?;
    }
    Some((transaction, procedure, reader))
}

/// The reply to a call.
pub fn reply(transaction: u32, results: Result<Writer, Refusal>) -> Vec<u8> {
    let mut message = Writer::default();
    message.words(&[transaction, REPLY, ACCEPTED, NO_CREDENTIALS]).bytes(b"");
    match results {
        Ok(results) => message.words(&[SUCCESS]).0.extend(results.0),
        Err(Refusal::Program) => _ = message.words(&[1]),
        Err(Refusal::Version([low, high])) => _ = message.words(&[2, low, high]),
        Err(Refusal::Procedure) => _ = message.words(&[3]),
        Err(Refusal::Arguments) => _ = message.words(&[4]),
    }
    message.0
}

/// A message as one record.
pub fn record(message: &[u8]) -> Vec<u8> {
    let mut record = (message.len() as u32 | LAST).to_be_bytes().to_vec();
    record.extend(message);
    record
}

/// The bytes of a record by its mark, and whether it is the message's last.
pub fn marked(mark: [u8; MARK]) -> (usize, bool) {
    let mark = u32::from_be_bytes(mark);
    ((mark & !LAST) as usize, mark & LAST != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_replies_have_their_layout() {
        let sent = call(7, Procedure { program: 100_005, version: 3, number: 1 });
        let words: Vec<u32> =
            sent.0.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [7, 0, 2, 100_005, 3, 1, 1, 20, 0, 0, 0, 0, 0, 0, 0]);
        let mut reply = Writer::default();
        reply.words(&[7, 1, 0, 0]).bytes(b"").words(&[0, 42]);
        assert_eq!(results(7, &reply.0).and_then(|mut rest| rest.word()), Some(42));
        assert!(results(8, &reply.0).is_none());
        // The program isn't there.
        let mut refused = reply.0.clone();
        refused[23] = 1;
        assert!(results(7, &refused).is_none());
        assert!((0..reply.0.len() - 4).all(|length| results(7, &reply.0[..length]).is_none()));
    }

    #[test]
    fn records_are_marked() {
        assert_eq!(record(b"abcd")[..MARK], [0x80, 0, 0, 4]);
        assert_eq!((marked([0x80, 0, 0, 4]), marked([0, 1, 0, 0])), ((4, true), (65536, false)));
    }
}
