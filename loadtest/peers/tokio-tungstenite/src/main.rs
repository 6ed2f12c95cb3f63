//! Echo on tokio-tungstenite.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::accept_async;

include!("../../common.rs");

struct Echo;

impl Peer for Echo {
    const COMPRESSES: bool = false;

    async fn serve<S: Io>(stream: S, _deflate: Deflate) {
        let Ok(mut ws) = accept_async(stream).await else { return };
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
