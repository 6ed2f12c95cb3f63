//! Answers that come later, in parts, or out of a file; bodies that are taken in parts.

mod common;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Answer, PATIENCE, Peer, TestServer};
use wirelane::{
    BodyWriter, Driver, Error, Intake, Reply, Responder, Response, Resume, Server, StreamError,
    Upload, UploadBody,
};

on_every_driver!(
    a_later_answer_keeps_its_place,
    a_later_answer_has_its_time,
    whoever_answers_learns_that_the_client_has_gone,
    later_answers_are_given_within_the_grace,
    a_stream_comes_in_chunks_from_any_thread,
    a_stream_of_known_length_keeps_its_word,
    a_slow_reader_slows_its_stream_down,
    a_stream_learns_that_its_client_has_gone,
    a_large_file_is_sent_as_fast_as_it_is_read,
    files_are_conditional_and_come_in_parts,
    nothing_but_files_of_the_directory_is_served,
    an_upload_is_taken_in_parts,
    a_paused_upload_stops_its_client,
    an_upload_that_panics_at_its_end_costs_one_connection,
);

fn head(method: &str, target: &str, lines: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

fn ask(peer: &mut Peer, request: &[u8]) -> Answer {
    peer.send(request);
    peer.read_answer()
}

fn get(peer: &mut Peer, target: &str) -> Answer {
    ask(peer, &head("GET", target, ""))
}

fn text(answer: &Answer) -> (u16, &str) {
    (answer.status, str::from_utf8(&answer.body).expect("text"))
}

/// A server that puts answers off, and the right to give them.
fn put_off(driver: Driver) -> (TestServer, mpsc::Receiver<Responder>) {
    let (sender, responders) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = TestServer::start(driver, |server| {
        server
            .response_timeout(Duration::from_millis(300))
            .get("/now", |_| Response::text("now"))
            .get("/later", move |_| {
                let (responder, later) = Reply::later_or(PATIENCE, Response::new(204));
                sender.lock().expect("no panic").send(responder).expect("the test waits");
                later
            })
            .get("/short", |_| {
                let (responder, later) =
                    Reply::later_or(Duration::from_millis(200), Response::text("nothing"));
                // Kept for ever.
                std::mem::forget(responder);
                later
            })
            .get("/never", |_| {
                let (responder, later) = Reply::later();
                std::mem::forget(responder);
                later
            })
            .get("/dropped", |_| Reply::later().1)
    });
    (server, responders)
}

fn next(responders: &mpsc::Receiver<Responder>) -> Responder {
    responders.recv_timeout(PATIENCE).expect("the route is called")
}

fn a_later_answer_keeps_its_place(driver: Driver) {
    let (server, responders) = put_off(driver);
    let mut peer = server.connect();
    let all = ["/now", "/later", "/now", "/later", "/now"].map(|target| head("GET", target, ""));
    peer.send(&all.concat());
    assert_eq!(text(&peer.read_answer()), (200, "now"));
    for word in ["first", "second"] {
        let responder = next(&responders);
        thread::sleep(Duration::from_millis(50));
        assert!(!peer.has_news());
        assert_eq!(responder.answer(Response::text(word)), Ok(()));
        assert_eq!(text(&peer.read_answer()), (200, word));
        assert_eq!(text(&peer.read_answer()), (200, "now"));
    }
    // HEAD is told how long it would have been.
    peer.send(&head("HEAD", "/later", ""));
    next(&responders).answer(Response::text("headless")).expect("it waits");
    assert_eq!(peer.read_answer_to_head().header("Content-Length"), Some("8"));
}

fn a_later_answer_has_its_time(driver: Driver) {
    let (server, _responders) = put_off(driver);
    let mut peer = server.connect();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(text(&get(&mut peer, "/short")), (200, "nothing"));
        assert!(start.elapsed() >= Duration::from_millis(200));
    }
    assert_eq!(get(&mut server.connect(), "/dropped").status, 500);
    let start = Instant::now();
    assert_eq!(get(&mut peer, "/never").status, 503);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

fn whoever_answers_learns_that_the_client_has_gone(driver: Driver) {
    let (server, responders) = put_off(driver);
    for reset in [false, true] {
        let mut peer = server.connect();
        peer.send(&head("GET", "/later", ""));
        let responder = next(&responders);
        let (sender, gone) = mpsc::channel();
        responder.on_gone(move || sender.send(()).expect("the test waits"));
        assert!(!responder.is_gone());
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        gone.recv_timeout(PATIENCE).expect("the end is seen");
        assert!(responder.is_gone());
        assert!(responder.answer(Response::text("too late")).is_err());
    }
    server.wait_for("the end", |stats| stats.connections == 0);
}

fn later_answers_are_given_within_the_grace(driver: Driver) {
    let (server, responders) = put_off(driver);
    let [mut answered, mut cut] = [(); 2].map(|()| server.connect());
    answered.send(&head("GET", "/later", ""));
    let responder = next(&responders);
    cut.send(&head("GET", "/later", ""));
    let kept = next(&responders);
    server.handle.shutdown(Duration::from_secs(2));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(responder.answer(Response::text("just in time")), Ok(()));
    let answer = answered.read_answer();
    assert_eq!(text(&answer), (200, "just in time"));
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(cut.read_answer().status, 503);
    assert!(kept.is_gone());
}

/// A server whose streams are written by the test.
fn streams(driver: Driver) -> (TestServer, mpsc::Receiver<BodyWriter>) {
    let (sender, writers) = mpsc::channel();
    let sender = Mutex::new(sender);
    let send = move |(writer, reply): (BodyWriter, Reply)| {
        let sender: &Mutex<Sender<_>> = &sender;
        sender.lock().expect("no panic").send(writer).expect("the test waits");
        reply
    };
    let send = Arc::new(send);
    let exactly = Arc::clone(&send);
    let server = TestServer::start(driver, |server| {
        server
            .get("/stream", move |_| send(Response::text("start ").stream()))
            .get("/ten", move |_| exactly(Response::new(200).stream_exactly(10)))
            .get("/now", |_| Response::text("now"))
    });
    (server, writers)
}

fn a_stream_comes_in_chunks_from_any_thread(driver: Driver) {
    let (server, writers) = streams(driver);
    let mut peer = server.connect();
    peer.send(&[head("GET", "/stream", ""), head("GET", "/now", "")].concat());
    let writer = writers.recv_timeout(PATIENCE).expect("called");
    let first = peer.read_head();
    assert!(first.contains("\r\nTransfer-Encoding: chunked\r\n"), "{first}");
    assert_eq!(peer.read_chunk(), b"start ");
    thread::spawn(move || {
        for word in ["one ", "", "two"] {
            writer.send(word).expect("room");
        }
        thread::sleep(Duration::from_millis(50));
        writer.send_event("end", "three").expect("room");
        writer.finish();
    });
    assert_eq!(peer.read_chunks().concat(), b"one twoevent: end\ndata: three\n\n");
    assert_eq!(text(&peer.read_answer()), (200, "now"));
    // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    let mut old = server.connect();
    old.send(b"GET /stream HTTP/1.0\r\n\r\n");
    let writer = writers.recv_timeout(PATIENCE).expect("called");
    writer.send("old").expect("room");
    writer.finish();
    assert!(!old.read_head().contains("chunked"));
    assert_eq!(old.read_to_end().expect("FIN"), b"start old");
    // Nobody wants the body of an answer to HEAD.
    peer.send(&head("HEAD", "/stream", ""));
    let writer = writers.recv_timeout(PATIENCE).expect("called");
    assert_eq!(peer.read_answer_to_head().status, 200);
    assert_eq!(writer.send("x"), Err(StreamError::Gone));
}

fn a_stream_of_known_length_keeps_its_word(driver: Driver) {
    let (server, writers) = streams(driver);
    let mut peer = server.connect();
    peer.send(&head("GET", "/ten", ""));
    let writer = writers.recv_timeout(PATIENCE).expect("called");
    writer.send("12345").expect("room");
    assert_eq!(writer.send("123456"), Err(StreamError::TooLong));
    writer.send("67890").expect("room");
    writer.finish();
    assert_eq!(text(&peer.read_answer()), (200, "1234567890"));
    // Half a body is not taken for a whole one.
    for target in ["/ten", "/stream"] {
        let mut peer = server.connect();
        peer.send(&head("GET", target, ""));
        let writer = writers.recv_timeout(PATIENCE).expect("called");
        writer.send("half").expect("room");
        drop(writer);
        peer.read_head();
        let body = peer.read_to_end().unwrap_or_default();
        assert!(body.len() < 40 && !body.ends_with(b"0\r\n\r\n"), "{}", body.escape_ascii());
    }
    server.wait_for("the ends", |stats| stats.connections == 1);
}

fn a_slow_reader_slows_its_stream_down(driver: Driver) {
    let (server, writers) = streams(driver);
    let mut peer = server.connect();
    peer.send(&head("GET", "/stream", ""));
    let writer = writers.recv_timeout(PATIENCE).expect("called");
    let (sender, writable) = mpsc::channel();
    writer.on_writable(move || {
        let _ = sender.send(());
    });
    let piece = vec![b'x'; 50_000];
    let mut total = 6;
    let start = Instant::now();
    // Until nothing moves any more.
    loop {
        match writer.send(&piece) {
            Ok(()) => total += piece.len(),
            Err(error) => {
                assert_eq!(error, StreamError::Full);
                if writable.recv_timeout(Duration::from_millis(300)).is_err() {
                    break;
                }
            }
        }
        assert!(total < 64 * 1024 * 1024 && start.elapsed() < PATIENCE, "no end in sight");
    }
    // What waits is the pipe and one piece of it.
    let stats = server.wait_for("the figures", |stats| stats.buffered_bytes > 0);
    assert!(stats.buffered_bytes <= 80 * 1024, "{stats:?}");
    assert!(writer.buffered_amount() <= 256 * 1024);
    let reader = thread::spawn(move || {
        peer.read_head();
        peer.read_chunks().iter().map(Vec::len).sum::<usize>()
    });
    writable.recv_timeout(PATIENCE).expect("there is room again");
    writer.send("end").expect("room");
    writer.finish();
    assert_eq!(reader.join().expect("read"), total + 3);
}

fn a_stream_learns_that_its_client_has_gone(driver: Driver) {
    let (server, writers) = streams(driver);
    for reset in [false, true] {
        let mut peer = server.connect();
        peer.send(&head("GET", "/stream", ""));
        let writer = writers.recv_timeout(PATIENCE).expect("called");
        let (sender, gone) = mpsc::channel();
        writer.on_gone(move || sender.send(()).expect("the test waits"));
        peer.read_head();
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        gone.recv_timeout(PATIENCE).expect("the end is seen");
        assert!(writer.is_gone());
        assert_eq!(writer.send("x"), Err(StreamError::Gone));
    }
    server.wait_for("the end", |stats| stats.connections == 0);
}

/// A directory of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, driver: Driver) -> Folder {
        let name = format!("wirelane-{name}-{driver}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("www/sub/.git")).expect("a directory");
        for (name, content) in [
            ("secret", "secret"),
            ("www/index.html", "<h1>Home</h1>"),
            ("www/a b.css", "body {}"),
            ("www/empty.txt", ""),
            ("www/.env", "secret"),
            ("www/sub/index.html", "<h1>Sub</h1>"),
            ("www/sub/.git/config", "secret"),
        ] {
            fs::write(path.join(name), content).expect("a file");
        }
        std::os::unix::fs::symlink("../secret", path.join("www/link")).expect("a link");
        std::os::unix::fs::symlink("index.html", path.join("www/home.html")).expect("a link");
        Folder(path)
    }

    fn serve(&self, driver: Driver) -> TestServer {
        TestServer::start(driver, |server| server.files("/f/*", self.0.join("www")))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn a_large_file_is_sent_as_fast_as_it_is_read(driver: Driver) {
    const LEN: usize = 20_000_000;
    let folder = Folder::new("large", driver);
    let content: Vec<u8> = (0..LEN).map(|index| (index % 253) as u8).collect();
    fs::write(folder.0.join("www/large.bin"), &content).expect("a file");
    let server = folder.serve(driver);
    let mut slow = server.connect();
    slow.send(&head("GET", "/f/large.bin", ""));
    let mut peer = server.connect();
    let answer = get(&mut peer, "/f/large.bin");
    assert!(answer.body == content, "{} bytes", answer.body.len());
    assert_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
    let stats = server.wait_for("the slow one", |stats| stats.buffered_bytes > 0);
    assert!(stats.buffered_bytes <= 80 * 1024, "{stats:?}");
    // A part of it, then another answer on the same connection.
    let part = ask(&mut peer, &head("GET", "/f/large.bin", "Range: bytes=1000000-9999999\r\n"));
    assert_eq!((part.status, part.body.len()), (206, 9_000_000));
    assert!(part.body == content[1_000_000..10_000_000]);
    assert_eq!(text(&get(&mut peer, "/f/")), (200, "<h1>Home</h1>"));
    assert!(slow.read_answer().body == content);
    // Whoever closes its side still gets all of it.
    let mut half = server.connect();
    half.send(&head("GET", "/f/large.bin", ""));
    half.finish();
    assert_eq!(half.read_answer().body.len(), LEN);
}

fn files_are_conditional_and_come_in_parts(driver: Driver) {
    let folder = Folder::new("conditional", driver);
    let server = folder.serve(driver);
    let mut peer = server.connect();
    let answer = get(&mut peer, "/f/a%20b.css");
    assert_eq!(text(&answer), (200, "body {}"));
    assert_eq!(answer.header("Content-Type"), Some("text/css; charset=utf-8"));
    assert_eq!(answer.header("Accept-Ranges"), Some("bytes"));
    let etag = answer.header("ETag").expect("a tag").to_owned();
    let date = answer.header("Last-Modified").expect("a date").to_owned();
    for (lines, status, body) in [
        (format!("If-None-Match: {etag}\r\n"), 304, ""),
        (format!("If-Modified-Since: {date}\r\n"), 304, ""),
        ("If-None-Match: \"other\"\r\n".into(), 200, "body {}"),
        ("If-Match: \"other\"\r\n".into(), 412, ""),
        ("Range: bytes=0-3\r\n".into(), 206, "body"),
        ("Range: bytes=-2\r\n".into(), 206, "{}"),
        ("Range: bytes=7-\r\n".into(), 416, ""),
        ("Range: bytes=0-0,2-2\r\n".into(), 200, "body {}"),
        (format!("Range: bytes=0-3\r\nIf-Range: {etag}\r\n"), 206, "body"),
        ("Range: bytes=0-3\r\nIf-Range: \"other\"\r\n".into(), 200, "body {}"),
    ] {
        let answer = ask(&mut peer, &head("GET", "/f/a%20b.css", &lines));
        assert_eq!(text(&answer), (status, body), "{lines}");
        assert_eq!(answer.header("ETag"), Some(&*etag), "{lines}");
        let range = match status {
            206 if lines.contains("-2") => Some("bytes 5-6/7"),
            206 => Some("bytes 0-3/7"),
            416 => Some("bytes */7"),
            _ => None,
        };
        assert_eq!(answer.header("Content-Range"), range, "{lines}");
    }
    peer.send(&head("HEAD", "/f/a%20b.css", ""));
    assert_eq!(peer.read_answer_to_head().header("Content-Length"), Some("7"));
    fs::write(folder.0.join("www/a b.css"), "changed").expect("a file");
    let lines = format!("If-None-Match: {etag}\r\n");
    assert_eq!(text(&ask(&mut peer, &head("GET", "/f/a%20b.css", &lines))), (200, "changed"));
}

fn nothing_but_files_of_the_directory_is_served(driver: Driver) {
    let folder = Folder::new("below", driver);
    let server = folder.serve(driver);
    let mut peer = server.connect();
    for (target, status, body) in [
        ("/f/", 200, "<h1>Home</h1>"),
        ("/f/index.html", 200, "<h1>Home</h1>"),
        ("/f/home.html", 200, "<h1>Home</h1>"),
        ("/f/sub/", 200, "<h1>Sub</h1>"),
        ("/f/empty.txt", 200, ""),
        ("/f/sub", 301, ""),
        ("/f/link", 404, ""),
        ("/f/../secret", 404, ""),
        ("/f/%2e%2e/secret", 404, ""),
        ("/f/..%2fsecret", 404, ""),
        ("/f//etc/passwd", 404, ""),
        ("/f/%2fetc/passwd", 404, ""),
        ("/f/index.html%00.css", 404, ""),
        ("/f/.env", 404, ""),
        ("/f/sub/.git/config", 404, ""),
        ("/f/missing", 404, ""),
        ("/f/index.html/x", 404, ""),
        ("/f/%ff", 404, ""),
    ] {
        let answer = get(&mut peer, target);
        assert_eq!(answer.status, status, "{target}");
        assert!(status != 200 || text(&answer).1 == body, "{target} {answer:?}");
        assert!(!answer.body.windows(6).any(|six| six == b"secret"), "{target}");
    }
    assert_eq!(get(&mut peer, "/f/sub?a=b").header("Location"), Some("/f/sub/?a=b"));
    assert_eq!(ask(&mut peer, &head("POST", "/f/index.html", "")).status, 405);
    for (pattern, directory) in [("/f", "/tmp"), ("/f/*", "/nonexistent"), ("/f/*", "/etc/passwd")]
    {
        let error = Server::builder().listen("127.0.0.1:0").files(pattern, directory).build();
        assert!(matches!(error, Err(Error::Config { field: "files", .. })), "{error:?}");
    }
}

/// Adds up, pauses where it finds a `p`, and has enough at an `!`.
struct Sum {
    sum: u64,
    pauses: Sender<Resume>,
}

impl Upload for Sum {
    fn on_piece(&mut self, piece: &[u8], body: &mut UploadBody<'_>) {
        self.sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        if piece.contains(&b'p') {
            self.pauses.send(body.pause()).expect("the test waits");
        }
        if piece.contains(&b'!') {
            body.answer(Response::text(format!("enough: {}", body.received())).status(413));
        }
        assert!(!piece.contains(&b'?'), "asked for by the test");
    }

    fn on_end(&mut self) -> Reply {
        Response::text(self.sum.to_string()).into()
    }
}

/// Panics when it is dropped.
struct Bitter;

impl Upload for Bitter {
    fn on_piece(&mut self, _piece: &[u8], _body: &mut UploadBody<'_>) {}

    fn on_end(&mut self) -> Reply {
        Response::new(204).into()
    }
}

impl Drop for Bitter {
    fn drop(&mut self) {
        panic!("asked for by the test");
    }
}

fn an_upload_that_panics_at_its_end_costs_one_connection(driver: Driver) {
    let start = |body_timeout| {
        TestServer::start(driver, |server| {
            server
                .body_timeout(body_timeout)
                .upload("POST", "/bitter", |_| Intake::accept(Bitter))
                .get("/", |_| Response::text("still there"))
        })
    };
    let (server, hasty) = (start(PATIENCE), start(Duration::from_millis(200)));
    let chunked = head("POST", "/bitter", "Transfer-Encoding: chunked\r\n");
    // Whole, malformed, too slow; and two who leave.
    let mut peer = server.connect();
    assert_eq!(ask(&mut peer, &[&chunked[..], b"1\r\nx\r\n0\r\n\r\n"].concat()).status, 204);
    let mut peer = server.connect();
    assert_eq!(ask(&mut peer, &[&chunked[..], b"1\r\nx\r\n?"].concat()).status, 400);
    let mut peer = hasty.connect();
    assert_eq!(ask(&mut peer, &[&chunked[..], b"1\r\nx\r\n"].concat()).status, 408);
    hasty.wait_for("its panic", |stats| stats.handler_panics == 1);
    assert_eq!(text(&get(&mut hasty.connect(), "/")), (200, "still there"));
    let mut peer = server.connect();
    peer.send(&[&chunked[..], b"1\r\nx\r\n"].concat());
    server.wait_for("the third", |stats| stats.requests == 3);
    peer.finish();
    peer.expect_end();
    let mut peer = server.connect();
    peer.send(&[&chunked[..], b"1\r\nx\r\n"].concat());
    server.wait_for("the fourth", |stats| stats.requests == 4);
    peer.reset();
    server.wait_for("four panics", |stats| stats.handler_panics == 4);
    assert_eq!(text(&get(&mut server.connect(), "/")), (200, "still there"));
}

fn uploads(driver: Driver) -> (TestServer, mpsc::Receiver<Resume>) {
    let (sender, pauses) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = TestServer::start(driver, |server| {
        server
            .max_body(1000)
            .upload("POST", "/sum", move |request| -> Intake {
                if request.header("Refuse").is_some() {
                    return Response::new(403).into();
                }
                let pauses = sender.lock().expect("no panic").clone();
                Intake::accept(Sum { sum: 0, pauses })
            })
            .get("/now", |_| Response::text("now"))
    });
    (server, pauses)
}

fn an_upload_is_taken_in_parts(driver: Driver) {
    let (server, _pauses) = uploads(driver);
    let mut peer = server.connect();
    // Many times what is put together.
    let body = vec![1; 5_000_000];
    for round in 0..2 {
        let request = match round {
            0 => [&head("POST", "/sum", "Content-Length: 5000000\r\n")[..], &body].concat(),
            _ => {
                let mut request = head("POST", "/sum", "Transfer-Encoding: chunked\r\n");
                for chunk in body.chunks(100_000) {
                    request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    request.extend_from_slice(chunk);
                    request.extend_from_slice(b"\r\n");
                }
                [&request[..], b"0\r\n\r\n"].concat()
            }
        };
        assert_eq!(text(&ask(&mut peer, &request)), (200, "5000000"));
    }
    assert_eq!(text(&ask(&mut peer, &head("POST", "/sum", "Content-Length: 0\r\n"))), (200, "0"));
    peer.send(&head("POST", "/sum", "Content-Length: 2\r\nExpect: 100-continue\r\n"));
    assert_eq!(peer.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(text(&ask(&mut peer, b"\x01\x02")), (200, "3"));
    // Whoever has enough or wants nothing ends the connection.
    for (lines, body, expected) in [
        ("Content-Length: 99\r\n", &b"abc!"[..], (413, "enough: 4")),
        ("Content-Length: 99\r\nExpect: 100-continue\r\nRefuse: 1\r\n", b"", (403, "")),
        ("Content-Length: 99\r\n", b"?", (500, "The server failed to answer.\n")),
        ("Transfer-Encoding: chunked\r\n", b"1\r\nab", (400, "The chunked body is malformed.\n")),
    ] {
        let answer = ask(&mut server.connect(), &[&head("POST", "/sum", lines)[..], body].concat());
        assert_eq!(text(&answer), expected, "{lines}");
        assert_eq!(answer.header("Connection"), Some("close"));
    }
    assert_eq!(server.stats().handler_panics, 1);
}

fn a_paused_upload_stops_its_client(driver: Driver) {
    let (server, pauses) = uploads(driver);
    let mut peer = server.connect();
    peer.send(&head("POST", "/sum", "Transfer-Encoding: chunked\r\n"));
    peer.send(b"1\r\np\r\n");
    let pause = pauses.recv_timeout(PATIENCE).expect("a pause");
    let chunk = [&b"10000\r\n"[..], &[1; 65_536], b"\r\n"].concat();
    let mut chunks = 0;
    peer.send_until_stuck(64 * 1024 * 1024, || {
        chunks += 1;
        chunk.clone()
    });
    drop(pause);
    let rest = std::mem::take(&mut peer.unsent);
    peer.send(&rest);
    peer.send(b"0\r\n\r\n");
    let sum = u64::from(b'p') + chunks * 65_536;
    assert_eq!(text(&peer.read_answer()), (200, &*sum.to_string()));
    assert_eq!(text(&get(&mut peer, "/now")), (200, "now"));
    // A client that goes in the middle of a pause takes nothing with it.
    let mut peer = server.connect();
    peer.send(&[&head("POST", "/sum", "Content-Length: 9\r\n")[..], b"p"].concat());
    let pause = pauses.recv_timeout(PATIENCE).expect("a pause");
    drop(peer);
    drop(pause);
    server.wait_for("the end", |stats| stats.connections == 1);
    let mut nothing = Vec::new();
    let mut stream = server.connect().stream;
    stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
    assert!(stream.read_to_end(&mut nothing).is_err(), "the server lives");
}
