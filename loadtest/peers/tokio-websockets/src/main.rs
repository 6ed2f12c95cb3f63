//! Echo on tokio-websockets.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::ServerBuilder;

include!("../../common.rs");

async fn serve(stream: TcpStream) {
    let Ok((_request, mut ws)) = ServerBuilder::new().accept(stream).await else { return };
    while let Some(Ok(message)) = ws.next().await {
        if (message.is_text() || message.is_binary()) && ws.send(message).await.is_err() {
            return;
        }
    }
}

fn main() {
    run(serve);
}
