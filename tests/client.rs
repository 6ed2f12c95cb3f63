//! The blocking client: against our server, against servers that misbehave, and as a program.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::child::{self, Program, command};
use common::{Echo, PATIENCE, TestServer};
use wirelane::client::blocking::{Client, ClientError, Closed, Received};
use wirelane::protocol::ProtocolError;
use wirelane::protocol::upgrade::{AcceptKey, HandshakeError, InvalidHeader};
use wirelane::{CloseCode, Driver, Handler, Limits, Message, WebSocket};

on_every_driver!(
    messages_come_back,
    a_path_and_a_query_are_asked_for,
    the_servers_close_is_answered,
    an_unknown_path_is_named,
    the_program_sends_lines_and_prints_answers,
);

fn url(server: &TestServer, target: &str) -> String {
    format!("ws://{}{target}", server.addr)
}

fn patient() -> wirelane::client::blocking::ClientBuilder {
    Client::builder().read_timeout(PATIENCE)
}

fn messages_come_back(driver: Driver) {
    let limits = Limits::new().max_message(4 << 20);
    let server = TestServer::start(driver, |server| server.limits(limits).websocket("/", |_| Echo));
    let mut client = patient().limits(limits).connect(&url(&server, "/")).expect("connected");
    assert_eq!(client.subprotocol(), None);
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
        let text = "x".repeat(len);
        client.send(&text).expect("sent");
        assert!(client.receive().expect("an echo") == Received::Text(text), "{len} characters");
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        client.send(&bytes).expect("sent");
        assert!(client.receive().expect("an echo") == Received::Binary(bytes), "{len} bytes");
    }
    client.ping(&[7; 200]).expect("sent");
    assert_eq!(client.receive().expect("a Pong"), Received::Pong(vec![7; 125]));
    assert_eq!(client.try_receive().expect("open"), None);
    assert!(client.is_open());
    // This one is on its way when the Close goes out: nobody wants it any more.
    client.send("late").expect("sent");
    let closed = client.close(CloseCode::NORMAL, "bye").expect("a close handshake");
    assert_eq!((closed.code, &*closed.reason), (1000, ""));
    assert!(!client.is_open());
    assert!(matches!(client.send("x"), Err(ClientError::Closed)));
    assert!(matches!(client.ping(b""), Err(ClientError::Closed)));
    assert!(matches!(client.receive(), Err(ClientError::Closed)));
    assert!(matches!(client.close(CloseCode::NORMAL, ""), Err(ClientError::Closed)));
    server.wait_for("the end", |stats| stats.connections == 0 && stats.closed == 1);
}

fn a_path_and_a_query_are_asked_for(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/chat", |_| Echo));
    let origin = format!("http://{}", server.addr);
    for (builder, target) in [
        (patient(), "/chat?room=1"),
        (patient().target("/chat"), "/elsewhere"),
        (patient().header("Origin", &origin).header("X-A", ""), "/chat"),
    ] {
        let mut client = builder.connect(&url(&server, target)).expect("connected");
        client.send("here").expect("sent");
        assert_eq!(client.receive().expect("an echo"), Received::Text("here".to_owned()));
    }
}

/// Closes when told to, with the code of the message.
struct Closer;

impl Handler for Closer {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let code = std::str::from_utf8(message.payload()).expect("digits").parse::<u16>();
        let code = CloseCode::try_from(code.expect("digits")).expect("a code");
        ws.close(code, "as you wish");
    }
}

fn the_servers_close_is_answered(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Closer));
    let mut client = patient().connect(&url(&server, "/")).expect("connected");
    client.send("4321").expect("sent");
    let Received::Close(closed) = client.receive().expect("a Close") else { panic!("a Close") };
    assert_eq!((closed.code, &*closed.reason), (4321, "as you wish"));
    assert!(matches!(client.receive(), Err(ClientError::Closed)));
    // The handshake was completed by the client: the server did not wait for a timeout.
    server.wait_for("the end", |stats| stats.connections == 0 && stats.closed == 1);
}

fn an_unknown_path_is_named(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    match patient().connect(&url(&server, "/nothing")) {
        Err(ClientError::Handshake(HandshakeError::Status(404))) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_unix_socket_is_reached() {
    let path = socket_path("reached");
    let listen = format!("unix:{}", path.display());
    let address = listen.clone();
    let server = TestServer::start(Driver::Auto, |server| {
        server.listen(address).websocket("/", |_| Echo).websocket("/chat", |_| Closer)
    });
    let mut client = patient().connect(&listen).expect("connected");
    client.send("over unix").expect("sent");
    assert_eq!(client.receive().expect("an echo"), Received::Text("over unix".to_owned()));
    let mut client = patient().target("/chat").connect(&listen).expect("connected");
    client.send("1000").expect("sent");
    assert!(matches!(client.receive(), Ok(Received::Close(Closed { code: 1000, .. }))));
    drop(server);
    assert!(matches!(patient().connect(&listen), Err(ClientError::Io(_))));
}

#[test]
fn a_full_backlog_of_a_unix_socket_ends_the_wait() {
    let path = socket_path("backlog");
    let listener = UnixListener::bind(&path).expect("a free path");
    // As many as fit: the kernel answers nobody else before somebody is accepted.
    let listener = socket2::Socket::from(listener);
    listener.listen(0).expect("a listener");
    let url = format!("unix:{}", path.display());
    let builder = Client::builder().connect_timeout(Duration::from_millis(150));
    let start = Instant::now();
    for _ in 0..3 {
        assert!(matches!(builder.connect(&url), Err(ClientError::TimedOut)));
    }
    assert!(start.elapsed() < PATIENCE);
    let _ = std::fs::remove_file(&path);
}

// --- servers that misbehave --------------------------------------------------------------------

/// A server for one connection. It gets the stream after the opening handshake.
fn serve(script: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    serve_raw(|mut stream, head| {
        stream.write_all(&accept(&head, "")).expect("the client reads");
        script(stream);
    })
}

/// The same, with the client's request, before any answer.
fn serve_raw(script: impl FnOnce(TcpStream, String) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        script(stream, String::from_utf8(head).expect("ASCII"));
    });
    (url, thread)
}

/// The right answer to a request.
fn accept(head: &str, more: &str) -> Vec<u8> {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let key = key.expect("a key").as_bytes().try_into().expect("24 characters");
    let accept = AcceptKey::of(key);
    let accept = std::str::from_utf8(accept.as_bytes()).expect("ASCII");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
    .into_bytes()
}

/// The next frame of a client, unmasked: FIN, RSV and opcode, then the payload (below 126 bytes).
fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; 6];
    stream.read_exact(&mut header).expect("a frame");
    assert_eq!(header[1] & 0x80, 0x80, "RFC 6455 5.1: a client masks every frame");
    let mut payload = vec![0; usize::from(header[1] & 0x7f)];
    stream.read_exact(&mut payload).expect("a payload");
    payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= header[2 + i % 4]);
    (header[0], payload)
}

fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("FIN");
    assert_eq!(rest, b"");
}

#[test]
fn the_request_is_as_asked_and_the_choice_is_known() {
    let (url, server) = serve_raw(|mut stream, head| {
        assert!(head.starts_with("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Protocol: soap, wamp\r\n"), "{head}");
        assert!(head.contains("\r\nAuthorization: Bearer x\r\n"), "{head}");
        // The first frame comes in the same segment.
        let mut answer = accept(&head, "Sec-WebSocket-Protocol: wamp\r\n");
        answer.extend_from_slice(b"\x81\x05first\x81\x06sec");
        stream.write_all(&answer).expect("the client reads");
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"ond").expect("the client reads");
        expect_end(&mut stream);
    });
    let builder = patient().subprotocol("soap").subprotocol("wamp");
    let builder = builder.header("Authorization", "Bearer x");
    let mut client = builder.connect(&format!("{url}a?b")).expect("connected");
    assert_eq!(client.subprotocol(), Some("wamp"));
    assert_eq!(client.receive().expect("a message"), Received::Text("first".to_owned()));
    assert_eq!(client.receive().expect("a message"), Received::Text("second".to_owned()));
    drop(client);
    server.join().expect("the script holds");
}

#[test]
fn what_cannot_be_asked_for_never_leaves() {
    for url in ["", "127.0.0.1:1", "http://127.0.0.1:1/", "wss://", "unix:"] {
        let error = Client::connect(url).expect_err(url);
        assert!(matches!(error, ClientError::Url { .. }), "{error}");
    }
    for (builder, wanted) in [
        (Client::builder().header("Host", "a"), InvalidHeader::Reserved),
        (Client::builder().header("A", "b\r\nC: d"), InvalidHeader::Value),
        (Client::builder().subprotocol("a b"), InvalidHeader::Subprotocol),
        (Client::builder().target("a"), InvalidHeader::Target),
    ] {
        match builder.connect("ws://127.0.0.1:1/") {
            Err(ClientError::Request(error)) => assert_eq!(error, wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn other_answers_are_no_connection() {
    use HandshakeError::{MalformedResponse, MissingAccept, Status};
    // `None` is an end in the middle of the answer.
    let answers = [
        (&b"SSH-2.0-x\r\n"[..], Some(MalformedResponse)),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Some(Status(503))),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            Some(MissingAccept),
        ),
        (b"HTTP/1.1 101 x\r\n", None),
    ];
    for (answer, wanted) in answers {
        let (url, server) = serve_raw(move |mut stream, _| {
            stream.write_all(answer).expect("the client reads");
        });
        match (Client::connect(&url).expect_err("no connection"), wanted) {
            (ClientError::Handshake(error), Some(wanted)) => assert_eq!(error, wanted),
            (ClientError::Ended, None) => {}
            (error, wanted) => panic!("{error:?} instead of {wanted:?}"),
        }
        server.join().expect("the script holds");
    }
    let closed_port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).unwrap();
    let error = Client::connect(&format!("ws://{closed_port}/")).expect_err("nobody listens");
    assert!(matches!(error, ClientError::Io(_)), "{error:?}");
}

#[test]
fn a_long_response_head_ends_at_the_limit() {
    let head_with = |len: usize| format!("X: {}\r\n", "y".repeat(len));
    for (len, limit, fits) in [(100_000, 200_000, true), (100_000, 50_000, false)] {
        let (url, server) = serve_raw(move |mut stream, head| {
            // The client may have had enough before the end.
            let _ = stream.write_all(&accept(&head, &head_with(len)));
            let _ = stream.write_all(b"\x81\x02ok");
            let _ = stream.read(&mut [0]);
        });
        let result = patient().limits(Limits::new().max_head(limit)).connect(&url);
        match result {
            Ok(mut client) if fits => {
                assert_eq!(client.receive().expect("a text"), Received::Text("ok".to_owned()));
            }
            Err(ClientError::Handshake(HandshakeError::HeadTooLarge)) if !fits => {}
            other => panic!("{len} of {limit}: {other:?}"),
        }
        server.join().expect("the script holds");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let (url, server) = serve_raw(|mut stream, _| {
        // One byte at a time does not move the deadline.
        for byte in b"HTTP/1.1 101 Switching Protocols".iter().cycle().take(1000) {
            thread::sleep(Duration::from_millis(20));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
        panic!("the client waits for ever");
    });
    let start = Instant::now();
    let error =
        Client::builder().connect_timeout(Duration::from_millis(150)).connect(&url).expect_err("");
    assert!(matches!(error, ClientError::TimedOut), "{error:?}");
    assert!(start.elapsed() >= Duration::from_millis(150));
    server.join().expect("the script holds");
}

#[test]
fn nothing_is_lost_by_a_timeout() {
    let (url, server) = serve(|mut stream| {
        stream.write_all(b"\x01\x03one").expect("the client reads");
        assert_eq!(read_frame(&mut stream), (0x82, b"go on".to_vec()));
        stream.write_all(b"\x80\x03two").expect("the client reads");
        expect_end(&mut stream);
    });
    let timeout = Duration::from_millis(50);
    let mut client = Client::builder().read_timeout(timeout).connect(&url).expect("connected");
    for _ in 0..2 {
        let start = Instant::now();
        assert!(matches!(client.receive(), Err(ClientError::TimedOut)));
        assert!(start.elapsed() >= timeout);
    }
    assert_eq!(client.try_receive().expect("open"), None);
    client.send(&b"go on"[..]).expect("sent");
    client.set_read_timeout(PATIENCE);
    assert_eq!(client.receive().expect("a message"), Received::Text("onetwo".to_owned()));
    drop(client);
    server.join().expect("the script holds");
}

#[test]
fn pings_are_answered_by_the_way() {
    let (url, server) = serve(|mut stream| {
        stream.write_all(b"\x89\x02hi\x01\x01a\x89\x00\x80\x01b").expect("the client reads");
        assert_eq!(read_frame(&mut stream), (0x8a, b"hi".to_vec()));
        assert_eq!(read_frame(&mut stream), (0x8a, vec![]));
        expect_end(&mut stream);
    });
    let mut client = patient().connect(&url).expect("connected");
    assert_eq!(client.receive().expect("a message"), Received::Text("ab".to_owned()));
    // The answers leave no later than with the next call that waits.
    client.set_read_timeout(Duration::from_millis(20));
    assert!(matches!(client.receive(), Err(ClientError::TimedOut)));
    drop(client);
    server.join().expect("the script holds");
}

#[test]
fn pings_of_a_server_that_does_not_read_cost_nothing() {
    // Much more than the kernel keeps for a socket that nobody reads.
    const PINGS: u32 = 160_000;
    let ping = |number: u32| {
        let mut frame = vec![0x89, 125];
        frame.extend_from_slice(&number.to_be_bytes());
        frame.resize(127, 7);
        frame
    };
    let (url, server) = serve(move |mut stream| {
        socket2::SockRef::from(&stream).set_recv_buffer_size(256 * 1024).expect("a socket");
        for first in (0..PINGS).step_by(1000) {
            let pings: Vec<u8> = (first..first + 1000).flat_map(ping).collect();
            stream.write_all(&pings).expect("the client reads");
        }
        stream.write_all(b"\x81\x04last").expect("the client reads");
        let mut answers = 0;
        loop {
            let (first, payload) = read_frame(&mut stream);
            assert_eq!((first, payload.len()), (0x8a, 125));
            answers += 1;
            if payload[..4] == (PINGS - 1).to_be_bytes() {
                break;
            }
        }
        // Those that were under way when the buffers were full, and one for all later ones.
        assert!(answers < PINGS / 2, "{answers} answers to {PINGS} pings were kept");
        stream.write_all(b"\x81\x04done").expect("the client reads");
        expect_end(&mut stream);
    });
    let mut client = patient().connect(&url).expect("connected");
    assert_eq!(client.receive().expect("a message"), Received::Text("last".to_owned()));
    assert_eq!(client.receive().expect("a message"), Received::Text("done".to_owned()));
    drop(client);
    server.join().expect("the script holds");
}

#[test]
fn a_server_that_breaks_the_rules_is_told() {
    for (bytes, error, code) in [
        (&b"\x81\x81\0\0\0\0a"[..], ProtocolError::MaskedFrame, 1002),
        (b"\x81\x01\xff", ProtocolError::InvalidUtf8, 1007),
    ] {
        let (url, server) = serve(move |mut stream| {
            stream.write_all(bytes).expect("the client reads");
            let (first, payload) = read_frame(&mut stream);
            assert_eq!(first, 0x88);
            assert_eq!(payload[..2], u16::to_be_bytes(code));
            expect_end(&mut stream);
        });
        let mut client = patient().connect(&url).expect("connected");
        match client.receive() {
            Err(ClientError::Protocol(found)) => assert_eq!(found, error),
            other => panic!("{other:?}"),
        }
        assert!(matches!(client.receive(), Err(ClientError::Closed)));
        server.join().expect("the script holds");
    }
}

#[test]
fn an_end_without_a_close_is_an_error() {
    let (url, server) = serve(|mut stream| {
        stream.write_all(b"\x81\x02ok\x81\x02o").expect("the client reads");
    });
    let mut client = patient().connect(&url).expect("connected");
    assert_eq!(client.receive().expect("a message"), Received::Text("ok".to_owned()));
    assert!(matches!(client.receive(), Err(ClientError::Ended)));
    assert!(matches!(client.send("x"), Err(ClientError::Closed)));
    server.join().expect("the script holds");
}

#[test]
fn a_close_without_a_code_is_1005() {
    let (url, server) = serve(|mut stream| {
        stream.write_all(b"\x88\x00").expect("the client reads");
        assert_eq!(read_frame(&mut stream), (0x88, vec![]));
    });
    let mut client = patient().connect(&url).expect("connected");
    assert!(matches!(client.receive(), Ok(Received::Close(Closed { code: 1005, .. }))));
    server.join().expect("the script holds");
}

#[test]
fn a_close_that_nobody_answers_ends_in_time() {
    let (url, server) = serve(|mut stream| {
        // It talks on and on, and never answers; nor does it read, once its buffers are full.
        while stream.write_all(b"\x82\x04talk\x89\x04ping").is_ok() {}
    });
    let timeout = Duration::from_millis(200);
    let mut client = patient().close_timeout(timeout).connect(&url).expect("connected");
    let start = Instant::now();
    assert!(matches!(client.close(CloseCode::NORMAL, ""), Err(ClientError::TimedOut)));
    assert!(start.elapsed() >= timeout && start.elapsed() < PATIENCE);
    assert!(!client.is_open());
    server.join().expect("the script holds");
}

/// A server that writes and reads by turns, and a client that only writes, fill all buffers. Once
/// the client reads, everything goes on.
#[test]
fn two_full_directions_do_not_lock_each_other() {
    const LEN: usize = 100_000;
    let (url, server) = serve(|mut stream| {
        let mut frame = vec![0x82, 127];
        frame.extend_from_slice(&(LEN as u64).to_be_bytes());
        frame.resize(10 + LEN, 7);
        let mut received = vec![0; 14 + LEN];
        while stream.write_all(&frame).is_ok() && stream.read_exact(&mut received).is_ok() {}
    });
    let builder = patient().write_timeout(Duration::from_millis(20));
    let mut client = builder.connect(&url).expect("connected");
    let (mut sent, mut refused) = (0, 0);
    while refused < 5 {
        assert!(sent < 2000, "there is no end of buffers");
        sent += 1;
        match client.send(&[1; LEN][..]) {
            Ok(()) => {}
            Err(ClientError::TimedOut) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    // The last one comes when the server has read everything.
    for number in 0..=sent {
        match client.receive() {
            Ok(Received::Binary(bytes)) => assert!(bytes == [7; LEN], "message {number}"),
            other => panic!("message {number}: {other:?}"),
        }
    }
    drop(client);
    server.join().expect("the script holds");
}

// --- the program -------------------------------------------------------------------------------

fn socket_path(name: &str) -> PathBuf {
    let path =
        std::env::temp_dir().join(format!("wirelane-client-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// Runs the example with these lines on its stdin.
fn run(args: &[&str], stdin: &str) -> Output {
    let mut command = command("client");
    command.args(args).stdin(Stdio::piped());
    let mut child = command.spawn().expect("the program can be executed");
    let mut pipe = child.stdin.take().expect("piped");
    let stdin = stdin.to_owned();
    // It may end before it has read all.
    let writer = thread::spawn(move || _ = pipe.write_all(stdin.as_bytes()));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("no panic");
    assert!(output.status.code().is_some(), "{output:?}");
    output
}

fn the_program_sends_lines_and_prints_answers(driver: Driver) {
    let server = Program::start("echo", driver, &[]);
    let url = format!("ws://{}/", server.address);
    let output = run(&["--wait", "200", "--ping", &url], "Hello\n\ngrüße\nno newline");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    assert_eq!(text(&output.stdout), "Hello\n\ngrüße\nno newline\n");
    assert!(text(&output.stderr).contains("pong after"), "{output:?}");
    assert!(text(&output.stderr).contains("closed: 1000"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));

    let output = run(&["--wait", "0", "--close", "4000", &url], "");
    assert!(text(&output.stderr).contains("closed: 4000"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));

    // Many lines: nobody waits for anybody for ever, and nothing is lost.
    let many: String = (0..20_000).map(|number| format!("line {number} {:0100}\n", 0)).collect();
    let output = run(&["--wait", "500", &url], &many);
    assert!(text(&output.stdout) == many, "{} of {} bytes", output.stdout.len(), many.len());
    server.stop();
}

#[test]
fn the_program_ends_with_the_right_status() {
    let closed_port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).unwrap();
    for (args, status, named) in [
        (&["--help"][..], 0, ""),
        (&[], 2, "URL is missing"),
        (&["--nonsense", "ws://a/"], 2, "--nonsense"),
        (&["a:1"], 2, "ws://HOST:PORT/PATH"),
        (&["--ca", "/nowhere.pem", "wss://a/"], 2, "/nowhere.pem"),
        (&["ws://a/", "ws://b/"], 2, "ws://b/"),
        (&["--close", "1005", "ws://a/"], 2, "1005"),
        (&["--close", "x", "ws://a/"], 2, "x"),
        (&["--header", "x", "ws://a/"], 2, "NAME: VALUE"),
        (&["--header", "Host: x", "ws://a/"], 2, "request"),
        (&[&format!("ws://{closed_port}/")], 1, "refused"),
    ] {
        let mut command = command("client");
        command.args(args);
        let output = child::run(command);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{args:?}: {stderr}");
        assert_eq!(output.stdout.is_empty(), status != 0, "{args:?}");
    }
}
