// `--mode broadcast` of the programs whose connections are a stream and a sink: one channel that
// everybody reads, as tokio's users do it.

use futures_util::{Sink, Stream};
use tokio::sync::broadcast;

/// Messages that may wait for a connection; whoever is further behind is cut off.
const MOST_WAITING: usize = 4096;

/// Sends what a connection says to everybody, and what everybody says to it.
async fn fan_out<W, M, E>(
    mut ws: W,
    everybody: broadcast::Sender<M>,
    is_data: impl Fn(&M) -> bool,
) where
    W: Stream<Item = Result<M, E>> + Sink<M> + Unpin,
    M: Clone,
{
    let mut inbox = everybody.subscribe();
    loop {
        tokio::select! {
            received = ws.next() => {
                let Some(Ok(message)) = received else { return };
                if is_data(&message) {
                    // There is a receiver: this connection.
                    let _ = everybody.send(message);
                }
            }
            message = inbox.recv() => {
                let Ok(message) = message else { return };
                if ws.feed(message).await.is_err() {
                    return;
                }
                // What waits already leaves together.
                while let Ok(message) = inbox.try_recv() {
                    if ws.feed(message).await.is_err() {
                        return;
                    }
                }
                if ws.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}
