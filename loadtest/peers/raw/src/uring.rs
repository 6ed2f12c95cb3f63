//! io_uring(7): multishot accept and receive into a ring of provided buffers, sent back with
//! send(2) straight from where the bytes lie. Buffers are filled piece by piece (Linux 6.12), so
//! that any number of connections can bring a few bytes in one turn; before that, a receive takes a
//! whole buffer, which is given back in the same turn.

use std::alloc::{Layout, alloc_zeroed};
use std::io::{Error, ErrorKind, Result};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::{Unsent, set_nodelay};

/// Buffers of the ring: a power of two. A message that is cut costs a second send, and a receive
/// that finds no buffer has to be armed again.
const BUFFERS: u16 = 16;
const BUFFER_LEN: usize = 256 * 1024;
/// `IOU_PBUF_RING_INC` of io_uring_register_buf_ring(3).
const INCREMENTAL: u16 = 2;
/// Most file descriptors go below this bit, and nothing else does.
const WRITABLE: u64 = 1 << 40;
const ACCEPT: u64 = u64::MAX;
/// Buffer group of every receive.
const GROUP: u16 = 0;

pub(crate) fn serve(listener: TcpListener) -> Result<()> {
    set_nodelay(listener.as_raw_fd());
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(8192)
        .build(1024)?;
    let mut buffers = Buffers::new();
    let register = |flags| {
        let entries = buffers.entries as u64;
        // SAFETY: the entries are page-aligned, as many as said, and live as long as the process.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries, BUFFERS, GROUP, flags) }
    };
    if register(INCREMENTAL).is_err() {
        register(0)?;
    }
    let listening = Fd(listener.as_raw_fd());
    let accept = opcode::AcceptMulti::new(listening).build().user_data(ACCEPT);
    push(&mut ring, &accept)?;
    let mut unsent = Unsent::default();
    let mut completions: Vec<cqueue::Entry> = Vec::new();
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The completion queue is full, which the lines below change.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
        completions.clear();
        completions.extend(ring.completion());
        for completion in &completions {
            let (data, result) = (completion.user_data(), completion.result());
            let more = cqueue::more(completion.flags());
            if data == ACCEPT {
                if result >= 0 {
                    receive(&mut ring, result)?;
                }
                if !more {
                    push(&mut ring, &accept)?;
                }
                continue;
            }
            let fd = (data & !WRITABLE) as i32;
            if data & WRITABLE != 0 {
                if !unsent.go_on(fd) {
                    unsent.forget(fd);
                } else if !unsent.is_empty(fd) {
                    await_room(&mut ring, fd)?;
                }
                continue;
            }
            let mut open = result > 0 || result == -libc::ENOBUFS;
            if let (1.., Some(buffer)) = (result, cqueue::buffer_select(completion.flags())) {
                let was_empty = unsent.is_empty(fd);
                open = unsent.send(fd, buffers.filled(buffer, result as usize));
                // Never said of buffers that are not filled piece by piece.
                if !cqueue::buffer_more(completion.flags()) {
                    buffers.give_back(buffer);
                }
                if was_empty && !unsent.is_empty(fd) {
                    await_room(&mut ring, fd)?;
                }
            }
            if open && !more {
                receive(&mut ring, fd)?;
            } else if !open {
                unsent.forget(fd);
                if more {
                    // Ends the multishot receive, whose last completion closes the descriptor.
                    // SAFETY: no pointers.
                    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
                } else {
                    // SAFETY: the descriptor was accepted here and is forgotten with this call.
                    unsafe { libc::close(fd) };
                }
            }
        }
    }
}

fn receive(ring: &mut IoUring, fd: i32) -> Result<()> {
    push(ring, &opcode::RecvMulti::new(Fd(fd), GROUP).build().user_data(fd as u64))
}

fn await_room(ring: &mut IoUring, fd: i32) -> Result<()> {
    let poll = opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build();
    push(ring, &poll.user_data(fd as u64 | WRITABLE))
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) -> Result<()> {
    // SAFETY: no entry here points to memory; the buffers of receives live with the process.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}

/// The provided buffers, and the ring of entries through which they are lent to the kernel.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: Vec<u8>,
    /// How much of each buffer was filled and sent back.
    taken: [usize; BUFFERS as usize],
    tail: u16,
}

impl Buffers {
    fn new() -> Self {
        let layout =
            Layout::from_size_align(usize::from(BUFFERS) * size_of::<BufRingEntry>(), 4096)
                .expect("a power of two");
        // SAFETY: the layout has a size.
        let entries: *mut BufRingEntry = unsafe { alloc_zeroed(layout) }.cast();
        assert!(!entries.is_null(), "{}", Error::from(ErrorKind::OutOfMemory));
        let memory = vec![0; usize::from(BUFFERS) * BUFFER_LEN];
        let mut buffers = Self { entries, memory, taken: [0; BUFFERS as usize], tail: 0 };
        for buffer in 0..BUFFERS {
            buffers.give_back(buffer);
        }
        buffers
    }

    /// The next bytes of the buffer.
    fn filled(&mut self, buffer: u16, len: usize) -> &[u8] {
        let start = usize::from(buffer) * BUFFER_LEN + self.taken[usize::from(buffer)];
        self.taken[usize::from(buffer)] += len;
        &self.memory[start..][..len]
    }

    fn give_back(&mut self, buffer: u16) {
        self.taken[usize::from(buffer)] = 0;
        let at = usize::from(self.tail & (BUFFERS - 1));
        let start = self.memory[usize::from(buffer) * BUFFER_LEN..].as_mut_ptr();
        // SAFETY: `at` is below the number of entries, and the kernel does not touch an entry
        // behind the tail.
        let entry = unsafe { &mut *self.entries.add(at) };
        entry.set_addr(start as u64);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies inside the first entry, is aligned for u16, and is shared with the
        // kernel, which reads it with acquire.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}
