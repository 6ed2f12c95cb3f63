//! What `--help` says.

/// Shown for `--help`, and after each complaint about the arguments.
pub(crate) const USAGE: &str = "\
loadtest MODE --url URL [options]

URL: ws:// or wss:// HOST[:PORT][/TARGET], unix:PATH, ws+unix:PATH[:/TARGET],
or tcp://HOST:PORT for a server that returns bytes as they are

Modes
  echo      closed loop: each connection keeps --depth messages in flight
  latency   open loop: --rate messages per second, whatever the server does
  broadcast one connection sends --depth messages at a time, all receive them
  relay     one connection sends --depth messages at a time, all others receive them
  connect   opening handshakes per second
  idle      server memory per open connection (needs --server-pid)
  compare   our servers and others side by side, in turn
  serve     a server for loads that our examples have no use for
  matrix    the echo example on epoll and io_uring over a grid of cells

Every mode with --url
  --url URL            the server
  --pin CPU            run the load generator on this CPU
  --server-pid PID     read CPU time, memory and context switches of the server
  --ca FILE            believe these certificates only (wss; default: any)
  --resume             resume TLS sessions (default: every handshake is a full one)
  --deflate            permessage-deflate: messages are compressed once, before the start
echo, broadcast, relay
  --connections N      open connections (default 32, at most 20000)
  --size BYTES         payload of a message (default 1024)
  --depth N            messages in flight per connection (default 1)
  --duration TIME      measured window, such as 5s or 500ms (default 5s)
  --warmup TIME        not measured, before the window (default 1s)
  --text | --binary | --utf8 | --content text|binary|utf8|json
                       ASCII text (default), binary, text of 1- to 4-byte characters, JSON
  --copies N           broadcast, relay: the server delivers each message so often (default 1)
  --verify             compare every byte that comes back, not only length and ends
  --syscalls           one more second with perf or strace: system calls per message
  --strace             the same, with strace even if perf works
latency
  --rate N             messages per second on all connections together
  --connections N      open connections, which send in turn (default 64)
  --size BYTES         payload of a message (default 20)
  --duration, --warmup, --content, --verify as above
connect
  --concurrency N      handshakes under way at once (default 32)
  --duration, --warmup as above
  --abrupt             reset the connection instead of a close handshake
idle
  --connections LIST   open connections (default 32); several numbers are reached one by one
  --concurrency N      handshakes under way at once (default 32)
  --echo BYTES         one echo of so many bytes on each connection, then memory is read again
  --hold TIME          wait before memory is read (default 1s)
compare
  (default)            a sensible choice of cells, with the rows of the budget
  --budget             the rows of the budget only
  --full               every combination; takes hours with everybody
  --quick              one start of 5 rounds instead of 3 of 8
  --cells NAME,...     only cells whose name contains one of these, such as
                       'connect, 32 at once, TLS,echo 32' (no space after a comma between two)
  --who NAME,...       only these beside uwebsockets, such as wirelane, raw, tokio-websockets
  --starts N           fresh starts of every server (default 3)
  --rounds N           windows of each server and cell after a start (default 8)
  --window TIME        length of a window (default 150ms; latency: five times that)
  --deflate-level N    ours compress at this level, 1 to 9 (default: theirs, which is 1)
  --no-build           take the peers as they are, build none
  --peers DIR          where they are (default: target/peers)
  --examples DIR       where ours are (default: examples/ beside this program)
  --save DIR           also writes DIR/DATE.md, .json, .csv and plots
  --server-cpu CPU, --load-cpu CPU, --markdown FILE as below
matrix
  --server PATH        the echo example (default: examples/echo beside this program)
  --drivers A,B        (default epoll,io_uring; the ratio is B/A)
  --connections LIST   (default 1,32,256,2000)
  --sizes LIST         (default 20,1024,16384)
  --depths LIST        (default 1,8)
  --rounds N           (default 3)
  --duration, --warmup of one run (default 2s and 500ms)
  --content as above
  --server-cpu CPU     (default 0)
  --load-cpu CPU       (default 1)
  --markdown FILE      also writes the table there
serve
  --mode echo          each message comes back
  --mode threads       each message is published by --publishers threads (default 4) through a
                       Handle, by each of them --copies times (default 1)
  --mode subscribe     from the second message on, a connection subscribes to --topics topics
                       (default 100) and gets its message back
  --listen ADDR        (default 127.0.0.1:9001)
  --driver auto|epoll|io_uring
Output of the other modes
  --json FILE          also writes the figures there
  --csv FILE           the same as comma-separated values
  --plot FILE.svg      draws them
  --quiet              no progress line and no table
  --help
";
