//! Echo on yawc, without compression.

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use yawc::{Options, WebSocket, frame::OpCode};

include!("../../common.rs");

async fn echo(fut: yawc::UpgradeFut) {
    let Ok(mut ws) = fut.await else { return };
    while let Some(frame) = ws.next().await {
        if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) && ws.send(frame).await.is_err() {
            return;
        }
    }
}

async fn answer(mut request: Request<Incoming>) -> yawc::Result<Response<Empty<Bytes>>> {
    let options = Options::default()
        .without_compression()
        .with_utf8()
        .with_limits(16 * 1024 * 1024, 32 * 1024 * 1024);
    let (response, fut) = WebSocket::upgrade_with_options(&mut request, options)?;
    tokio::task::spawn_local(echo(fut));
    Ok(response)
}

async fn serve(stream: TcpStream) {
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    // A connection that ends in an error ends all the same.
    let _ = connection.await;
}

fn main() {
    run(serve);
}
