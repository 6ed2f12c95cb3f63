//! Echo and broadcast on yawc.

use std::sync::OnceLock;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use yawc::{
    CompressionLevel, DeflatePool, Options, WebSocket,
    frame::{Frame, OpCode},
};

include!("../../common.rs");
include!("../../fanout.rs");

thread_local! {
    static EVERYBODY: broadcast::Sender<Frame> = broadcast::Sender::new(MOST_WAITING);
}

fn is_data(frame: &Frame) -> bool {
    matches!(frame.opcode(), OpCode::Text | OpCode::Binary)
}

async fn serve(fut: yawc::UpgradeFut, service: Service) {
    let Ok(mut ws) = fut.await else { return };
    if service == Service::Broadcast {
        let ws = ws.map(Ok::<_, std::convert::Infallible>);
        return fan_out(ws, EVERYBODY.with(Clone::clone), is_data).await;
    }
    while let Some(frame) = ws.next().await {
        if is_data(&frame) && ws.send(frame).await.is_err() {
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
    task: Task,
) -> yawc::Result<Response<Empty<Bytes>>> {
    let (response, fut) = WebSocket::upgrade_with_options(&mut request, options(task.deflate))?;
    tokio::task::spawn_local(serve(fut, task.service));
    Ok(response)
}

struct Server;

impl Peer for Server {
    const COMPRESSES: bool = true;
    const FANS_OUT: bool = true;

    async fn serve<S: Io>(stream: S, task: Task) {
        let service = service_fn(move |request| answer(request, task));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // A connection that ends in an error ends all the same.
        let _ = connection.await;
    }
}

fn main() {
    run::<Server>();
}
