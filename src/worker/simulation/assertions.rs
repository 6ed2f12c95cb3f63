//! What holds at the end of every turn, and when everybody has left.

use super::world::World;
use crate::config::Config;
use crate::connection::http::Stage;
use crate::connection::{Connection, Http, NEVER, Phase};
use crate::driver::ConnectionId;
use crate::driver::Driver;
use crate::worker::core::SPARE_BYTES;
use crate::worker::http::MAX_HELD;
use crate::worker::schedule::Owner;

/// Frames that are queued whatever the limit says: the 101, one pong, keep-alive pings, a Close.
const CONTROL_FRAMES: usize = 1024;

/// Asserts what holds at the end of every turn.
pub(super) fn after_turn(world: &World) {
    let core = &world.worker.crank.core;
    let seed = world.seed;
    assert!(core.dirty.is_empty(), "seed {seed}: not flushed: {:?}", core.dirty);
    assert!(core.doomed.is_empty(), "seed {seed}: not ended: {:?}", core.doomed);
    assert!(core.resumed.is_empty(), "seed {seed}: not resumed: {:?}", core.resumed);
    for owner in core.schedule.owners() {
        if let Owner::Connection(id) = owner {
            assert!(core.is_live(id), "seed {seed}: {id:?} has gone and has a timer");
        }
    }
    let (mut lent, mut live, mut unsent) = (0, 0, 0);
    for id in core.table.ids() {
        let connection = core.table.get(id).expect("just listed");
        lent += usize::from(connection.outgoing.is_some());
        unsent += connection.unsent_len();
        live += usize::from(matches!(connection.phase, Phase::Live(_)));
        if let Err(broken) = check(world, id, connection) {
            let Connection { blocked, reading_paused, peer_ended, .. } = connection;
            panic!(
                "seed {seed} at {} ms: {id:?} {broken}: {} bytes unsent, blocked: {blocked}, \
                 paused: {reading_paused}, peer ended: {peer_ended}, {:?}",
                world.now_ms(),
                connection.unsent_len(),
                connection.phase,
            );
        }
    }
    assert_eq!(core.lent_queues(), lent, "seed {seed}: an outgoing queue of nobody");
    assert_eq!(core.buffered, unsent, "seed {seed}: bytes that wait");
    assert_eq!(world.worker.crank.routes[0].sessions(), live, "seed {seed}: sessions");
    let stats = world.shared.stats();
    assert_eq!(stats.buffered_bytes, unsent as u64, "seed {seed}: {stats:?}");
    assert_eq!(stats.opened - stats.closed, live as u64, "seed {seed}: {stats:?}");
    assert_eq!(world.shared.places.load(0), core.table.len(), "seed {seed}: places");
    assert!(core.table.len() <= world.config.max_connections, "seed {seed}: too many");
    assert_eq!(core.driver.stats().sockets, core.table.len(), "seed {seed}: sockets");
    assert!(core.timers.len() <= core.table.len(), "seed {seed}: a timer of nobody");
    assert!(core.buffers.retained() <= SPARE_BYTES, "seed {seed}: the pool is over its bound");
    let violations = &world.log.borrow().violations;
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
}

/// The same for one connection.
fn check(world: &World, id: ConnectionId, connection: &Connection) -> Result<(), &'static str> {
    let core = &world.worker.crank.core;
    let config = &world.config;
    let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(rule) };
    let unsent = connection.unsent_len();
    rule(!connection.dirty, "is marked as dirty, but in no list")?;

    // Timers: none is late, none is missing.
    let due_ms = core.next_deadline(id);
    let armed_ms = core.timers.deadline(id.slot() as u32).unwrap_or(NEVER);
    rule(armed_ms <= due_ms, "has a deadline that no timer watches")?;
    rule(due_ms > core.now_ms, "has a deadline that has passed")?;

    // Whoever waits is called again.
    if matches!(connection.phase, Phase::Gone) {
        rule(connection.outgoing.is_none(), "has gone and still holds an outgoing queue")?;
        return rule(armed_ms == NEVER, "has gone and still has a timer");
    }
    let holds_input = connection.holds_input();
    rule(unsent == 0 || connection.blocked, "has bytes to send, and nobody will")?;
    rule(
        connection.outgoing.is_none() || unsent > 0 || holds_input,
        "keeps an outgoing queue without need",
    )?;
    let next_turn = core.postponed.contains(&id);
    let waits = connection.blocked || connection.paused_by_handler || next_turn;
    rule(!holds_input || waits, "holds input, and nobody will look at it")?;
    rule(!holds_input || connection.reading_paused, "holds input and reads more")?;
    if let Phase::Http(http) = &connection.phase {
        return match http {
            Some(http) => check_http(http, connection, armed_ms, config),
            None => rule(!connection.reading_paused, "has sent nothing and is not read"),
        };
    }
    rule(!connection.reading_paused || waits, "is paused, and nobody will resume it")?;
    let paused = connection.reading_paused || !connection.paused_by_handler;
    rule(paused, "is read although the handler does not want that")?;
    rule(!connection.resume_due, "is still to be resumed")?;

    // Memory: what one peer may cost.
    let most = config.max_backpressure + world.longest + CONTROL_FRAMES;
    rule(unsent <= most, "has a queue over its limit")?;
    if let Some(outgoing) = &connection.outgoing {
        rule(outgoing.waiting_pong().len() <= 127, "has more than one waiting pong")?;
        rule(outgoing.waiting_pong().is_empty() || connection.blocked, "has a forgotten pong")?;
        // The rest of one turn, and what was under way when the pause took effect.
        rule(outgoing.held_len() <= 3 * config.receive_buffer, "holds too much input")?;
    }
    match &connection.phase {
        Phase::Live(live) => {
            let backlogged = unsent > config.high_water();
            rule(!backlogged || connection.reading_paused, "is read in spite of its queue")?;
            // Messages are at most that long, so a pooled buffer may have twice that.
            rule(
                live.endpoint.buffered() <= 2 * world.longest + 64 * 1024,
                "buffers more than twice what its peer sent",
            )
        }
        _ => rule(!connection.reading_paused, "drains, but does not read"),
    }
}

/// The same for one that speaks HTTP.
fn check_http(
    http: &Http,
    connection: &Connection,
    armed_ms: u64,
    config: &Config,
) -> Result<(), &'static str> {
    let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(rule) };
    let full = connection.unsent_len() > config.high_water();
    let reason = match &http.stage {
        Stage::Head => full && !http.input.is_empty(),
        Stage::Receiving(receiving) => receiving.is_paused(),
        Stage::Deciding(_) | Stage::Owed(_) | Stage::Streaming(_) => http.input.len() >= MAX_HELD,
    };
    rule(connection.reading_paused == reason, "is read or not read without a reason")?;
    rule(
        http.input.len() <= MAX_HELD + 2 * config.receive_buffer,
        "holds too much before it is answered",
    )?;
    match &http.stage {
        Stage::Deciding(_) => rule(armed_ms != NEVER, "waits for a decision for ever"),
        Stage::Owed(_) => rule(armed_ms != NEVER, "waits for an answer for ever"),
        Stage::Receiving(receiving) => {
            let timed = receiving.is_paused() || config.body_timeout_ms == 0;
            rule(timed || armed_ms != NEVER, "waits for a body for ever")
        }
        Stage::Streaming(streaming) => {
            rule(!connection.blocked || !streaming.queued, "goes on though its socket is full")
        }
        Stage::Head => rule(!connection.peer_ended || full, "waits for a peer that has gone"),
    }
}

/// Asserts that nothing is left of connections that have all ended.
pub(super) fn at_rest(world: &World) {
    let (core, seed) = (&world.worker.crank.core, world.seed);
    assert_eq!(core.table.len(), 0, "seed {seed}");
    assert_eq!(core.lent_queues(), 0, "seed {seed}");
    assert_eq!(core.timers.next_deadline(), None, "seed {seed}: a timer of nobody");
    assert_eq!(world.worker.crank.routes[0].sessions(), 0, "seed {seed}");
    assert_eq!(world.network.descriptors(), 0, "seed {seed}");
    let open = world.log.borrow().open();
    assert!(open.is_empty(), "seed {seed}: no on_close for {open:?}");
    let stats = world.shared.stats();
    assert_eq!((stats.connections, stats.opened), (0, stats.closed), "seed {seed}: {stats:?}");
    assert_eq!(stats.opened, world.log.borrow().records.len() as u64, "seed {seed}: {stats:?}");
}
