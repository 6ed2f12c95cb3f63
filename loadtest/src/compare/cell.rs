//! What is compared: one cell is one load, and says which server it needs.

use crate::batch::Content;

/// What is done to the servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Task {
    /// Closed loop.
    Echo,
    /// One connection sends, all receive.
    Broadcast,
    /// One connection sends, all others receive.
    Relay,
    /// Opening and close handshakes.
    Connect,
    /// Closed loop, with the system calls of the server counted.
    Calls,
    /// Memory of connections that do nothing.
    Idle,
    /// Memory of subscriptions.
    Subscriptions,
    /// Publishing from threads outside the workers: one connection sends, all receive.
    Threads,
    /// Open loop with so many messages per second.
    Latency(f64),
    /// Open loop at this percentage of what the slower one of the baseline and ours keeps up with.
    LatencyAt(u32),
}

/// permessage-deflate of the servers (RFC 7692).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deflate {
    Off,
    Shared,
    Dedicated,
}

impl Deflate {
    /// As on the command line of the servers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// What a server does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Echo,
    Broadcast,
    Relay,
    Subscribe,
    Threads,
}

impl Service {
    /// As on the command line of the peers, and the name of our example.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Relay => "relay",
            Self::Subscribe => "subscribe",
            Self::Threads => "threads",
        }
    }
}

/// Threads that publish in [`Task::Threads`].
pub(crate) const PUBLISHERS: usize = 4;

/// Topics of each connection in [`Task::Subscriptions`].
pub(crate) const TOPICS: usize = 100;

/// Which server a cell needs. Cells with the same need share a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) service: Service,
    pub(crate) tls: bool,
    pub(crate) deflate: Deflate,
}

/// One load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    pub(crate) task: Task,
    /// Open connections; for [`Task::Connect`], handshakes under way at once.
    pub(crate) connections: usize,
    pub(crate) size: usize,
    /// Messages in flight each, or messages a turn; in [`Task::Threads`], of all threads together.
    pub(crate) depth: usize,
    pub(crate) content: Content,
    pub(crate) tls: bool,
    pub(crate) deflate: Deflate,
    /// TLS sessions are resumed, where connections come and go.
    pub(crate) resume: bool,
}

impl Cell {
    /// A plain load without compression.
    pub(crate) const fn new(
        task: Task,
        connections: usize,
        size: usize,
        depth: usize,
        content: Content,
    ) -> Self {
        Self {
            task,
            connections,
            size,
            depth,
            content,
            tls: false,
            deflate: Deflate::Off,
            resume: false,
        }
    }

    /// A closed loop.
    pub(crate) const fn echo(
        connections: usize,
        size: usize,
        depth: usize,
        content: Content,
    ) -> Self {
        Self::new(Task::Echo, connections, size, depth, content)
    }

    /// The same over TLS.
    pub(crate) const fn over_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The same over TLS whose sessions are resumed.
    pub(crate) const fn resumed(mut self) -> Self {
        self.tls = true;
        self.resume = true;
        self
    }

    /// The same with compression.
    pub(crate) const fn deflated(mut self, deflate: Deflate) -> Self {
        self.deflate = deflate;
        self
    }

    /// Whether it is an open loop.
    pub(crate) fn is_paced(&self) -> bool {
        matches!(self.task, Task::Latency(_) | Task::LatencyAt(_))
    }

    /// The server it needs.
    pub(crate) fn need(&self) -> Need {
        let service = match self.task {
            Task::Broadcast => Service::Broadcast,
            Task::Relay => Service::Relay,
            Task::Subscriptions => Service::Subscribe,
            Task::Threads => Service::Threads,
            _ => Service::Echo,
        };
        Need { service, tls: self.tls, deflate: self.deflate }
    }

    /// For tables and for `--cells`.
    pub(crate) fn name(&self) -> String {
        let Self { connections, size, depth, .. } = self;
        let size = bytes(*size);
        let content = self.content.name();
        let mut name = match self.task {
            Task::Echo => format!("echo {connections} x {size} {content} x {depth}"),
            Task::Broadcast if self.content != Content::Ascii => {
                format!("broadcast to {connections}, {size} {content}, {depth} a turn")
            }
            Task::Broadcast => format!("broadcast to {connections}, {size}, {depth} a turn"),
            Task::Relay => format!("relay to {}, {size}, {depth} a turn", connections - 1),
            Task::Connect => format!("connect, {connections} at once"),
            Task::Calls => format!("system calls, {connections} x {size} x {depth}"),
            Task::Idle => format!("idle, {connections} connections"),
            Task::Subscriptions => format!("subscriptions, {connections} x {TOPICS} topics"),
            Task::Threads => format!(
                "publish from {PUBLISHERS} threads to {connections}, {size}, {depth} a turn"
            ),
            Task::Latency(rate) => format!("latency {connections} x {size} at {rate}/s"),
            Task::LatencyAt(percent) => {
                format!("latency {connections} x {size} at {percent} % of capacity")
            }
        };
        if self.tls {
            name.push_str(if self.resume { ", TLS resumed" } else { ", TLS" });
        }
        if self.deflate != Deflate::Off {
            name.push_str(&format!(", deflate {}", self.deflate.name()));
        }
        name
    }
}

fn bytes(size: usize) -> String {
    match size {
        size if size >= 1024 * 1024 && size.is_multiple_of(1024 * 1024) => {
            format!("{} MiB", size / 1024 / 1024)
        }
        size if size >= 1024 && size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
        size => format!("{size} B"),
    }
}

/// The loads of `compare` without `--full` or `--budget`.
pub(crate) fn default_cells() -> Vec<Cell> {
    use Content::{Ascii, Binary, Json, MixedUtf8};
    let kib = 1024;
    let mut cells = vec![
        Cell::echo(1, 20, 1, Binary),
        Cell::echo(32, 20, 1, Binary),
        Cell::echo(256, 20, 1, Binary),
        Cell::echo(2000, 20, 1, Binary),
        Cell::echo(32, 20, 8, Binary),
        Cell::echo(256, 20, 8, Binary),
        Cell::echo(32, 20, 64, Binary),
        Cell::echo(32, kib, 1, Binary),
        Cell::echo(32, kib, 1, Ascii),
        Cell::echo(32, kib, 8, Binary),
        Cell::echo(32, kib, 8, Ascii),
        Cell::echo(32, kib, 8, MixedUtf8),
        Cell::echo(32, 16 * kib, 1, Binary),
        Cell::echo(32, 16 * kib, 8, Binary),
        Cell::echo(8, kib * kib, 1, Ascii),
        Cell::echo(8, kib * kib, 1, Binary),
    ];
    for depth in [1, 16, 32, 64] {
        cells.push(Cell::new(Task::Broadcast, 200, 100, depth, Ascii));
    }
    for depth in [1, 16] {
        cells.push(Cell::new(Task::Relay, 201, 100, depth, Ascii));
    }
    cells.push(Cell::new(Task::Connect, 32, 0, 1, Ascii));
    cells.push(Cell::new(Task::Idle, 2000, 100, 1, Ascii));
    cells.push(Cell::new(Task::Subscriptions, 500, 20, 1, Ascii));
    cells.push(Cell::new(Task::Threads, 200, 100, 4 * 64, Ascii));
    for connections in [1, 256] {
        cells.push(Cell::new(Task::Calls, connections, 20, 1, Binary));
    }
    for rate in [30_000.0, 60_000.0, 100_000.0] {
        cells.push(Cell::new(Task::Latency(rate), 64, 20, 1, Binary));
    }
    for percent in [50, 80] {
        cells.push(Cell::new(Task::LatencyAt(percent), 64, 20, 1, Binary));
    }
    for size in [20, kib, 16 * kib] {
        cells.push(Cell::echo(32, size, 1, Binary).over_tls());
    }
    cells.push(Cell::new(Task::Connect, 32, 0, 1, Ascii).over_tls());
    cells.push(Cell::new(Task::Connect, 32, 0, 1, Ascii).resumed());
    cells.push(Cell::new(Task::Idle, 500, 100, 1, Ascii).over_tls());
    for deflate in [Deflate::Shared, Deflate::Dedicated] {
        for size in [64, kib, 16 * kib] {
            cells.push(Cell::echo(32, size, 8, Json).deflated(deflate));
        }
        cells.push(Cell::new(Task::Idle, 500, 100, 1, Json).deflated(deflate));
    }
    for depth in [1, 16] {
        cells.push(Cell::new(Task::Broadcast, 200, kib, depth, Json).deflated(Deflate::Shared));
    }
    cells
}

/// Every combination of `--full`.
pub(crate) fn full_cells() -> Vec<Cell> {
    use Content::{Ascii, Binary, Json, MixedUtf8};
    let kib = 1024;
    let mut cells = Vec::new();
    for connections in [1, 32, 256, 2000] {
        for size in [20, kib, 16 * kib, kib * kib] {
            for depth in [1, 8, 64] {
                // More than so much in flight measures memory, and nobody's server.
                if connections * size * depth > 512 * kib * kib {
                    continue;
                }
                for content in [Binary, Ascii, MixedUtf8] {
                    cells.push(Cell::echo(connections, size, depth, content));
                }
            }
        }
    }
    let others = default_cells();
    cells.extend(
        others
            .into_iter()
            .filter(|cell| cell.task != Task::Echo || cell.tls || cell.deflate != Deflate::Off),
    );
    for connections in [100, 1000] {
        for depth in [1, 64] {
            cells.push(Cell::new(Task::Broadcast, connections, 100, depth, Ascii));
        }
    }
    cells.push(Cell::new(Task::Relay, 11, 100, 16, Ascii));
    for depth in [1, 16] {
        let cell = Cell::new(Task::Broadcast, 200, kib, depth, Json);
        cells.push(cell.deflated(Deflate::Dedicated));
    }
    cells.push(Cell::new(Task::Idle, 500, 100, 1, Ascii));
    cells.push(Cell::new(Task::Idle, 8000, 100, 1, Ascii));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_names_of_their_own() {
        for cells in [default_cells(), full_cells()] {
            let mut names: Vec<String> = cells.iter().map(Cell::name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), cells.len());
        }
        let cell = Cell::echo(8, 1024 * 1024, 1, Content::Ascii).over_tls();
        assert_eq!(cell.name(), "echo 8 x 1 MiB text x 1, TLS");
    }

    #[test]
    fn a_cell_knows_the_server_it_needs() {
        let relay = Cell::new(Task::Relay, 201, 100, 16, Content::Ascii);
        let need = Need { service: Service::Relay, tls: false, deflate: Deflate::Off };
        assert_eq!(relay.need(), need);
        assert_eq!(relay.name(), "relay to 200, 100 B, 16 a turn");
        let echo = Cell::echo(1, 20, 1, Content::Json).deflated(Deflate::Shared);
        assert_eq!(echo.need().deflate, Deflate::Shared);
    }
}
