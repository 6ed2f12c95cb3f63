//! The crank: one thread, one driver, one table.

mod timers;
