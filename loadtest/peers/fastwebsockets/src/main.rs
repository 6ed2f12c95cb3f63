//! Echo on fastwebsockets, as in its own example.

use fastwebsockets::{FragmentCollector, OpCode, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

include!("../../common.rs");

async fn echo(fut: upgrade::UpgradeFut) {
    let Ok(ws) = fut.await else { return };
    let mut ws = FragmentCollector::new(ws);
    while let Ok(frame) = ws.read_frame().await {
        match frame.opcode {
            OpCode::Close => return,
            OpCode::Text | OpCode::Binary => {
                if ws.write_frame(frame).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, fastwebsockets::WebSocketError> {
    let (response, fut) = upgrade::upgrade(&mut request)?;
    tokio::task::spawn_local(echo(fut));
    Ok(response)
}

struct Echo;

impl Peer for Echo {
    const COMPRESSES: bool = false;
    const FANS_OUT: bool = false;

    async fn serve<S: Io>(stream: S, _task: Task) {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .with_upgrades();
        // A connection that ends in an error ends all the same.
        let _ = connection.await;
    }
}

fn main() {
    run::<Echo>();
}
