//! One client's connection: frames in and out, requests that wait for the client's answer, and threads that make its
//! system calls.
//!
//! Nobody but the connection's writer waits for the network: the kernel may want to copy while it holds locks that the
//! network needs. What waits for the client ends with the connection, or after [`PATIENCE`].

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::ffi::c_int;

use rumpuser::{NEVER, rumpuser_clock_monotonic, rumpuser_thread_current, sync::Mutex};

use super::{
    kernel::{Kernel, Lwp},
    wire::{self, Class, Kind, PIECE, Refusal},
};
use crate::wait::WaitList;

/// How long a client may take for an answer, or to take what is sent to it, in nanoseconds.
pub const PATIENCE: u64 = 60_000_000_000;
/// How long what was sent last may take before the connection or the machine ends.
pub const FAREWELL: u64 = 1_000_000_000;
/// How long threads may take to end once they are told, before they are told again.
const INSISTENCE: u64 = 1_000_000_000;
/// How often it is looked whether a client has received everything.
const LOOK: u64 = 1_000_000;
/// Bytes that wait to be sent to a client, at most, besides one frame.
const OUTBOX: usize = 4 * PIECE;
/// Threads for a client's system calls, at most; those that may wait for work; requests that may wait for a thread.
const WORKERS: usize = 32;
const IDLE: usize = 4;
const QUEUE: usize = 32;

/// A connection. Used by the threads of the proxy alone: a thread that makes a system call for a client is another process's.
pub trait Stream: Send + Sync {
    /// Reads some bytes; 0 at the end, after a failure, and when it takes too long.
    fn read(&self, buffer: &mut [u8]) -> usize;
    /// Writes all bytes; returns whether it did.
    fn write(&self, bytes: &[u8]) -> bool;
    /// Lets reads take as long as they like.
    fn be_patient(&self);
    /// Ends it: reads and writes that wait return.
    fn shut_down(&self);
    /// Whether the other side has received everything, and the end.
    fn has_ended(&self) -> bool;
}

/// Something for a worker.
pub enum Job {
    /// A system call: the request's number, the call's, its arguments.
    Call(u64, u32, [u64; wire::ARGUMENTS]),
    /// The client runs another program of this name.
    Execute(u64, alloc::ffi::CString),
}

/// A request to the client that waits for its answer.
struct Waiting {
    request: u64,
    limit: usize,
    answer: Option<Option<Vec<u8>>>,
}

/// What changes.
#[derive(Default)]
struct State {
    dying: bool,
    /// What is queued is the last that is sent.
    closing: bool,
    next_request: u64,
    outbox: VecDeque<Vec<u8>>,
    queued: usize,
    writer: bool,
    writing: bool,
    waiting: Vec<Waiting>,
    jobs: VecDeque<Job>,
    workers: usize,
    idle: usize,
    active: usize,
    process: Option<(Lwp, c_int)>,
    executing: bool,
    /// A thread gives the process its new program.
    changing: bool,
    /// Which thread makes the system call of which request.
    calls: Vec<(u64, u64)>,
}

/// A client's connection.
pub struct Session {
    /// What the kernel knows it by; never another's.
    pub number: usize,
    kernel: Arc<dyn Kernel>,
    /// Calls begin under it, and are told to end.
    gate: Mutex<()>,
    state: Mutex<State>,
    sendable: WaitList,
    space: WaitList,
    answers: WaitList,
    work: WaitList,
    ended: WaitList,
}

impl Session {
    /// A connection with nothing said.
    pub fn new(number: usize, kernel: Arc<dyn Kernel>) -> Arc<Self> {
        Arc::new(Session {
            number,
            kernel,
            gate: Mutex::new(()),
            state: Mutex::new(State::default()),
            sendable: WaitList::new(),
            space: WaitList::new(),
            answers: WaitList::new(),
            work: WaitList::new(),
            ended: WaitList::new(),
        })
    }

    /// Its process.
    pub fn process(&self) -> Option<(Lwp, c_int)> {
        self.state.lock().process
    }

    /// Gives it a process.
    pub fn set_process(&self, process: (Lwp, c_int)) {
        self.state.lock().process = Some(process);
    }

    /// Whether its process is between two programs; if not, it is from now on when `begin`.
    pub fn is_executing(&self, begin: bool) -> bool {
        let mut state = self.state.lock();
        let was = state.executing;
        state.executing |= begin;
        was
    }

    /// Waits on a list until `attempt` yields something, or until the deadline.
    fn until<R>(
        &self,
        list: &WaitList,
        deadline: u64,
        mut attempt: impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        loop {
            let mut result = attempt(&mut self.state.lock());
            if result.is_some() || deadline <= rumpuser_clock_monotonic() {
                return result;
            }
            list.wait(deadline, || {
                result = attempt(&mut self.state.lock());
                result.is_none()
            });
            if result.is_some() {
                return result;
            }
        }
    }

    /// Has the connection end; everything that waits for the client returns.
    pub fn cut(&self) {
        self.state.lock().dying = true;
        for list in [&self.sendable, &self.space, &self.answers, &self.work, &self.ended] {
            list.wake_all();
        }
    }

    /// Queues a frame; returns whether it will be sent, unless the connection ends.
    pub fn send(&self, frame: Vec<u8>) -> bool {
        let deadline = rumpuser_clock_monotonic().saturating_add(PATIENCE);
        let mut frame = Some(frame);
        let sent = self.until(&self.space, deadline, |state| {
            if state.dying {
                return Some(false);
            }
            if state.queued > OUTBOX {
                return None;
            }
            let frame = frame.take().unwrap_or_default();
            state.queued += frame.len();
            state.outbox.push_back(frame);
            Some(true)
        });
        match sent {
            Some(sent) => {
                self.sendable.wake_one();
                sent
            }
            None => {
                self.cut();
                false
            }
        }
    }

    /// Refuses a request.
    pub fn refuse(&self, request: u64, why: Refusal) {
        self.send(wire::refusal(request, why));
    }

    /// Sends what is queued, until the connection is to end, and ends it. Runs in a thread of its own.
    fn write(&self, stream: &dyn Stream) {
        while let Some(Some(frame)) = self.until(&self.sendable, NEVER, |state| {
            if state.dying || state.closing && state.outbox.is_empty() {
                return Some(None);
            }
            let frame = state.outbox.pop_front()?;
            state.queued -= frame.len();
            state.writing = true;
            Some(Some(frame))
        }) {
            let written = stream.write(&frame);
            self.state.lock().writing = false;
            self.space.wake_all();
            if !written {
                self.cut();
            }
        }
        stream.shut_down();
        if self.state.lock().closing {
            // The machine may end as soon as the writer has.
            let deadline = rumpuser_clock_monotonic().saturating_add(FAREWELL);
            let never = WaitList::new();
            while !stream.has_ended() && rumpuser_clock_monotonic() < deadline {
                never.wait(rumpuser_clock_monotonic().saturating_add(LOOK), || true);
            }
        }
        self.state.lock().writer = false;
        self.ended.wake_all();
    }

    /// Has the connection end once what is queued is sent.
    pub fn close(&self) {
        self.state.lock().closing = true;
        self.sendable.wake_all();
    }

    /// Waits, but not for long, until the client has everything that was sent before [`Session::close`].
    pub fn wait_for_close(&self, deadline: u64) {
        self.until(&self.ended, deadline, |state| (!state.writer).then_some(()));
    }

    /// Tells all calls to end.
    pub fn end_calls(&self) {
        if let Some((lwp, _)) = self.process() {
            let _gate = self.gate.lock();
            self.kernel.end_others(lwp);
        }
    }

    /// Waits until everything is sent, but not for long.
    pub fn flush(&self) {
        let deadline = rumpuser_clock_monotonic().saturating_add(FAREWELL);
        self.until(&self.space, deadline, |state| {
            (state.dying || state.outbox.is_empty() && !state.writing).then_some(())
        });
    }

    /// Asks the client something; its answer has at most `limit` bytes. Nothing if it refuses or is gone.
    fn ask(&self, kind: Kind, body: &[u8], limit: usize) -> Option<Vec<u8>> {
        let request = {
            let mut state = self.state.lock();
            let request = state.next_request;
            state.next_request += 1;
            state.waiting.push(Waiting { request, limit, answer: None });
            request
        };
        let deadline = rumpuser_clock_monotonic().saturating_add(PATIENCE);
        let answer = if self.send(wire::frame(Class::Request, kind, request, 0, &[body])) {
            self.until(&self.answers, deadline, |state| {
                let waiting = state.waiting.iter_mut().find(|waiting| waiting.request == request)?;
                waiting.answer.take().or(state.dying.then_some(None))
            })
        } else {
            Some(None)
        };
        self.state.lock().waiting.retain(|waiting| waiting.request != request);
        if answer.is_none() {
            self.cut();
        }
        answer.flatten()
    }

    /// The most bytes that the answer to a request may have; nothing if none is waited for.
    pub fn limit_of(&self, request: u64) -> Option<usize> {
        let state = self.state.lock();
        let waiting = state.waiting.iter().find(|waiting| waiting.request == request);
        waiting.filter(|waiting| waiting.answer.is_none()).map(|waiting| waiting.limit)
    }

    /// The client's answer, or nothing for its refusal.
    pub fn answer(&self, request: u64, body: Option<Vec<u8>>) {
        if let Some(waiting) = self.state.lock().waiting.iter_mut().find(|waiting| waiting.request == request)
        {
            waiting.answer = Some(body);
        }
        self.answers.wake_all();
    }

    /// Reads the client's memory; returns whether it could.
    pub fn copy_in(&self, mut remote: usize, local: &mut [u8]) -> bool {
        local.chunks_mut(PIECE).all(|piece| {
            let request = wire::copy_request(piece.len(), remote);
            remote = remote.wrapping_add(piece.len());
            let bytes = self.ask(Kind::CopyIn, &request, piece.len());
            let whole = bytes.filter(|bytes| bytes.len() == piece.len());
            whole.map(|bytes| piece.copy_from_slice(&bytes)).is_some()
        })
    }

    /// Reads a string of the client's, as much as there is room for; returns how much that is, with the zero at its end.
    pub fn copy_in_string(&self, remote: usize, local: &mut [u8]) -> Option<usize> {
        let room = local.len().min(PIECE);
        let bytes = self.ask(Kind::CopyInString, &wire::copy_request(room, remote), room)?;
        local.get_mut(..bytes.len())?.copy_from_slice(&bytes);
        (!bytes.is_empty()).then_some(bytes.len())
    }

    /// Writes the client's memory; returns whether it will arrive.
    pub fn copy_out(&self, mut remote: usize, local: &[u8]) -> bool {
        local.chunks(PIECE).all(|piece| {
            let request = wire::copy_request(piece.len(), remote);
            remote = remote.wrapping_add(piece.len());
            self.tell(Kind::CopyOut, 0, &[&request, piece])
        })
    }

    /// Maps memory in the client; nothing if it has none.
    pub fn map(&self, length: usize) -> Option<usize> {
        let address = self.ask(Kind::Map, &length.to_le_bytes(), size_of::<usize>())?;
        Some(usize::from_le_bytes(address.try_into().ok()?)).filter(|&address| address != 0)
    }

    /// Raises a signal in the client, unless it is slow to take what it gets: the kernel may hold locks, and doesn't wait.
    pub fn raise(&self, signal: c_int) -> bool {
        let slow = self.state.lock().queued > OUTBOX / 2;
        !slow && self.tell(Kind::Raise, signal as u32, &[])
    }

    /// Says what needs no answer.
    fn tell(&self, kind: Kind, value: u32, parts: &[&[u8]]) -> bool {
        let request = {
            let mut state = self.state.lock();
            state.next_request += 1;
            state.next_request - 1
        };
        self.send(wire::frame(Class::Request, kind, request, value, parts))
    }

    /// Has a worker do something; refuses it if there are too many.
    pub fn schedule(self: &Arc<Self>, request: u64, job: Job) {
        let mut state = self.state.lock();
        let more = state.idle <= state.jobs.len() && state.workers < WORKERS;
        let refused = state.jobs.len() >= QUEUE;
        if !refused {
            state.jobs.push_back(job);
            state.workers += usize::from(more);
        }
        drop(state);
        if refused {
            return self.refuse(request, Refusal::TryAgain);
        }
        // All: one that takes the job just now would keep the wake from the others.
        self.work.wake_all();
        if more {
            let session = self.clone();
            if !self.kernel.spawn("sysproxy worker", Box::new(move || session.work())) {
                self.lose_worker(request);
            }
        }
    }

    /// A worker could not be started: what it should have done is refused, unless another does it.
    fn lose_worker(&self, request: u64) {
        let mut state = self.state.lock();
        state.workers -= 1;
        let lost = if state.workers == 0 { state.jobs.pop_back() } else { None };
        drop(state);
        self.ended.wake_all();
        if lost.is_some() {
            self.refuse(request, Refusal::TryAgain);
        }
    }

    /// Does jobs, until the connection ends or enough others wait for some.
    fn work(&self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Call(request, number, arguments) => self.call(request, number, arguments),
                Job::Execute(request, name) => self.execute(request, name),
            }
            self.state.lock().active -= 1;
            self.ended.wake_all();
        }
        self.state.lock().workers -= 1;
        self.ended.wake_all();
    }

    fn next_job(&self) -> Option<Job> {
        {
            let mut state = self.state.lock();
            if state.idle >= IDLE && state.jobs.is_empty() {
                return None;
            }
            state.idle += 1;
        }
        let taken = self.until(&self.work, NEVER, |state| {
            let job = if state.dying { None } else { Some(state.jobs.pop_front()?) };
            state.idle -= 1;
            state.active += usize::from(job.is_some());
            Some(job)
        });
        taken.flatten()
    }

    fn call(&self, request: u64, number: u32, arguments: [u64; wire::ARGUMENTS]) {
        let Some((_, process)) = self.process() else { return };
        let thread = rumpuser_thread_current().id();
        self.state.lock().calls.push((thread, request));
        let (error, values) = self.kernel.system_call(process, &self.gate, number, arguments);
        self.state.lock().calls.retain(|&(other, _)| other != thread);
        self.send(wire::system_call_answer(request, error, values));
    }

    /// Answers the system call that the calling thread makes, as if it had succeeded: it will not return.
    pub fn answer_call(&self) {
        let thread = rumpuser_thread_current().id();
        let call = self.state.lock().calls.iter().find(|(other, _)| *other == thread).copied();
        if let Some((_, request)) = call {
            self.send(wire::system_call_answer(request, 0, [0; 2]));
        }
    }

    /// Once all system calls have ended, the process is the other program's.
    fn execute(&self, request: u64, name: alloc::ffi::CString) {
        {
            let mut state = self.state.lock();
            if state.dying {
                return;
            }
            state.changing = true;
        }
        let alone = self
            .until(&self.ended, NEVER, |state| (state.dying || state.active == 1).then_some(!state.dying));
        if let (Some(true), Some((lwp, _))) = (alone, self.process()) {
            self.kernel.executed(lwp, name);
            self.state.lock().executing = false;
            self.send(wire::welcome(request));
        }
        self.state.lock().changing = false;
    }

    /// Starts the writer; returns whether it could.
    pub fn start_writer(self: &Arc<Self>, stream: &Arc<dyn Stream>) -> bool {
        self.state.lock().writer = true;
        let (session, stream) = (self.clone(), stream.clone());
        let started = self.kernel.spawn("sysproxy writer", Box::new(move || session.write(&*stream)));
        if !started {
            self.state.lock().writer = false;
        }
        started
    }

    /// Ends everything of the connection, and the process.
    pub fn finish(&self, stream: &dyn Stream) {
        self.cut();
        stream.shut_down();
        loop {
            // The thread that changes the process's program uses its LWP; since the cut there won't be another one.
            if self.state.lock().workers > 0 && !self.state.lock().changing {
                self.end_calls();
            }
            let deadline = rumpuser_clock_monotonic().saturating_add(INSISTENCE);
            let ended = |state: &mut State| (state.workers == 0 && !state.writer).then_some(());
            if self.until(&self.ended, deadline, ended).is_some() {
                break;
            }
        }
        if let Some((lwp, _)) = self.process() {
            self.kernel.release(lwp);
        }
    }
}
