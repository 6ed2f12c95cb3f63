//! Which kernel features exist: finds out by using them, and says readably what is missing.
//!
//! In: the options. Out: a ring with its receive buffers registered, or [`Unavailable`]. It never
//! asks for the kernel's version: distributions port features back, containers take them away,
//! and some kernels have a feature that does not work.

#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode};

use super::buffers::{Buffers, Geometry};
use super::submit::enter;
use super::{ReceiveMode, UringOptions};
use crate::driver::memory::ReceiveMemory;

/// Why the io_uring driver cannot run here.
#[derive(Debug)]
pub(crate) struct Unavailable {
    step: &'static str,
    source: io::Error,
}

impl Unavailable {
    pub(super) fn new(step: &'static str, source: io::Error) -> Self {
        Self { step, source }
    }

    /// Whether this system refuses io_uring altogether (as opposed to missing one feature).
    #[cfg(test)]
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
    }

    fn hint(&self) -> &'static str {
        match self.source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "; the sysctl kernel.io_uring_disabled or a container's seccomp profile forbids it"
            }
            Some(libc::ENOSYS) => "; the kernel or the sandbox has no io_uring",
            Some(libc::EINVAL) => "; the kernel is too old: Linux 6.1 or newer is needed",
            Some(libc::ENOMEM) => "; RLIMIT_MEMLOCK may be too low",
            Some(libc::EMFILE | libc::ENFILE) => "; the limit of open files is reached",
            _ => "",
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring cannot be used: {}: {}{}", self.step, self.source, self.hint())
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<Unavailable> for io::Error {
    fn from(unavailable: Unavailable) -> Self {
        io::Error::new(unavailable.source.kind(), unavailable)
    }
}

/// What [`open`] found.
pub(super) struct Opened {
    pub(super) ring: IoUring,
    pub(super) buffers: Buffers,
    pub(super) memory: ReceiveMemory,
    pub(super) mode: ReceiveMode,
}

/// Sets up a ring and its buffers in the best mode that passes the self-test.
///
/// # Errors
///
/// The reason why the last mode failed.
pub(super) fn open(options: &UringOptions) -> Result<Opened, Unavailable> {
    let mut mode = options.best_mode;
    loop {
        // A ring per attempt: operations that an unsuccessful test left behind die with it.
        let ring = set_up(options)?;
        match open_mode(ring, options, mode) {
            Ok(opened) => return Ok(opened),
            Err(reason) => {
                log::debug!("{} receive with io_uring does not work: {reason}", mode.name());
                mode = mode.next().ok_or(reason)?;
            }
        }
    }
}

fn open_mode(
    mut ring: IoUring,
    options: &UringOptions,
    mode: ReceiveMode,
) -> Result<Opened, Unavailable> {
    self_test(&mut ring, mode)?;
    let geometry = geometry(options, mode);
    let memory = ReceiveMemory::new(geometry.region_len());
    let incremental = mode == ReceiveMode::Incremental;
    let buffers =
        Buffers::register(&ring.submitter(), memory.region(), geometry, GROUP, incremental)
            .map_err(|source| Unavailable::new("registering the receive buffers", source))?;
    Ok(Opened { ring, buffers, memory, mode })
}

/// The group of the receive buffers.
const GROUP: u16 = 0;
/// The group of the self-test, gone when it ends.
const TEST_GROUP: u16 = 1;

/// A completion uses up a whole buffer unless consumption is incremental: then many smaller ones
/// serve more connections from the same memory.
fn geometry(options: &UringOptions, mode: ReceiveMode) -> Geometry {
    const WHOLE: usize = 64 * 1024;
    let buffer_len = options.buffer_bytes.clamp(64, 1 << 30);
    let count = usize::from(options.buffers.max(1));
    let (buffer_len, count) = if mode == ReceiveMode::Incremental || buffer_len <= WHOLE {
        (buffer_len, count)
    } else {
        (WHOLE, count.saturating_mul(buffer_len / WHOLE))
    };
    let count = count.min(usize::from(Geometry::MAX_COUNT));
    // Both were clamped into their types above.
    Geometry { buffer_len: buffer_len as u32, count: count as u16 }
}

fn set_up(options: &UringOptions) -> Result<IoUring, Unavailable> {
    let build = |no_sqarray: bool| {
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Tells without a system call whether deferred work waits for one.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(options.completions);
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(options.submissions)
    };
    let ring = match build(true) {
        // Linux 6.6 knows NO_SQARRAY; it saves one indirection and is not worth more.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(false),
        result => result,
    };
    let ring = ring.map_err(|source| {
        Unavailable::new("io_uring_setup(2) with SINGLE_ISSUER and DEFER_TASKRUN", source)
    })?;
    let features = [
        (ring.params().is_feature_nodrop(), "feature NODROP (completions are never dropped)"),
        (ring.params().is_feature_ext_arg(), "feature EXT_ARG (waiting with a timeout)"),
        (ring.params().is_feature_skip_cqe_on_success(), "feature CQE_SKIP"),
    ];
    for (present, name) in features {
        if !present {
            return Err(Unavailable::new(name, io::ErrorKind::Unsupported.into()));
        }
    }
    Ok(ring)
}

/// Receives a known stream over a socket pair through two tiny buffers, and expects all that the
/// driver relies on: cancellation ends an operation, pieces lie where they are computed to lie,
/// an empty ring answers ENOBUFS, a returned buffer is used again, the end of the stream is seen.
fn self_test(ring: &mut IoUring, mode: ReceiveMode) -> Result<(), Unavailable> {
    const GEOMETRY: Geometry = Geometry { buffer_len: 64, count: 2 };
    let mut memory = ReceiveMemory::new(GEOMETRY.region_len());
    let incremental = mode == ReceiveMode::Incremental;
    let mut buffers =
        Buffers::register(&ring.submitter(), memory.region(), GEOMETRY, TEST_GROUP, incremental)
            .map_err(|source| {
                let step = if incremental {
                    "registering a buffer ring with incremental consumption"
                } else {
                    "registering a buffer ring"
                };
                Unavailable::new(step, source)
            })?;
    let test = SelfTest { ring, memory: &mut memory, buffers: &mut buffers, mode };
    match test.run() {
        Ok(()) => buffers
            .unregister(&ring.submitter())
            .map_err(|source| Unavailable::new("unregistering a buffer ring", source)),
        Err(reason) => {
            // An operation may still be in flight and write to this memory.
            buffers.leak();
            Err(reason)
        }
    }
}

struct SelfTest<'a> {
    ring: &'a mut IoUring,
    memory: &'a mut ReceiveMemory,
    buffers: &'a mut Buffers,
    mode: ReceiveMode,
}

impl SelfTest<'_> {
    const USER_DATA: u64 = 1;
    const CANCEL: u64 = 2;

    fn run(mut self) -> Result<(), Unavailable> {
        let (mut far, near) = UnixStream::pair()
            .map_err(|source| Unavailable::new("socketpair(2) for the self-test", source))?;

        self.arm(&near)?;
        let cancel = CancelBuilder::user_data(Self::USER_DATA);
        self.push(&opcode::AsyncCancel2::new(cancel).build().user_data(Self::CANCEL))?;
        let mut ended = false;
        for _ in 0..2 {
            let completion = self.next("self-test, cancelling a receive operation")?;
            ended |= completion.user_data() == Self::USER_DATA;
        }
        check(ended, "self-test, a cancelled receive operation did not end")?;

        let stream: Vec<u8> = (0..=180).collect();
        let mut seen = Vec::new();
        let mut spent = Vec::new();
        let mut out_of_buffers = false;
        self.arm(&near)?;
        for part in stream.chunks(stream.len().div_ceil(3)) {
            far.write_all(part).map_err(|source| Unavailable::new("self-test, writing", source))?;
            let goal = seen.len() + part.len();
            while seen.len() < goal {
                let completion = self.next("self-test, waiting for received bytes")?;
                out_of_buffers |= completion.result() == -libc::ENOBUFS;
                self.take(&completion, &mut seen, &mut spent)?;
                if !cqueue::more(completion.flags()) {
                    // Only now, so that the test does run out of buffers.
                    if completion.result() == -libc::ENOBUFS {
                        spent.drain(..).for_each(|bid| self.buffers.recycle(bid));
                    }
                    self.arm(&near)?;
                }
            }
            check(stream.starts_with(&seen), "self-test, received bytes differ from those sent")?;
        }
        check(out_of_buffers, "self-test, an empty buffer ring was not reported")?;

        spent.drain(..).for_each(|bid| self.buffers.recycle(bid));
        far.shutdown(Shutdown::Write)
            .map_err(|source| Unavailable::new("self-test, shutting down", source))?;
        loop {
            let completion = self.next("self-test, waiting for the end of the stream")?;
            check(completion.result() <= 0, "self-test, bytes after the last byte")?;
            check(!cqueue::more(completion.flags()), "self-test, an end that is none")?;
            self.take(&completion, &mut seen, &mut spent)?;
            if completion.result() == 0 {
                return Ok(());
            }
            // The operation ran out of buffers before the end came.
            self.arm(&near)?;
        }
    }

    fn arm(&mut self, socket: &UnixStream) -> Result<(), Unavailable> {
        let entry = receive(Fd(socket.as_raw_fd()), self.buffers, self.mode);
        self.push(&entry.user_data(Self::USER_DATA))
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> Result<(), Unavailable> {
        // SAFETY: neither receiving into provided buffers nor cancelling takes a pointer.
        let pushed = unsafe { self.ring.submission().push(entry) };
        check(pushed.is_ok(), "self-test, the submission queue is full")
    }

    fn next(&mut self, step: &'static str) -> Result<cqueue::Entry, Unavailable> {
        for _ in 0..4 {
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion);
            }
            enter(self.ring, 1, Some(1000)).map_err(|source| Unavailable::new(step, source))?;
        }
        Err(Unavailable::new(step, io::ErrorKind::TimedOut.into()))
    }

    fn take(
        &mut self,
        completion: &cqueue::Entry,
        seen: &mut Vec<u8>,
        spent: &mut Vec<u16>,
    ) -> Result<(), Unavailable> {
        let len = match completion.result() {
            result @ 0.. => result as usize,
            error if error == -libc::ENOBUFS => 0,
            error => {
                let step = match self.mode {
                    ReceiveMode::SingleShot => "self-test, receiving",
                    _ => "self-test, receiving with multishot",
                };
                return Err(Unavailable::new(step, io::Error::from_raw_os_error(-error)));
            }
        };
        let Some(bid) = cqueue::buffer_select(completion.flags()) else {
            return check(len == 0, "self-test, bytes without a buffer");
        };
        let fits = bid < self.buffers.count() && len <= self.buffers.buffer_len() as usize;
        check(fits, "self-test, a completion names a buffer that does not exist")?;
        let buffer_more = cqueue::buffer_more(completion.flags());
        let piece = self.buffers.advance(bid, len as u32, buffer_more);
        // SAFETY: the kernel has filled these bytes; it writes to them again only after
        // `recycle`, which needs the unique borrow.
        seen.extend_from_slice(unsafe { self.memory.slice(piece.offset, len) });
        spent.extend(piece.spent);
        Ok(())
    }
}

/// The receive operation of `mode`, without user data.
pub(super) fn receive(fd: Fd, buffers: &Buffers, mode: ReceiveMode) -> io_uring::squeue::Entry {
    match mode {
        ReceiveMode::Incremental | ReceiveMode::Multishot => {
            opcode::RecvMulti::new(fd, buffers.group()).build()
        }
        ReceiveMode::SingleShot => {
            opcode::Recv::new(fd, std::ptr::null_mut(), buffers.buffer_len())
                .buf_group(buffers.group())
                .build()
                .flags(io_uring::squeue::Flags::BUFFER_SELECT)
        }
    }
}

fn check(condition: bool, step: &'static str) -> Result<(), Unavailable> {
    if condition { Ok(()) } else { Err(Unavailable::new(step, io::ErrorKind::Unsupported.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(best_mode: ReceiveMode) -> UringOptions {
        UringOptions { submissions: 64, completions: 128, best_mode, ..UringOptions::default() }
    }

    #[test]
    fn every_mode_passes_its_self_test_or_names_what_is_missing() {
        for mode in [ReceiveMode::Incremental, ReceiveMode::Multishot, ReceiveMode::SingleShot] {
            match open(&options(mode)) {
                Ok(mut opened) => {
                    let incremental = opened.mode == ReceiveMode::Incremental;
                    assert_eq!(opened.buffers.is_incremental(), incremental);
                    assert_eq!(opened.ring.completion().len(), 0, "left over from the test");
                }
                Err(reason) => {
                    assert!(reason.to_string().starts_with("io_uring cannot be used: "));
                    eprintln!("skipped: {reason}");
                }
            }
        }
    }

    #[test]
    fn whole_buffers_are_small_and_many() {
        let options = UringOptions::default();
        let incremental = geometry(&options, ReceiveMode::Incremental);
        assert_eq!(incremental, Geometry { buffer_len: 256 * 1024, count: 4 });
        let whole = geometry(&options, ReceiveMode::Multishot);
        assert_eq!(whole, Geometry { buffer_len: 64 * 1024, count: 16 });
    }

    #[test]
    fn absurd_options_stay_inside_the_kernels_limits() {
        let options = UringOptions { buffer_bytes: 0, buffers: 0, ..UringOptions::default() };
        let smallest = geometry(&options, ReceiveMode::Incremental);
        assert_eq!(smallest, Geometry { buffer_len: 64, count: 1 });
        let options = UringOptions { buffers: u16::MAX, ..UringOptions::default() };
        assert_eq!(geometry(&options, ReceiveMode::Multishot).count, Geometry::MAX_COUNT);
    }

    #[test]
    fn a_refusal_says_who_refuses() {
        let refused = |code| {
            Unavailable::new("io_uring_setup(2)", io::Error::from_raw_os_error(code)).to_string()
        };
        assert!(refused(libc::EPERM).contains("kernel.io_uring_disabled"));
        assert!(refused(libc::ENOSYS).contains("no io_uring"));
        assert!(refused(libc::EINVAL).contains("6.1"));
        let error = io::Error::from(Unavailable::new(
            "io_uring_setup(2)",
            io::Error::from_raw_os_error(libc::EPERM),
        ));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("io_uring_setup(2)"));
    }
}
