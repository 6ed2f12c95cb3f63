//! Echo and broadcast on tokio-websockets.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{Message, ServerBuilder};

include!("../../common.rs");
include!("../../fanout.rs");

thread_local! {
    static EVERYBODY: broadcast::Sender<Message> = broadcast::Sender::new(MOST_WAITING);
}

struct Server;

impl Peer for Server {
    const COMPRESSES: bool = false;
    const FANS_OUT: bool = true;

    async fn serve<S: Io>(stream: S, task: Task) {
        let Ok((_request, mut ws)) = ServerBuilder::new().accept(stream).await else { return };
        if task.service == Service::Broadcast {
            let everybody = EVERYBODY.with(Clone::clone);
            return fan_out(ws, everybody, |it| it.is_text() || it.is_binary()).await;
        }
        while let Some(Ok(message)) = ws.next().await {
            if (message.is_text() || message.is_binary()) && ws.send(message).await.is_err() {
                return;
            }
        }
    }
}

fn main() {
    run::<Server>();
}
