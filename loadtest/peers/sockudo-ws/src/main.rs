//! Echo on sockudo-ws.

use futures_util::{SinkExt, StreamExt};
use sockudo_ws::deflate::{DeflateConfig, negotiate_server_deflate};
use sockudo_ws::error::Error;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request, server_handshake};
use sockudo_ws::{CompressedWebSocketStream, Compression, Config, Message, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

include!("../../common.rs");

struct Echo;

impl Peer for Echo {
    const COMPRESSES: bool = true;

    async fn serve<S: Io>(mut stream: S, deflate: Deflate) {
        let compression = match deflate {
            Deflate::Off => Compression::Disabled,
            Deflate::Shared => Compression::Shared,
            Deflate::Dedicated => Compression::Dedicated,
        };
        match compression.to_deflate_config() {
            None => {
                if server_handshake(&mut stream).await.is_ok() {
                    echo(WebSocketStream::server(stream, Config::default())).await;
                }
            }
            Some(policy) => {
                // Its own handshake knows no extensions.
                if let Ok(agreed) = handshake(&mut stream, &policy).await {
                    let config = Config::default();
                    echo(CompressedWebSocketStream::server(stream, config, agreed)).await;
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

async fn echo<W>(mut ws: W)
where
    W: futures_util::Stream<Item = Result<Message, Error>>
        + futures_util::Sink<Message, Error = Error>
        + Unpin,
{
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
    run::<Echo>();
}
