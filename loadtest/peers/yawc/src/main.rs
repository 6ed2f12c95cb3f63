//! Echo on yawc.

use std::sync::OnceLock;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use yawc::{CompressionLevel, DeflatePool, Options, WebSocket, frame::OpCode};

include!("../../common.rs");

async fn echo(fut: yawc::UpgradeFut) {
    let Ok(mut ws) = fut.await else { return };
    while let Some(frame) = ws.next().await {
        if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) && ws.send(frame).await.is_err() {
            return;
        }
    }
}

fn options(deflate: Deflate) -> Options {
    /// As many as work at the same moment.
    static POOL: OnceLock<DeflatePool> = OnceLock::new();
    let options = Options::default().with_utf8().with_limits(16 * 1024 * 1024, 32 * 1024 * 1024);
    let compressed = options.clone().with_compression_level(CompressionLevel::default());
    match deflate {
        Deflate::Off => options.without_compression(),
        Deflate::Shared => compressed
            .server_no_context_takeover()
            .client_no_context_takeover()
            .with_deflate_pool(POOL.get_or_init(|| DeflatePool::new(1)).clone()),
        Deflate::Dedicated => compressed,
    }
}

async fn answer(
    mut request: Request<Incoming>,
    deflate: Deflate,
) -> yawc::Result<Response<Empty<Bytes>>> {
    let (response, fut) = WebSocket::upgrade_with_options(&mut request, options(deflate))?;
    tokio::task::spawn_local(echo(fut));
    Ok(response)
}

struct Echo;

impl Peer for Echo {
    const COMPRESSES: bool = true;

    async fn serve<S: Io>(stream: S, deflate: Deflate) {
        let service = service_fn(move |request| answer(request, deflate));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // A connection that ends in an error ends all the same.
        let _ = connection.await;
    }
}

fn main() {
    run::<Echo>();
}
