//! Echo on tokio-websockets.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::ServerBuilder;

include!("../../common.rs");

struct Echo;

impl Peer for Echo {
    const COMPRESSES: bool = false;

    async fn serve<S: Io>(stream: S, _deflate: Deflate) {
        let Ok((_request, mut ws)) = ServerBuilder::new().accept(stream).await else { return };
        while let Some(Ok(message)) = ws.next().await {
            if (message.is_text() || message.is_binary()) && ws.send(message).await.is_err() {
                return;
            }
        }
    }
}

fn main() {
    run::<Echo>();
}
