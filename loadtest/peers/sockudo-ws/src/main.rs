//! Echo and broadcast on sockudo-ws.

use futures_util::{SinkExt, StreamExt};
use sockudo_ws::deflate::{DeflateConfig, negotiate_server_deflate};
use sockudo_ws::error::Error;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request, server_handshake};
use sockudo_ws::{CompressedWebSocketStream, Compression, Config, Message, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

include!("../../common.rs");
include!("../../fanout.rs");

thread_local! {
    static EVERYBODY: broadcast::Sender<Message> = broadcast::Sender::new(MOST_WAITING);
}

struct Server;

impl Peer for Server {
    const COMPRESSES: bool = true;
    const FANS_OUT: bool = true;

    async fn serve<S: Io>(mut stream: S, task: Task) {
        let compression = match task.deflate {
            Deflate::Off => Compression::Disabled,
            Deflate::Shared => Compression::Shared,
            Deflate::Dedicated => Compression::Dedicated,
        };
        match compression.to_deflate_config() {
            None => {
                if server_handshake(&mut stream).await.is_ok() {
                    serve(WebSocketStream::server(stream, Config::default()), task).await;
                }
            }
            Some(policy) => {
                // Its own handshake knows no extensions.
                if let Ok(agreed) = handshake(&mut stream, &policy).await {
                    let config = Config::default();
                    serve(CompressedWebSocketStream::server(stream, config, agreed), task).await;
                }
            }
        }
    }
}

/// The opening handshake with permessage-deflate, which this program insists on.
async fn handshake(stream: &mut impl Io, policy: &DeflateConfig) -> Result<DeflateConfig, Error> {
    let mut head = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        let Some((request, _)) = parse_request(&head)? else { continue };
        let agreed = request
            .extensions
            .and_then(|offers| negotiate_server_deflate(offers, policy))
            .ok_or(Error::HandshakeFailed("no permessage-deflate"))?;
        let key = generate_accept_key(request.key);
        let response = build_response(&key, None, Some(&agreed.to_response_header()));
        stream.write_all(&response).await?;
        stream.flush().await?;
        return Ok(agreed.config);
    }
}

async fn serve<W>(mut ws: W, task: Task)
where
    W: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
{
    let is_data = |it: &Message| matches!(it, Message::Text(_) | Message::Binary(_));
    if task.service == Service::Broadcast {
        return fan_out(ws, EVERYBODY.with(Clone::clone), is_data).await;
    }
    while let Some(Ok(message)) = ws.next().await {
        if is_data(&message) && ws.send(message).await.is_err() {
            return;
        }
    }
}

fn main() {
    run::<Server>();
}
