// What the programs on tokio have in common: their command line, TLS and the accept loop. Each runs
// on one thread, as the others do, so that a core is a core.

use std::io::Write;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A TCP connection, or TLS over one.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// permessage-deflate (RFC 7692).
#[derive(Clone, Copy, PartialEq)]
enum Deflate {
    Off,
    /// Without context takeover, so that connections may share what compresses.
    Shared,
    /// With context takeover, on the sender's side at least.
    Dedicated,
}

/// What is done with messages.
#[derive(Clone, Copy, PartialEq)]
enum Service {
    /// Each goes back.
    Echo,
    /// Each goes to everybody.
    Broadcast,
}

/// What the command line asks for.
#[derive(Clone, Copy)]
struct Task {
    service: Service,
    deflate: Deflate,
}

/// What a program does with its connections.
trait Peer: 'static {
    /// Whether its crate can compress.
    const COMPRESSES: bool;

    /// Whether this program knows [`Service::Broadcast`].
    const FANS_OUT: bool;

    /// Serves a connection to its end.
    fn serve<S: Io>(stream: S, task: Task) -> impl Future<Output = ()>;
}

/// `--mode echo|broadcast --listen ADDR:PORT [--deflate off|shared|dedicated]
/// [--tls-cert FILE --tls-key FILE]`; serves every connection.
fn run<P: Peer>() {
    let mut listen = "127.0.0.1:9001".to_owned();
    let mut task = Task { service: Service::Echo, deflate: Deflate::Off };
    let (mut certificate, mut key) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match (word.as_str(), value.as_str()) {
            ("--listen", _) => listen = value,
            ("--mode", "echo") | ("--deflate", "off") => {}
            ("--mode", "broadcast") if P::FANS_OUT => task.service = Service::Broadcast,
            ("--deflate", "shared") if P::COMPRESSES => task.deflate = Deflate::Shared,
            ("--deflate", "dedicated") if P::COMPRESSES => task.deflate = Deflate::Dedicated,
            ("--tls-cert", _) => certificate = Some(value),
            ("--tls-key", _) => key = Some(value),
            _ => wrong(&format!("unknown option {word} {value}")),
        }
    }
    let tls = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => match acceptor(&certificate, &key) {
            Ok(acceptor) => Some(acceptor),
            Err(error) => wrong(&format!("--tls-cert, --tls-key: {error}")),
        },
        _ => wrong("--tls-cert and --tls-key need each other"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let served = runtime
        .and_then(|runtime| local.block_on(&runtime, accept::<P>(&listen, tls.as_ref(), task)));
    if let Err(error) = served {
        eprintln!("{listen}: {error}");
        std::process::exit(1);
    }
}

fn wrong(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(2);
}

async fn accept<P: Peer>(
    listen: &str,
    tls: Option<&TlsAcceptor>,
    task: Task,
) -> Result<(), std::io::Error> {
    let listener = TcpListener::bind(listen).await?;
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    println!("listening on {scheme}://{}/", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match tls {
            None => {
                tokio::task::spawn_local(P::serve(stream, task));
            }
            Some(tls) => {
                let accepting = tls.accept(stream);
                tokio::task::spawn_local(async move {
                    // Whoever fails in the handshake of TLS gets its alert from the acceptor.
                    if let Ok(stream) = accepting.await {
                        P::serve(stream, task).await;
                    }
                });
            }
        }
    }
}

/// rustls as Wirelane sets it up: ring, TLS 1.2 and 1.3, tickets without a memory of sessions.
fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    config.ticketer = Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
