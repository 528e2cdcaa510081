//! Data between files without a program's memory: sendfile, splice, tee, vmsplice, copy_file_range.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpuser::{memory::PAGE_SIZE, rumpuser_frame_alloc_uninitialised, rumpuser_interrupted};
use rumpvfs::{
    file::OpenFlags,
    pipe::{Pipe, PipeEnd, Segment},
    vnode::Kind,
};

use crate::{
    task::Task,
    user::{RW_MAX, UserPtr, buffer, read_iovecs},
};

use super::{
    io::with_sigpipe,
    open_file::OpenFile,
    splice_socket::{pages_of, pipe_to_socket, send_file, socket_to_pipe, stream_of},
};

/// How much is copied at a time.
const CHUNK: usize = 64 << 10;
const SPLICE_F_NONBLOCK: u32 = 2;
/// MOVE, NONBLOCK, MORE, GIFT.
const SPLICE_FLAGS: u32 = 15;

/// A place in a file: the caller's, or the file's own.
struct Position<'a> {
    file: &'a OpenFile,
    /// Where a program keeps it; null for the file's own.
    pointer: UserPtr<i64>,
    at: u64,
}

impl<'a> Position<'a> {
    fn new(file: &'a OpenFile, pointer: UserPtr<i64>) -> Result<Self> {
        let at = match pointer.non_null() {
            Some(_) if !file.seekable() => return Err(Errno::ESPIPE),
            Some(pointer) => u64::try_from(pointer.read()?).map_err(|_| Errno::EINVAL)?,
            None if file.seekable() => *file.position().lock(),
            None => 0,
        };
        Ok(Position { file, pointer, at })
    }

    fn read(&mut self, buffer: &mut [u8], flags: OpenFlags) -> Result<usize> {
        let size = self.file.file().read(&mut Sink::kernel(buffer), self.at, flags)?;
        self.at = self.at.saturating_add(size as u64);
        Ok(size)
    }

    fn write(&mut self, data: &[u8], flags: OpenFlags) -> Result<usize> {
        self.file.file().write(&mut Source::kernel(data), &mut self.at, flags)
    }

    fn store(self) -> Result<()> {
        if !self.pointer.is_null() {
            return self.pointer.write(&(self.at as i64));
        }
        if self.file.seekable() {
            *self.file.position().lock() = self.at;
        }
        Ok(())
    }
}

fn readable(file: &OpenFile) -> Result<()> {
    if file.flags().readable() { Ok(()) } else { Err(Errno::EBADF) }
}

fn writable(file: &OpenFile) -> Result<()> {
    if file.flags().writable() { Ok(()) } else { Err(Errno::EBADF) }
}

/// Copies up to `count` bytes; what was read and could not be written is read again by the next call.
fn copy(from: &mut Position<'_>, to: &mut Position<'_>, count: usize) -> Result<usize> {
    let mut buffer = buffer(count.clamp(1, CHUNK))?;
    let (read_flags, write_flags) = (from.file.flags(), to.file.flags());
    let mut done = 0;
    while done < count {
        let wanted = buffer.len().min(count - done);
        let step = from.read(&mut buffer[..wanted], read_flags).and_then(|size| {
            let mut written = 0;
            while written < size {
                match to.write(&buffer[written..size], write_flags) {
                    Ok(0) => break,
                    Ok(more) => written += more,
                    Err(error) if written == 0 => {
                        from.at -= size as u64;
                        return Err(error);
                    }
                    Err(_) => break,
                }
            }
            from.at -= (size - written) as u64;
            Ok((size, written))
        });
        match step {
            Ok((size, written)) => {
                done += written;
                if size < wanted || written < size || rumpuser_interrupted() {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// sendfile(2).
pub fn sendfile(task: &Task, to: i32, from: i32, position: UserPtr<i64>, count: usize) -> Result<usize> {
    let (from, to) = (task.files().get_io(from)?, task.files().get_io(to)?);
    readable(&from)?;
    writable(&to)?;
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut source = Position::new(&from, position)?;
    if !from.seekable() && from.downcast::<PipeEnd>().is_some() {
        return Err(Errno::EINVAL);
    }
    if from.vnode().is_some_and(|vnode| vnode.kind() == Kind::Directory) {
        return Err(Errno::EINVAL);
    }
    let count = count.min(RW_MAX);
    if let (Some(socket), Some(pager)) = (stream_of(&to), pages_of(&from)) {
        let sent = send_file(&*pager, &from, &mut source.at, (&to, socket), count, true);
        let done = with_sigpipe(task, sent)?;
        source.store()?;
        return Ok(done);
    }
    let mut target = Position::new(&to, UserPtr::new(0))?;
    let done = with_sigpipe(task, copy(&mut source, &mut target, count))?;
    source.store()?;
    target.store()?;
    Ok(done)
}

/// copy_file_range(2).
pub fn copy_file_range(
    task: &Task,
    from: i32,
    from_position: UserPtr<i64>,
    to: i32,
    to_position: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (task.files().get_io(from)?, task.files().get_io(to)?);
    for file in [&from, &to] {
        match file.vnode().map(|vnode| vnode.kind()) {
            Some(Kind::Regular) => {}
            Some(Kind::Directory) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let mut source = Position::new(&from, from_position)?;
    let mut target = Position::new(&to, to_position)?;
    let count = count.min(RW_MAX);
    let same = match (from.vnode(), to.vnode()) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    let (start, end) = (source.at, target.at);
    if start.checked_add(count as u64).is_none() || end.checked_add(count as u64).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    if same && start < end + count as u64 && end < start + count as u64 {
        return Err(Errno::EINVAL);
    }
    let done = copy(&mut source, &mut target, count)?;
    source.store()?;
    target.store()?;
    Ok(done)
}

/// Moves data from a pipe to a file.
fn drain_pipe(pipe: &Pipe, to: &mut Position<'_>, count: usize, block: bool) -> Result<usize> {
    let flags = to.file.flags();
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
        let mut bytes = buffer(length)?;
        frame.read(offset, &mut bytes);
        let mut written = 0;
        let mut failed = None;
        while written < length {
            match to.write(&bytes[written..], flags) {
                Ok(0) => break,
                Ok(size) => written += size,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        done += written;
        if written < length {
            rumpuser::rumpuser_frame_retain(frame);
            pipe.put_back(Segment::new(frame, offset + written, offset + length));
            return match failed {
                Some(error) if done == 0 => Err(error),
                _ => Ok(done),
            };
        }
    }
    Ok(done)
}

/// Fills a pipe from a file.
fn fill_pipe(from: &mut Position<'_>, pipe: &Pipe, count: usize, block: bool) -> Result<usize> {
    let mut flags = from.file.flags();
    if !block {
        flags |= OpenFlags::NON_BLOCKING;
    }
    let mut buffer = buffer(PAGE_SIZE)?;
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(PAGE_SIZE);
        let room = pipe.capacity().saturating_sub(pipe.length());
        if done > 0 && room < wanted {
            break;
        }
        let step = from.read(&mut buffer[..wanted], flags).and_then(|size| {
            if size == 0 {
                return Ok(0);
            }
            let frame = rumpuser_frame_alloc_uninitialised()?;
            frame.write(0, &buffer[..size]);
            pipe.push(Segment::new(frame, 0, size), block).inspect_err(|_| from.at -= size as u64)
        });
        match step {
            Ok(size) => {
                done += size;
                if size < wanted {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Moves data from a pipe to another.
fn pipe_to_pipe(from: &Pipe, to: &Pipe, count: usize, block: bool) -> Result<usize> {
    let mut done = 0;
    while done < count {
        let segment = match from.take(count - done, block && done == 0) {
            Ok(Some(segment)) => segment,
            Ok(None) => break,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let (frame, offset) = segment.frame();
        let length = segment.len();
        rumpuser::rumpuser_frame_retain(frame);
        let spare = Segment::new(frame, offset, offset + length);
        match to.push(segment, block && done == 0) {
            Ok(size) => done += size,
            Err(error) => {
                from.put_back(spare);
                return if done == 0 { Err(error) } else { Ok(done) };
            }
        }
    }
    Ok(done)
}

/// splice(2).
pub fn splice(
    task: &Task,
    from: i32,
    from_position: UserPtr<i64>,
    to: i32,
    to_position: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    let (from, to) = (task.files().get_io(from)?, task.files().get_io(to)?);
    readable(&from)?;
    writable(&to)?;
    let count = count.min(RW_MAX);
    let block = flags & SPLICE_F_NONBLOCK == 0;
    let done = match (from.downcast::<PipeEnd>(), to.downcast::<PipeEnd>()) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(source), Some(target)) => {
            if !from_position.is_null() || !to_position.is_null() {
                return Err(Errno::ESPIPE);
            }
            if Arc::ptr_eq(source.pipe(), target.pipe()) {
                return Err(Errno::EINVAL);
            }
            let block = block
                && !from.flags().contains(OpenFlags::NON_BLOCKING)
                && !to.flags().contains(OpenFlags::NON_BLOCKING);
            pipe_to_pipe(source.pipe(), target.pipe(), count, block)
        }
        (Some(source), None) => {
            if !from_position.is_null() {
                return Err(Errno::ESPIPE);
            }
            if to.flags().contains(OpenFlags::APPEND) {
                return Err(Errno::EINVAL);
            }
            let mut target = Position::new(&to, to_position)?;
            let block = block && !from.flags().contains(OpenFlags::NON_BLOCKING);
            if let Some(socket) = stream_of(&to) {
                return with_sigpipe(task, pipe_to_socket(source.pipe(), (&to, socket), count, block));
            }
            let done = drain_pipe(source.pipe(), &mut target, count, block)?;
            target.store()?;
            Ok(done)
        }
        (None, Some(target)) => {
            if !to_position.is_null() {
                return Err(Errno::ESPIPE);
            }
            if from.vnode().is_some_and(|vnode| vnode.kind() == Kind::Directory) {
                return Err(Errno::EINVAL);
            }
            let mut source = Position::new(&from, from_position)?;
            let block = block && !to.flags().contains(OpenFlags::NON_BLOCKING);
            if let Some(socket) = stream_of(&from) {
                return with_sigpipe(task, socket_to_pipe((&from, socket), target.pipe(), count, block));
            }
            let done = fill_pipe(&mut source, target.pipe(), count, block)?;
            source.store()?;
            Ok(done)
        }
    };
    with_sigpipe(task, done)
}

/// tee(2).
pub fn tee(task: &Task, from: i32, to: i32, count: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    let (from, to) = (task.files().get_io(from)?, task.files().get_io(to)?);
    readable(&from)?;
    writable(&to)?;
    let (Some(source), Some(target)) = (from.downcast::<PipeEnd>(), to.downcast::<PipeEnd>()) else {
        return Err(Errno::EINVAL);
    };
    if Arc::ptr_eq(source.pipe(), target.pipe()) {
        return Err(Errno::EINVAL);
    }
    let block = flags & SPLICE_F_NONBLOCK == 0
        && !from.flags().contains(OpenFlags::NON_BLOCKING)
        && !to.flags().contains(OpenFlags::NON_BLOCKING);
    with_sigpipe(task, source.pipe().tee(target.pipe(), count, block))
}

/// vmsplice(2): the pages are copied, which is what a program that follows the rules sees.
pub fn vmsplice(task: &Task, descriptor: i32, vectors: usize, count: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files().get_io(descriptor)?;
    if file.downcast::<PipeEnd>().is_none() {
        return Err(Errno::EBADF);
    }
    let ranges: Vec<_> = read_iovecs(vectors, count)?;
    let mut open_flags = file.flags();
    if flags & SPLICE_F_NONBLOCK != 0 {
        open_flags |= OpenFlags::NON_BLOCKING;
    }
    if open_flags.writable() {
        with_sigpipe(task, file.file().write(&mut Source::vectors(&ranges), &mut 0, open_flags))
    } else {
        file.file().read(&mut Sink::vectors(&ranges), 0, open_flags)
    }
}
