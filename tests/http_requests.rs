//! Plain HTTP/1.1: which request gets which answer, in which order, and what becomes of the
//! connection.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::{Answer, Echo, PATIENCE, Peer, TestServer, request};
use wirelane::protocol::upgrade::Refusal;
use wirelane::{Driver, Error, Response, Server, ServerBuilder};

on_every_driver!(
    a_connection_serves_many_requests,
    pipelined_requests_are_answered_in_order,
    many_requests_at_once_do_not_keep_others_waiting,
    a_client_that_does_not_read_is_not_read,
    a_connection_ends_when_its_client_wants_it,
    methods_lead_where_they_should,
    bodies_arrive_whole_however_they_are_sent,
    bodies_have_a_limit,
    smuggled_requests_are_refused,
    expectations_are_met_or_refused,
    a_connection_is_upgraded_after_other_requests,
    a_request_has_its_time_and_so_has_a_body,
    an_idle_connection_is_closed_in_time,
    a_client_that_ends_its_side_is_still_answered,
    a_page_that_panics_is_500,
    impossible_answers_are_500,
    a_shutdown_ends_idle_connections_and_refuses_newcomers,
);

fn serve(driver: Driver) -> TestServer {
    serve_with(driver, |server| server)
}

fn serve_with(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> TestServer {
    TestServer::start(driver, |server| {
        configure(
            server
                .websocket("/", |_| Echo)
                .get("/page", |_| Response::text("page\n"))
                .get("/name/:name", |request| {
                    Response::text(request.parameter("name").unwrap_or_default().into_owned())
                })
                .get("/long", |_| Response::new(200).body(vec![b'x'; 100_000]))
                .get("/panic", |_| -> Response { panic!("asked for by the test") })
                .get("/split", |_| Response::new(200).header("X", "a\r\nb: c"))
                .get("/length", |_| Response::new(200).header("Content-Length", "7"))
                .post("/echo", |request| Response::new(200).body(request.body().to_vec()))
                .post("/name/:name", |_| Response::new(201))
                .put("/thing", |_| Response::new(204))
                .patch("/thing", |_| Response::new(200).body(&b"patched"[..]))
                .delete("/thing", |_| Response::redirect("/"))
                .route("REPORT", "/thing", |request| Response::text(request.method().to_owned()))
                .any("/any", |request| Response::text(request.method().to_owned()))
                .route("OPTIONS", "/own", |_| Response::text("own\n"))
                .get("/own", |_| Response::text("page\n")),
        )
    })
}

fn head(method: &str, target: &str, lines: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

fn get(target: &str) -> Vec<u8> {
    head("GET", target, "")
}

fn post(body: &[u8]) -> Vec<u8> {
    let mut bytes = head("POST", "/echo", &format!("Content-Length: {}\r\n", body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// A chunked request with these chunks.
fn post_chunks<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<u8> {
    let mut bytes = head("POST", "/echo", "Transfer-Encoding: chunked\r\n");
    for chunk in chunks {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn ask(peer: &mut Peer, request: &[u8]) -> Answer {
    peer.send(request);
    peer.read_answer()
}

fn text(answer: &Answer) -> (u16, &str) {
    (answer.status, str::from_utf8(&answer.body).expect("text"))
}

fn a_connection_serves_many_requests(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    for round in 0..50 {
        let answer = ask(&mut peer, &get(&format!("/name/{round}")));
        assert_eq!(text(&answer), (200, &*round.to_string()));
        assert_eq!(answer.header("Connection"), None);
        assert_eq!(answer.header("Date").map(str::len), Some(29));
        // Errors of a kind that says nothing about the connection do not end it.
        assert_eq!(ask(&mut peer, &get("/missing")).status, 404);
        assert_eq!(text(&ask(&mut peer, &post(b"body"))), (200, "body"));
        assert_eq!(ask(&mut peer, &head("BREW", "/page", "")).status, 405);
    }
    let stats = server.wait_for("the figures", |stats| stats.requests == 200);
    assert_eq!((stats.accepted, stats.refused), (1, 100));
    assert_eq!(stats.refusals.count(Refusal::NotFound), 50);
}

fn pipelined_requests_are_answered_in_order(driver: Driver) {
    let server = serve(driver);
    let mut all = Vec::new();
    for round in 0..200 {
        all.extend(get(&format!("/name/{round}")));
        all.extend(post(format!("body {round}").as_bytes()));
        all.extend(post_chunks([&b"chunk "[..], round.to_string().as_bytes()]));
        all.extend(head("HEAD", "/page", ""));
    }
    // As a whole, and in pieces that tear heads, bodies and chunks.
    for step in [all.len(), 1000, 17] {
        let mut peer = server.connect();
        for piece in all.chunks(step) {
            peer.send(piece);
        }
        for round in 0..200 {
            assert_eq!(text(&peer.read_answer()), (200, &*round.to_string()));
            assert_eq!(text(&peer.read_answer()), (200, &*format!("body {round}")));
            assert_eq!(text(&peer.read_answer()), (200, &*format!("chunk {round}")));
            assert_eq!(peer.read_answer_to_head().header("Content-Length"), Some("5"));
        }
    }
}

fn many_requests_at_once_do_not_keep_others_waiting(driver: Driver) {
    const COUNT: usize = 1000;
    let (begun, begins) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (calls, called) = mpsc::channel();
    let shared = Mutex::new((begun, may_go, calls, 0));
    let server = serve_with(driver, |server| {
        server.workers(1).get("/order/:who", move |request| {
            let who = request.parameter("who").unwrap_or_default().into_owned();
            let (begun, may_go, calls, count) = &mut *shared.lock().expect("no panic");
            calls.send(who).expect("the test waits");
            *count += 1;
            if *count == 1 {
                begun.send(()).expect("the test waits");
                may_go.recv_timeout(PATIENCE).expect("the test goes on");
            }
            Response::new(204)
        })
    });
    let mut greedy = server.connect();
    let mut other = server.connect();
    greedy.send(&get("/order/greedy").repeat(COUNT));
    begins.recv_timeout(PATIENCE).expect("the route is called");
    other.send(&get("/order/other"));
    go.send(()).expect("the route waits");
    assert_eq!(other.read_answer().status, 204);
    for _ in 0..COUNT {
        assert_eq!(greedy.read_answer().status, 204);
    }
    let order: Vec<String> = called.try_iter().collect();
    assert_eq!(order.len(), COUNT + 1);
    let place = order.iter().position(|who| who == "other").expect("it was called");
    assert!(place < COUNT / 2, "{place} requests went before it");
    // The end of its side does not come before what was put off.
    greedy.send(&get("/order/greedy").repeat(COUNT));
    greedy.finish();
    for _ in 0..COUNT {
        assert_eq!(greedy.read_answer().status, 204);
    }
    greedy.expect_end();
}

fn a_client_that_does_not_read_is_not_read(driver: Driver) {
    let server = serve_with(driver, |server| server.max_backpressure(256 * 1024));
    let mut peer = server.connect();
    let mut asked = 0;
    // As long as they may be, so that not too many fit into the kernel's buffers.
    let padding = format!("X: {}\r\n", "x".repeat(16_000));
    let request = head("GET", "/long", &padding);
    peer.send_until_stuck(64 * 1024 * 1024, || {
        asked += 1;
        request.clone()
    });
    // Half of the limit, and one answer that passed it.
    let stats = server.wait_for("the figures", |stats| stats.buffered_bytes > 0);
    assert!(stats.buffered_bytes <= 128 * 1024 + 110_000, "{stats:?}");
    let rest = std::mem::take(&mut peer.unsent);
    let mut writer = peer.stream.try_clone().expect("a socket");
    let sender = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &rest).expect("the server reads again");
    });
    for _ in 0..asked {
        assert_eq!(peer.read_answer().body.len(), 100_000);
    }
    sender.join().expect("sent");
    assert_eq!(text(&ask(&mut peer, &get("/page"))), (200, "page\n"));
}

fn a_connection_ends_when_its_client_wants_it(driver: Driver) {
    let server = serve(driver);
    for request in [
        &head("GET", "/page", "Connection: close\r\n")[..],
        &head("GET", "/page", "Connection: foo, Close\r\n"),
        b"GET /page HTTP/1.0\r\n\r\n",
        b"GET /page HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ] {
        let mut peer = server.connect();
        // What follows is not looked at.
        let answer = ask(&mut peer, &[request, &get("/page")].concat());
        assert_eq!(text(&answer), (200, "page\n"));
        assert_eq!(answer.header("Connection"), Some("close"));
    }
}

fn methods_lead_where_they_should(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    for (method, target, status, body) in [
        ("GET", "/name/x", 200, "x"),
        ("POST", "/name/x", 201, ""),
        ("PUT", "/thing", 204, ""),
        ("PATCH", "/thing", 200, "patched"),
        ("DELETE", "/thing", 302, ""),
        ("REPORT", "/thing", 200, "REPORT"),
        ("GET", "/any", 200, "GET"),
        ("BREW", "/any", 200, "BREW"),
        ("OPTIONS", "/own", 200, "own\n"),
        ("GET", "/", 426, "This is served over WebSocket only.\n"),
    ] {
        let answer = ask(&mut peer, &head(method, target, ""));
        assert_eq!(text(&answer), (status, body), "{method} {target}");
    }
    let mut peer = server.connect();
    for (method, target, status, allow) in [
        ("GET", "/thing", 405, "PUT, PATCH, DELETE, REPORT, OPTIONS"),
        ("OPTIONS", "/thing", 204, "PUT, PATCH, DELETE, REPORT, OPTIONS"),
        ("OPTIONS", "/name/x", 204, "GET, HEAD, POST, OPTIONS"),
        ("OPTIONS", "*", 204, "OPTIONS"),
        ("POST", "/", 405, "GET, OPTIONS"),
        ("get", "/page", 405, "GET, HEAD, OPTIONS"),
    ] {
        let answer = ask(&mut peer, &head(method, target, ""));
        assert_eq!((answer.status, answer.header("Allow")), (status, Some(allow)), "{method}");
    }
    peer.send(&head("HEAD", "/any", ""));
    assert_eq!(peer.read_answer_to_head().header("Content-Length"), Some("4"));
    peer.send(&head("HEAD", "/missing", ""));
    assert_eq!(peer.read_answer_to_head().status, 404);
    assert_eq!(text(&ask(&mut peer, &get("/page"))), (200, "page\n"));
    for (method, pattern) in [("GET", "/page"), ("no token", "/x"), ("CONNECT", "/x"), ("GET", "x")]
    {
        let twice = Server::builder().get("/page", |_| Response::new(200));
        let error =
            twice.listen("127.0.0.1:0").route(method, pattern, |_| Response::new(200)).build();
        assert!(matches!(error, Err(Error::Config { field: "route", .. })), "{error:?}");
    }
}

fn bodies_arrive_whole_however_they_are_sent(driver: Driver) {
    let server = serve(driver);
    let body: Vec<u8> = (0..1024 * 1024).map(|index| (index % 251) as u8).collect();
    let mut peer = server.connect();
    for request in [post(&body), post_chunks(body.chunks(777))] {
        assert_eq!(ask(&mut peer, &request).body, body);
    }
    let small = &body[..300];
    for request in [post(small), post_chunks(small.chunks(7))] {
        for byte in request.chunks(1) {
            peer.send(byte);
        }
        assert_eq!(peer.read_answer().body, small);
    }
    // An empty line behind a body is forgiven, once or often.
    peer.send(b"\r\n");
    peer.send(b"\r\n\r");
    peer.send(b"\n");
    assert_eq!(ask(&mut peer, &post(b"")).status, 200);
    let with_trailers = b"1;ext=\"v\"\r\nx\r\n0\r\nTrailer-Field: 1\r\n\r\n";
    let chunked = head("POST", "/echo", "Transfer-Encoding: chunked\r\n");
    assert_eq!(ask(&mut peer, &[&chunked[..], with_trailers].concat()).body, b"x");
    // A route that does not care gets it all the same.
    let request = [&head("GET", "/page", "Content-Length: 4\r\n")[..], b"body"].concat();
    assert_eq!(text(&ask(&mut peer, &request)), (200, "page\n"));
}

fn bodies_have_a_limit(driver: Driver) {
    let server = serve_with(driver, |server| server.max_body(1000));
    let mut peer = server.connect();
    assert_eq!(ask(&mut peer, &post(&[b'x'; 1000])).body.len(), 1000);
    assert_eq!(ask(&mut peer, &post_chunks([&[b'x'; 1000][..]])).body.len(), 1000);
    // By its announcement, with nothing of it there.
    let answer = ask(&mut peer, &head("POST", "/echo", "Content-Length: 1001\r\n"));
    assert_eq!((answer.status, answer.header("Connection")), (413, Some("close")));
    let answer = ask(&mut server.connect(), &post_chunks([&[b'x'; 600][..], &[b'x'; 401]]));
    assert_eq!((answer.status, answer.header("Connection")), (413, Some("close")));
    let mut peer = server.connect();
    let lines = "Transfer-Encoding: chunked\r\n";
    peer.send(&head("POST", "/echo", lines));
    peer.send(b"ffffffffffffffff\r\n");
    peer.send(&[b'x'; 1001]);
    assert_eq!(peer.read_answer().status, 413);
    assert_eq!(server.stats().refusals.count(Refusal::BodyTooLarge), 3);
    // Whoever answers without the body ends the connection, so that it is not read as a request.
    let answer = ask(
        &mut server.connect(),
        &[
            &head("POST", "/no", "Content-Length: 37\r\n")[..],
            b"GET /page HTTP/1.1\r\nHost: smuggled\r\n\r\n",
        ]
        .concat(),
    );
    assert_eq!((answer.status, answer.header("Connection")), (404, Some("close")));
}

fn smuggled_requests_are_refused(driver: Driver) {
    let server = serve(driver);
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (lines, body) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", &b"hello"[..]),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"),
        ("Content-Length: 5, 5\r\n", b"hello"),
        ("Content-Length: +5\r\n", b"hello"),
        ("Content-Length: -5\r\n", b"hello"),
        ("Content-Length: 0x5\r\n", b"hello"),
        ("Content-Length: 5 5\r\n", b"hello"),
        ("Content-Length:\r\n", b"hello"),
        ("Content-Length: 18446744073709551616\r\n", b"hello"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", b""),
        ("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
        ("X: a\n", b""),
        ("X: a\rY: b\r\n", b""),
        ("X: a\r\n b\r\n", b""),
        ("X: a\0b\r\n", b""),
        (chunked, b"+1\r\nx\r\n0\r\n\r\n"),
        (chunked, b"0x1\r\nx\r\n0\r\n\r\n"),
        (chunked, b" 1\r\nx\r\n0\r\n\r\n"),
        (chunked, b"1 \r\nx\r\n0\r\n\r\n"),
        (chunked, b"1\nx\n0\n\n"),
        (chunked, b"1\r\nxy\r\n0\r\n\r\n"),
        (chunked, b"1\r\nx0\r\n\r\n"),
        (chunked, b"1;a\nx\r\n0\r\n\r\n"),
        (chunked, b"ffffffffffffffff0\r\n"),
        (chunked, b"\r\n0\r\n\r\n"),
        (chunked, b"0\r\n\n"),
        (chunked, b"0\r\nA: b\n\r\n"),
        (chunked, b"0\r\nGET /page HTTP/1.1\r\n\r\n"),
    ] {
        let case = format!("{lines:?} {}", body.escape_ascii());
        let mut peer = server.connect();
        assert_eq!(ask(&mut peer, &post(b"before")).body, b"before");
        let bytes = [&head("POST", "/echo", lines)[..], body, &get("/page")].concat();
        let answer = ask(&mut peer, &bytes);
        assert_eq!((answer.status, answer.header("Connection")), (400, Some("close")), "{case}");
    }
    // HTTP/1.0 has no chunks.
    let old = b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(ask(&mut server.connect(), old).status, 400);
    for (many, status) in [
        (format!("1;{}\r\nx\r\n", "e".repeat(2000)), 400),
        (format!("0\r\n{}", "A: b\r\n".repeat(2000)), 431),
    ] {
        let bytes = [&head("POST", "/echo", chunked)[..], many.as_bytes()].concat();
        assert_eq!(ask(&mut server.connect(), &bytes).status, status);
    }
}

fn expectations_are_met_or_refused(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    for _ in 0..2 {
        peer.send(&head("POST", "/echo", "Expect: 100-Continue\r\nContent-Length: 4\r\n"));
        assert_eq!(peer.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(ask(&mut peer, b"body").body, b"body");
    }
    // Whoever sends the body anyway need not be told.
    let lines = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    let bytes = [&head("POST", "/echo", lines)[..], b"body"].concat();
    assert_eq!(ask(&mut peer, &bytes).body, b"body");
    // Without a body there is nothing to wait for.
    assert_eq!(ask(&mut peer, &head("GET", "/page", "Expect: 100-continue\r\n")).status, 200);
    // A body that nobody wants is not asked for.
    for (target, lines, status) in [
        ("/no", "Expect: 100-continue\r\nContent-Length: 4\r\n", 404),
        ("/page", "Expect: 100-continue\r\nContent-Length: 4\r\n", 405),
        ("/echo", "Expect: 100-continue\r\nContent-Length: 99999999\r\n", 413),
        ("/echo", "Expect: a pony\r\nContent-Length: 4\r\n", 417),
        ("/echo", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 4\r\n", 417),
    ] {
        let answer = ask(&mut server.connect(), &head("POST", target, lines));
        let end = (answer.status, answer.header("Connection"));
        assert_eq!(end, (status, Some("close")), "{target} {lines}");
    }
}

fn a_connection_is_upgraded_after_other_requests(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    assert_eq!(ask(&mut peer, &post(b"body")).body, b"body");
    // With the answer before it still on its way, and a message right behind it.
    let bytes = [get("/long"), request("/"), common::frame(0x81, b"hello")].concat();
    assert_eq!(ask(&mut peer, &bytes).body.len(), 100_000);
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(peer.read_frame().payload, b"hello");
    peer.send_text("again");
    assert_eq!(peer.read_frame().payload, b"again");
    // Here requests are frames, and bad ones.
    peer.send(&get("/page"));
    peer.expect_close(1002);
}

fn a_request_has_its_time_and_so_has_a_body(driver: Driver) {
    let timeout = Duration::from_secs(1);
    let server = serve_with(driver, |server| {
        server.handshake_timeout(timeout).body_timeout(timeout).keep_alive_timeout(Duration::ZERO)
    });
    let wait_in_vain = |first: bool, beginning: &[u8]| {
        let mut peer = server.connect();
        if first {
            assert_eq!(ask(&mut peer, &get("/page")).status, 200);
            // An idle connection has all the time in the world here.
            std::thread::sleep(timeout + timeout / 4);
        }
        let start = Instant::now();
        // What trickles in does not win time.
        peer.send(&beginning[..beginning.len() - 5]);
        for byte in beginning[beginning.len() - 5..].chunks(1) {
            std::thread::sleep(timeout / 10);
            peer.send(byte);
        }
        assert_eq!(peer.read_answer().status, 408);
        assert!(start.elapsed() >= timeout || !first, "{:?}", start.elapsed());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| wait_in_vain(false, &get("/page")[..20]));
        scope.spawn(|| wait_in_vain(true, &get("/page")[..20]));
        scope.spawn(|| wait_in_vain(true, &post(b"unfinished")[..63]));
        scope.spawn(|| wait_in_vain(true, &post_chunks([&b"x"[..]])[..78]));
    });
    assert_eq!(server.stats().refusals.count(Refusal::Timeout), 4);
}

fn an_idle_connection_is_closed_in_time(driver: Driver) {
    let timeout = Duration::from_millis(1200);
    let server = serve_with(driver, |server| server.keep_alive_timeout(timeout));
    let mut peer = server.connect();
    for _ in 0..5 {
        assert_eq!(ask(&mut peer, &get("/page")).status, 200);
        std::thread::sleep(timeout / 4);
    }
    let start = Instant::now();
    assert_eq!(ask(&mut peer, &get("/page")).status, 200);
    peer.expect_end();
    assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
    server.wait_for("the end", |stats| stats.connections == 0);
}

fn a_client_that_ends_its_side_is_still_answered(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    peer.send(&[get("/long"), get("/page")].concat());
    peer.finish();
    assert_eq!(peer.read_answer().body.len(), 100_000);
    assert_eq!(text(&peer.read_answer()), (200, "page\n"));
    peer.expect_end();
    // Half a request is none.
    for half in [&get("/page")[..20], &post(b"half")[..60]] {
        let mut peer = server.connect();
        peer.send(half);
        peer.finish();
        peer.expect_end();
    }
    server.wait_for("the end", |stats| stats.connections == 0);
}

fn a_page_that_panics_is_500(driver: Driver) {
    let server = serve(driver);
    let answer = ask(&mut server.connect(), &get("/panic"));
    assert_eq!((answer.status, answer.header("Connection")), (500, Some("close")));
    assert_eq!(ask(&mut server.connect(), &get("/page")).status, 200);
    server.wait_for("the count", |stats| stats.handler_panics == 1);
}

fn impossible_answers_are_500(driver: Driver) {
    let server = serve(driver);
    let mut peer = server.connect();
    for target in ["/split", "/length"] {
        let answer = ask(&mut peer, &get(target));
        assert_eq!(text(&answer), (500, "The server failed to answer.\n"));
    }
    assert_eq!(ask(&mut peer, &get("/page")).status, 200);
}

fn a_shutdown_ends_idle_connections_and_refuses_newcomers(driver: Driver) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let server = serve_with(driver, |server| {
        server.post("/count", move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Response::new(200)
        })
    });
    let [mut idle, mut busy, mut body] = [(); 3].map(|()| server.connect());
    for peer in [&mut idle, &mut busy, &mut body] {
        assert_eq!(ask(peer, &get("/page")).status, 200);
    }
    body.send(&head("POST", "/count", "Content-Length: 4\r\n"));
    server.wait_for("the head", |stats| stats.requests == 4);
    server.handle.shutdown(Duration::from_secs(10));
    // A request that comes too late is told so; the worker may not have heard of the end at first.
    let answer = loop {
        let answer = ask(&mut busy, &get("/page"));
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((answer.status, answer.header("Connection")), (503, Some("close")));
    // One that had begun is finished.
    let answer = ask(&mut body, b"body");
    assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    idle.expect_end();
    assert!(server.stop(Duration::from_secs(10)).is_ok());
}
