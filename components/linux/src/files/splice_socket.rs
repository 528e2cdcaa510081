//! Pages between files, pipes and stream sockets, passed on by reference instead of being copied.

use alloc::sync::Arc;

use rumpkern::{Errno, Result, vm::Pager};
use rumpnet::{
    packet::{Chain, Fragment},
    socket::{self, MessageFlags, Socket},
};
use rumpuser::{memory::PAGE_SIZE, rumpuser_frame_retain, rumpuser_interrupted};
use rumpvfs::{
    file::OpenFlags,
    pipe::{Pipe, Segment},
    vnode::Kind,
};

use super::open_file::OpenFile;

/// How much of a file is handed over at a time.
const BATCH: usize = 64 << 10;

/// The socket behind a file, if it takes pages.
pub fn stream_of(file: &OpenFile) -> Option<&dyn Socket> {
    let socket = socket::of_file(&**file.file()).ok()?;
    (socket.style() == socket::Style::Stream && socket.domain() != socket::Domain::Unix).then_some(socket)
}

/// The pages of a regular file, if it has them in memory or can bring them there.
pub fn pages_of(file: &OpenFile) -> Option<Arc<dyn Pager>> {
    let vnode = file.vnode()?;
    if vnode.kind() != Kind::Regular { None } else { file.file().pager().ok() }
}

fn message_flags(file: &OpenFile, block: bool) -> MessageFlags {
    if !block || file.flags().contains(OpenFlags::NON_BLOCKING) {
        MessageFlags::DONT_WAIT
    } else {
        MessageFlags::default()
    }
}

/// References to `length` bytes of a file from `at` on.
fn chain_of(pager: &dyn Pager, mut at: u64, length: usize) -> Result<Chain> {
    let mut chain = Chain::new();
    while chain.len() < length {
        let offset = (at % PAGE_SIZE as u64) as usize;
        let size = (PAGE_SIZE - offset).min(length - chain.len());
        match pager.page(at / PAGE_SIZE as u64, false) {
            Ok(frame) => chain.push(Fragment::from_frame(frame, offset..offset + size)),
            Err(error) if chain.is_empty() => return Err(error),
            Err(_) => break,
        }
        at += size as u64;
    }
    Ok(chain)
}

/// References to `length` zeros.
fn zeros(length: usize) -> Result<Chain> {
    let mut page = Fragment::new(0).map_err(|_| Errno::ENOMEM)?;
    page.append(&[0; PAGE_SIZE]);
    let mut chain = Chain::new();
    while chain.len() < length {
        chain.push(page.slice(0..PAGE_SIZE.min(length - chain.len())));
    }
    Ok(chain)
}

/// How far the data or the hole at `at` goes, and whether it is a hole: asking a pager would fill it.
fn extent(file: &OpenFile, at: u64, end: u64) -> (u64, bool) {
    match file.file().seek_data(at, true) {
        Ok(hole) if hole > at => (hole - at, false),
        Ok(_) => (file.file().seek_data(at, false).unwrap_or(end) - at, true),
        Err(_) => (end - at, false),
    }
}

/// Sends up to `count` bytes of a file from `*at` on, which moves. `block`: as far as the socket's flags allow.
pub fn send_file(
    pager: &dyn Pager,
    file: &OpenFile,
    at: &mut u64,
    (to, socket): (&OpenFile, &dyn Socket),
    count: usize,
    block: bool,
) -> Result<usize> {
    let flags = message_flags(to, block);
    let mut done = 0;
    while done < count {
        let size = file.attributes()?.size;
        let left = usize::try_from(size.saturating_sub(*at)).unwrap_or(usize::MAX);
        let wanted = (count - done).min(left);
        if wanted == 0 {
            break;
        }
        let (run, hole) = extent(file, *at, size);
        let batch = wanted.min(BATCH).min(usize::try_from(run).unwrap_or(usize::MAX));
        if batch == 0 {
            break;
        }
        let chain = if hole { zeros(batch) } else { chain_of(pager, *at, batch) };
        let sent = chain.and_then(|mut chain| {
            let flags = if batch < wanted { flags | MessageFlags::MORE } else { flags };
            socket.send_chain(&mut chain, flags)
        });
        match sent {
            Ok(size) => {
                *at += size as u64;
                done += size;
                if size < batch || rumpuser_interrupted() {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Moves data from a pipe to a socket.
pub fn pipe_to_socket(
    pipe: &Pipe,
    (to, socket): (&OpenFile, &dyn Socket),
    count: usize,
    block: bool,
) -> Result<usize> {
    let flags = message_flags(to, block);
    let mut done = 0;
    while done < count {
        // Only the first piece is waited for.
        let segment = match pipe.take(count - done, block && done == 0) {
            Ok(Some(segment)) => segment,
            Ok(None) => break,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let (frame, offset) = segment.frame();
        let length = segment.len();
        rumpuser_frame_retain(frame);
        let mut chain = Chain::new();
        chain.push(Fragment::from_frame(frame, offset..offset + length));
        // What follows in the pipe goes into the same segments.
        let more = done + length < count && pipe.length() > 0;
        let flags = if more { flags | MessageFlags::MORE } else { flags };
        let result = socket.send_chain(&mut chain, flags);
        let sent = length - chain.len();
        done += sent;
        if sent < length {
            rumpuser_frame_retain(frame);
            pipe.put_back(Segment::new(frame, offset + sent, offset + length));
            return match result {
                Err(error) if done == 0 => Err(error),
                _ => Ok(done),
            };
        }
    }
    Ok(done)
}

/// Fills a pipe from a socket. Data that doesn't fit stays in the socket.
pub fn socket_to_pipe(
    (from, socket): (&OpenFile, &dyn Socket),
    pipe: &Pipe,
    count: usize,
    block: bool,
) -> Result<usize> {
    let room = pipe.capacity().saturating_sub(pipe.length());
    if room == 0 && !block {
        return Err(Errno::EAGAIN);
    }
    let mut chain = socket.take_chain(count.min(room.max(PAGE_SIZE)), message_flags(from, block))?;
    let mut done = 0;
    while let Some(fragment) = chain.fragments().first() {
        let (frame, offset, length) = (fragment.frame(), fragment.offset(), fragment.len());
        rumpuser_frame_retain(frame);
        match pipe.push(Segment::new(frame, offset, offset + length), block && done == 0) {
            Ok(size) => {
                done += size;
                chain.advance(size);
            }
            Err(error) => {
                socket.return_chain(chain);
                return if done == 0 { Err(error) } else { Ok(done) };
            }
        }
    }
    Ok(done)
}
