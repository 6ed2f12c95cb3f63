//! axum serves HTTP on a port, and hands every WebSocket to the workers of Wirelane: pages,
//! middleware and logins stay where they are, and no async task is left behind per connection.
//!
//! `cargo run --release --example axum_handover`, then open http://127.0.0.1:9001/. Options:
//! `--listen ADDR`, `--driver auto|epoll|io_uring`, `--workers N`.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Router, routing::get};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use wirelane::protocol::upgrade::AcceptKey;
use wirelane::{Driver, Handle, Handler, Message, Negotiated, Server, WebSocket};

const PAGE: &str = "<!doctype html><title>Handover</title><input autofocus><pre></pre><script>
const socket = new WebSocket(`ws://${location.host}/ws?name=you`), out = document.querySelector('pre');
socket.onmessage = event => out.textContent += event.data + '\\n';
document.querySelector('input').onchange = event => socket.send(event.target.value);
</script>";

/// Returns messages with the name of the sender, which axum has found out.
struct Greeter;

impl Handler for Greeter {
    type Session = String;

    fn on_message(&mut self, ws: &mut WebSocket<'_, String>, message: Message<'_>) {
        if let Message::Text(text) = message {
            let answer = format!("{}: {text}", ws.session());
            ws.send(&answer);
        }
    }
}

/// Answers the request with 101, and hands the socket over once that has been sent.
async fn upgrade(State(handle): State<Handle>, request: Request) -> Response {
    let Some(key) = websocket_key(request.headers()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    // Here a real server asks who it is.
    let name = request.uri().query().and_then(|query| query.strip_prefix("name="));
    let name = name.unwrap_or("somebody").to_owned();
    let accept = AcceptKey::of(&key);
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = downcast::<TokioIo<tokio::net::TcpStream>>(upgraded) else { return };
        let Ok(stream) = parts.io.into_inner().into_std() else { return };
        let leftover = parts.read_buf.to_vec();
        let negotiated = Negotiated::new("/ws");
        if let Err(refused) = handle.adopt_with(stream, leftover, negotiated, move || name) {
            eprintln!("{refused}");
            // The client has its 101 already: Close 1013, try again later.
            let socket = OwnedFd::from(refused.into_socket());
            let _ = TcpStream::from(socket).write_all(b"\x88\x02\x03\xf5");
        }
    });
    let accept = String::from_utf8_lossy(accept.as_bytes()).into_owned();
    let headers = [
        (header::UPGRADE, "websocket".to_owned()),
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The key of a request for a WebSocket (RFC 6455 4.2.1). Behind cookies, check the Origin, too.
fn websocket_key(headers: &HeaderMap) -> Option<[u8; 24]> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asks = text(header::UPGRADE).eq_ignore_ascii_case("websocket")
        && text(header::CONNECTION).to_ascii_lowercase().contains("upgrade")
        && text(header::SEC_WEBSOCKET_VERSION) == "13";
    text(header::SEC_WEBSOCKET_KEY).as_bytes().try_into().ok().filter(|_| asks)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut listen, mut driver, mut workers) = ("127.0.0.1:9001".to_owned(), Driver::Auto, 1);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_default();
        match name.as_str() {
            "--listen" => listen = value,
            "--driver" => driver = value.parse()?,
            "--workers" => workers = value.parse()?,
            _ => {
                eprintln!("options: --listen ADDR, --driver auto|epoll|io_uring, --workers N");
                std::process::exit(if name == "--help" { 0 } else { 2 });
            }
        }
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(listen))?;
    let ready = format!("listening on ws://{}/", listener.local_addr()?);

    let server = Server::builder().adopt_only().driver(driver).workers(workers);
    let server = server.on_listening(move |_| println!("{ready}"));
    let server = server.websocket("/ws", |_worker| Greeter).build()?;
    let handle = server.handle();
    let app = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/ws", get(upgrade))
        .with_state(handle.clone());
    runtime.spawn(async { axum::serve(listener, app).await });
    let mut signals = signal_hook::iterator::Signals::new([15, 2])?;
    std::thread::spawn(move || {
        for _signal in signals.forever() {
            handle.shutdown(Duration::from_secs(3));
        }
    });
    Ok(server.run()?)
}
