//! TLS on a network that tears, delays and refuses (threats ).
//!
//! The client is the client's side of `tls`; what it knows of RFC 6455 is an `Endpoint`.

use std::sync::OnceLock;

use super::client::Client;
use super::log::echo;
use super::world::{Setup, World};
use crate::config::Config;
use crate::driver::simulated::{Faults, Peer, Random, ReadRate, Seen, for_each_seed};
use crate::error::CloseCause;
use crate::protocol::{BufferPool, CloseCode, Endpoint, Event, Message};
use crate::tls::{
    Acceptor, ClientTls, End, Identity, Roots, SEAL_BYTES, SEAL_ROOM, ServerTls, Starter, Tls,
    TlsFailure,
};

/// The server's settings and the client's, made once: keys are expensive.
fn settings() -> &'static (ServerTls, ClientTls) {
    static SETTINGS: OnceLock<(ServerTls, ClientTls)> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let own = rcgen::generate_simple_self_signed(vec!["test".into()]).expect("a certificate");
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
        let roots = Roots::from_pem(certificate.as_bytes()).expect("a certificate");
        (ServerTls::new(identity.expect("a pair")), ClientTls::new(roots).expect("a provider"))
    })
}

fn setup(seed: u64) -> Setup {
    let mut setup = Setup::new(seed);
    setup.tls = Some(Acceptor::new(&settings().0).expect("good settings"));
    setup
}

/// A client that speaks TLS.
struct SecureClient {
    peer: Peer,
    tls: Box<Tls>,
    /// Plaintext that was received, and how much of it the endpoint has seen.
    plain: Vec<u8>,
    head_len: Option<usize>,
    endpoint: Endpoint,
    speaker: Endpoint,
    pool: BufferPool,
    received: Vec<Vec<u8>>,
    close_code: Option<u16>,
    end: Option<End>,
    sealed: Vec<u8>,
}

impl SecureClient {
    fn new(world: &World) -> Self {
        let peer = world.network.connect();
        let starter = Starter::new(settings().1.clone(), "test").expect("a name");
        let mut tls = starter.start().expect("a session");
        let mut hello = Vec::new();
        tls.greet(&mut hello);
        peer.send(&hello);
        Self {
            peer,
            tls,
            plain: Vec::new(),
            head_len: None,
            endpoint: Client::endpoint(),
            speaker: Client::endpoint(),
            pool: BufferPool::new(0),
            received: Vec::new(),
            close_code: None,
            end: None,
            sealed: vec![0; SEAL_BYTES + SEAL_ROOM],
        }
    }

    /// The records of this plaintext.
    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let count = self.tls.seal(plain, &mut self.sealed).expect("open");
        self.sealed[..count].to_vec()
    }

    fn say(&mut self, payload: &[u8]) {
        let mut frame = Vec::new();
        self.speaker.send(Message::Binary(payload), &mut frame).expect("open");
        for piece in frame.chunks(SEAL_BYTES) {
            let records = self.seal(piece);
            self.peer.send(&records);
        }
    }

    fn leave(&mut self) {
        let mut frame = Vec::new();
        self.speaker.close(Some(CloseCode::NORMAL), "", &mut frame);
        let records = self.seal(&frame);
        self.peer.send(&records);
    }

    /// Looks at what the server sent.
    fn listen(&mut self) {
        let mut bytes = self.peer.received();
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        let was_open = self.tls.is_open();
        if !bytes.is_empty() {
            let received = self.tls.receive(&mut bytes, &mut plain, &mut answer);
            self.end = self.end.or(received.end);
        }
        if !answer.is_empty() {
            self.peer.send(&answer);
        }
        if self.tls.is_open() && !was_open {
            let request = self.seal(&Client::request());
            self.peer.send(&request);
        }
        self.plain.extend_from_slice(&plain);
        if self.head_len.is_none() {
            let end = self.plain.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return };
            assert!(self.plain.starts_with(b"HTTP/1.1 101 "));
            self.plain.drain(..end + 4);
            self.head_len = Some(end + 4);
        }
        let mut plain = std::mem::take(&mut self.plain);
        let mut input = &mut plain[..];
        while let Some(event) = self.endpoint.receive(&mut input, &mut self.pool).expect("frames") {
            match &event {
                Event::Binary(bytes) => self.received.push(bytes.as_slice().to_vec()),
                Event::Close(frame) => {
                    self.close_code = Some(frame.as_ref().map_or(1005, |(code, _)| code.get()));
                }
                _ => {}
            }
            event.recycle(&mut self.pool);
        }
    }
}

/// Turns until nothing moves any more; the client listens.
fn deliver(world: &mut World, client: &mut SecureClient) {
    loop {
        client.listen();
        if world.network.is_quiet() && world.worker.crank.core.handshakes.is_empty() {
            break;
        }
        world.turn();
    }
}

#[test]
fn whatever_the_network_does_every_message_comes_back() {
    for_each_seed("whatever_the_network_does_every_message_comes_back", 60, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        setup.faults = Faults {
            cut: random.up_to(900) as u32,
            delay_ms: random.up_to(20),
            short_send: random.up_to(700) as u32,
            send_buffer: 1 + random.length(64 * 1024),
            receive_buffer: 1 + random.length(64 * 1024),
            late_writable_ms: random.up_to(20),
            exhausted: random.up_to(200) as u32,
            overrun: random.up_to(500) as u32,
            short_turn: random.up_to(300) as u32,
            early_return: random.up_to(300) as u32,
            ..Faults::none()
        };
        setup.config = Config {
            receive_buffer: 64 + random.length(64 * 1024),
            max_backpressure: 400 * 1024,
            ..setup.config
        };
        let mut world = setup.serve(echo());
        let mut client = SecureClient::new(&world);
        deliver(&mut world, &mut client);
        assert!(client.head_len.is_some(), "seed {seed}: not open");
        let slow = random.chance(300);
        if slow {
            client.peer.set_read_rate(ReadRate::BytesPerMs(1 + random.length(5000)));
        }
        let mut sent = Vec::new();
        for nth in 0..random.up_to(12) {
            let longest = if random.chance(200) { 128 * 1024 } else { 2000 };
            let payload = vec![nth as u8; random.length(longest)];
            client.say(&payload);
            sent.push(payload);
            if random.chance(500) {
                world.turn();
                client.listen();
            }
        }
        client.leave();
        deliver(&mut world, &mut client);
        while world.shared.stats().connections != 0 {
            world.turn();
            client.listen();
        }
        assert!(
            client.received == sent,
            "seed {seed}: {} of {}",
            client.received.len(),
            sent.len()
        );
        assert_eq!(client.close_code, Some(1000), "seed {seed}");
        // close_notify came, and before the FIN.
        assert_eq!((client.end, client.peer.seen()), (Some(End::Closed), Seen::Finished));
        let stats = world.shared.stats();
        assert_eq!((stats.tls_handshakes, stats.tls_failures.total()), (1, 0), "seed {seed}");
    });
}

#[test]
fn a_fin_behind_a_whole_record_is_a_truncation_all_the_same() {
    let mut world = setup(0).serve(echo());
    let mut client = SecureClient::new(&world);
    deliver(&mut world, &mut client);
    client.say(b"whole");
    client.peer.finish();
    deliver(&mut world, &mut client);
    let log = world.log.borrow();
    let end = log.records.values().next().and_then(|record| record.end.clone());
    assert_eq!(end.expect("on_close").cause, CloseCause::Ended);
    assert_eq!(world.shared.stats().tls_failures.count(TlsFailure::Truncated), 1);
}

#[test]
fn nothing_leaves_in_the_clear_when_time_is_up() {
    for hello in [&b""[..], &[22, 3, 1, 1, 0, 1]] {
        let mut setup = setup(0);
        setup.config.handshake_timeout_ms = 100;
        let mut world = setup.serve(echo());
        let peer = world.network.connect();
        peer.send(hello);
        let mut clients = [];
        world.run_until(200, &mut clients);
        world.settle(&mut clients);
        assert_eq!(peer.received(), b"");
        let stats = world.shared.stats();
        assert_eq!((stats.connections, stats.tls_failures.count(TlsFailure::Timeout)), (0, 1));
    }
}
