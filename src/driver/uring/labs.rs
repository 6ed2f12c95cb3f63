//! The tests of `driver::contract`, on this driver in each of its receive modes.

use super::{ReceiveMode, Uring, UringOptions};
use crate::driver::contract::contract_tests;
use crate::driver::lab::{Loopback, RealDriver, Skip};
use crate::driver::{Driver, ReceiveMemory};

type Opened = (Box<dyn Driver>, ReceiveMemory);

/// Few buffers, so that they run out.
fn open(receive_buffer: usize, best_mode: ReceiveMode) -> Result<Opened, Skip> {
    let options = UringOptions {
        buffer_bytes: receive_buffer,
        buffers: 8,
        best_mode,
        ..UringOptions::default()
    };
    match Uring::new(options) {
        Ok((driver, memory)) => Ok((Box::new(driver), memory)),
        Err(reason) if reason.is_refused() => Err(Skip(reason.to_string())),
        Err(reason) => panic!("{reason}"),
    }
}

macro_rules! lab {
    ($module:ident, $mode:expr, $unix:literal) => {
        mod $module {
            use super::*;

            struct Lab;

            impl RealDriver for Lab {
                const UNIX: bool = $unix;

                fn open(receive_buffer: usize) -> Result<Opened, Skip> {
                    super::open(receive_buffer, $mode)
                }
            }

            contract_tests!(Loopback<Lab>);
        }
    };
}

lab!(incremental, ReceiveMode::Incremental, false);
lab!(incremental_unix, ReceiveMode::Incremental, true);
lab!(multishot, ReceiveMode::Multishot, false);
lab!(single_shot, ReceiveMode::SingleShot, false);
