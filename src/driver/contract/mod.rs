//! The tests that every driver must pass, written once.
//!
//! `contract_tests!(SomeLab)` inside a test module runs the list on one lab. The rules that hold at
//! any moment (nothing after `close` but `Released`, nothing received after `Ended`, `Failed` once,
//! ...) are checked by `lab::Worker` on every event of every test; what is here brings about the
//! situations in which drivers break them.

use super::lab::Lab;

mod bytes;
mod life_cycle;
mod outgoing;
mod turns;

pub(super) use bytes::*;
pub(super) use life_cycle::*;
pub(super) use outgoing::*;
pub(super) use turns::*;

/// Declares the whole list for one lab.
macro_rules! contract_tests {
    ($lab:ty) => {
        $crate::driver::contract::contract_tests! { @list $lab;
            bytes_arrive_whole_and_in_order
            forty_connections_share_small_buffers
            reading_on_loses_nothing_and_comes_to_an_end
            lent_bytes_may_be_changed_and_sent
            many_slices_leave_in_order
            short_sends_resume_and_keep_their_order
            fin_right_behind_the_last_bytes
            a_half_closed_peer_still_receives
            finish_sending_delivers_everything_first
            the_last_bytes_and_the_end_arrive
            the_end_travels_with_the_last_bytes
            a_reset_fails_once
            a_reset_behind_our_fin_fails_once
            a_reset_behind_bytes_fails_once
            a_reset_of_a_paused_connection_fails_after_resume
            a_reset_ends_a_blocked_send
            a_failed_send_is_the_last_word
            close_silences_a_whole_batch
            close_silences_bytes_that_wait_for_the_next_turn
            a_reused_slot_never_hears_its_predecessor
            released_comes_once_and_only_after_close
            close_ends_the_peer
            a_dropped_newcomer_sees_the_end
            pause_stops_delivery_and_resume_delivers_all
            a_pause_inside_an_event_takes_effect
            bytes_of_before_the_resume_need_no_further_edge
            paused_accepting_leaves_newcomers_waiting
            a_crowd_is_let_in
            impatient_newcomers_are_heard
            work_left_over_needs_no_kernel_event
            stop_listening_spares_the_established
            quiet_connections_let_the_driver_sleep
            a_wake_ends_a_wait
            no_wake_is_lost
            wait_keeps_its_timeout
            the_peer_address_is_the_peers
            an_outgoing_connection_moves_bytes_both_ways
            what_the_other_side_says_first_comes_behind_connected
            where_nobody_listens_connecting_fails
            an_attempt_can_be_given_up
            a_slot_is_reused_by_the_next_attempt
        }
        $crate::driver::contract::contract_tests! { @alone $lab;
            accepting_pauses_without_descriptors
            a_signal_does_no_harm
            two_thousand_connections_leave_nothing
            five_hundred_attempts_leave_nothing
        }
    };
    (@list $lab:ty; $($name:ident)*) => {
        $(#[test] fn $name() { $crate::driver::contract::$name::<$lab>() })*
    };
    (@alone $lab:ty; $($name:ident)*) => {
        $(#[test] fn $name() {
            let path = concat!(module_path!(), "::alone::", stringify!($name));
            $crate::driver::lab::run_alone(path);
        })*
        /// These look at, or change, what belongs to the whole process.
        mod alone {
            #[allow(unused_imports)]
            use super::*;
            $(#[test] #[ignore = "run in a process of its own by the test of the same name"]
            fn $name() { $crate::driver::contract::$name::<$lab>() })*
        }
    };
}
pub(super) use contract_tests;

const RECEIVE_BUFFER: usize = 64 * 1024;

/// A rig with buffers of a usual size, or an early end of the test.
macro_rules! rig {
    () => {
        rig!(RECEIVE_BUFFER)
    };
    ($receive_buffer:expr) => {
        match Rig::<L>::open($receive_buffer) {
            Some(rig) => rig,
            None => return,
        }
    };
}
use rig;

fn skips_resets<L: Lab>() -> bool {
    if !L::HAS_RESET {
        eprintln!("skipped: this network knows no reset");
    }
    !L::HAS_RESET
}
