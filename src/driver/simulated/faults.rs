//! What the simulated network does wrong, and how often it did.
//!
//! In: nothing. Out: parameters for the network. Never: decisions (`random.rs` makes them).

use super::Random;

/// Parameters of the simulated network. Probabilities count per thousand; times are the largest
/// that may be drawn; 0 switches the fault off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// What a peer sends is torn into pieces from 1 byte on, and so is what a read reports.
    pub(crate) cut: u32,
    /// How late anything arrives at the other side: requests, bytes, FIN, RST.
    pub(crate) delay_ms: u64,
    /// A FIN arrives later than the bytes before it, rather than glued to them.
    pub(crate) late_fin: u32,
    /// A `send` takes a random prefix, or nothing, although there is room.
    pub(crate) short_send: u32,
    /// Bytes on their way to one peer that it has not read: the kernel's buffers of both sides.
    pub(crate) send_buffer: usize,
    /// How late `Writable` comes after there is room.
    pub(crate) late_writable_ms: u64,
    /// Bytes on their way from one peer that the driver has not read.
    pub(crate) receive_buffer: usize,
    /// The connection breaks instead of delivering the bytes that are there.
    pub(crate) reset_on_receive: u32,
    /// The connection breaks in the middle of a `send`.
    pub(crate) reset_on_send: u32,
    /// What happens to different connections in one turn is reported in any order.
    pub(crate) reorder: u32,
    /// How late `Released` comes after `close`.
    pub(crate) late_release_ms: u64,
    /// What was under way when the worker paused reading (or accepting) still arrives.
    pub(crate) overrun: u32,
    /// The kernel reports something about a connection that the worker has closed.
    pub(crate) stale: u32,
    /// No buffer is left, so that bytes are there but a turn does not deliver them.
    pub(crate) exhausted: u32,
    /// Descriptors that the process may have for connections; accepting fails above.
    pub(crate) descriptors: usize,
    /// Accepting fails for want of kernel memory.
    pub(crate) accept_failure: u32,
    /// Adopting an accepted socket fails.
    pub(crate) adopt_failure: u32,
    /// `Woken` without a wake.
    pub(crate) spurious_wake: u32,
    /// `wait` returns early with nothing, as after EINTR.
    pub(crate) early_return: u32,
    /// `next_event` ends the turn although more happened.
    pub(crate) short_turn: u32,
    /// The worker does not get the processor: `wait` returns late by up to `stall_ms`.
    pub(crate) stall: u32,
    /// See `stall`.
    pub(crate) stall_ms: u64,
    /// How long a wait takes that may not wait and finds nothing. The kernel is faster, and its
    /// clock finer.
    pub(crate) look_ms: u64,
    /// The clock starts at this value.
    pub(crate) origin_ms: u64,
}

impl Faults {
    /// A perfect network: no delay, ample buffers, nothing breaks.
    pub(crate) const fn none() -> Self {
        Self {
            cut: 0,
            delay_ms: 0,
            late_fin: 0,
            short_send: 0,
            send_buffer: 256 * 1024,
            late_writable_ms: 0,
            receive_buffer: 256 * 1024,
            reset_on_receive: 0,
            reset_on_send: 0,
            reorder: 0,
            late_release_ms: 0,
            overrun: 0,
            stale: 0,
            exhausted: 0,
            descriptors: usize::MAX,
            accept_failure: 0,
            adopt_failure: 0,
            spurious_wake: 0,
            early_return: 0,
            short_turn: 0,
            stall: 0,
            stall_ms: 0,
            look_ms: 0,
            origin_ms: 0,
        }
    }

    /// Everything that loses no byte and breaks no connection: what is sent must arrive.
    pub(crate) const fn rough() -> Self {
        Self {
            cut: 400,
            delay_ms: 5,
            late_fin: 500,
            short_send: 200,
            send_buffer: 4 * 1024,
            late_writable_ms: 3,
            receive_buffer: 16 * 1024,
            reorder: 500,
            late_release_ms: 4,
            overrun: 500,
            stale: 300,
            exhausted: 50,
            accept_failure: 20,
            spurious_wake: 20,
            early_return: 50,
            short_turn: 50,
            stall: 10,
            stall_ms: 50,
            ..Self::none()
        }
    }

    /// Everything: connections break as well, now and then.
    pub(crate) const fn hostile() -> Self {
        Self { reset_on_receive: 20, reset_on_send: 5, adopt_failure: 30, ..Self::rough() }
    }

    /// Some of the faults of `hostile`, chosen by the seed, with buffers of any size: a fault
    /// that always hides another one is absent in half of the seeds. The clock starts anywhere,
    /// also shortly before it passes 2^32.
    pub(crate) fn drawn(random: &mut Random) -> Self {
        let mut faults = Self::hostile();
        let mut keep = |value: &mut u32| {
            if random.chance(500) {
                *value = 0;
            }
        };
        keep(&mut faults.cut);
        keep(&mut faults.late_fin);
        keep(&mut faults.short_send);
        keep(&mut faults.reset_on_receive);
        keep(&mut faults.reset_on_send);
        keep(&mut faults.reorder);
        keep(&mut faults.overrun);
        keep(&mut faults.stale);
        keep(&mut faults.exhausted);
        keep(&mut faults.accept_failure);
        keep(&mut faults.adopt_failure);
        keep(&mut faults.spurious_wake);
        keep(&mut faults.early_return);
        keep(&mut faults.short_turn);
        keep(&mut faults.stall);
        faults.delay_ms = random.up_to(faults.delay_ms);
        faults.late_writable_ms = random.up_to(faults.late_writable_ms);
        faults.late_release_ms = random.up_to(faults.late_release_ms);
        faults.send_buffer = random.length(64 * 1024);
        faults.receive_buffer = random.length(64 * 1024);
        faults.origin_ms = match random.up_to(2) {
            0 => 0,
            1 => (1 << 32) - random.up_to(1_000),
            _ => random.up_to(1 << 43),
        };
        faults
    }
}

/// How often each fault happened: a fault that never fires tests nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Reads that reported less than what was there.
    pub(crate) cut_reads: u64,
    /// Sends that took less than what there was room for.
    pub(crate) short_sends: u64,
    /// Sends that took nothing of something.
    pub(crate) empty_sends: u64,
    /// Sends that met a full buffer.
    pub(crate) full_buffers: u64,
    /// Connections that broke on receiving.
    pub(crate) resets_on_receive: u64,
    /// Connections that broke on sending.
    pub(crate) resets_on_send: u64,
    /// Turns whose completions were mixed.
    pub(crate) reordered_turns: u64,
    /// Reports that arrived after a pause.
    pub(crate) overruns: u64,
    /// Accepts that the kernel refused.
    pub(crate) accept_failures: u64,
    /// Sockets that could not be adopted.
    pub(crate) adopt_failures: u64,
    /// `Woken` without a wake.
    pub(crate) spurious_wakes: u64,
    /// Waits in which the worker slept.
    pub(crate) sleeps: u64,
    /// Waits that returned early.
    pub(crate) early_returns: u64,
    /// Turns that ended early.
    pub(crate) short_turns: u64,
    /// Waits that returned late.
    pub(crate) stalls: u64,
    /// FINs that were reported in the same turn as the last bytes.
    pub(crate) glued_fins: u64,
}
