//! Echo on sockudo-ws, without compression.

use futures_util::{SinkExt, StreamExt};
use sockudo_ws::{Config, Message, WebSocketStream};

include!("../../common.rs");

async fn serve(mut stream: TcpStream) {
    if sockudo_ws::handshake::server_handshake(&mut stream).await.is_err() {
        return;
    }
    let mut ws = WebSocketStream::server(stream, Config::default());
    while let Some(Ok(message)) = ws.next().await {
        match message {
            Message::Text(_) | Message::Binary(_) => {
                if ws.send(message).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn main() {
    run(serve);
}
