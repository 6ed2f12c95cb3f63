//! What an idle connection costs in user space when it speaks TLS. A test program of its own: the
//! figure is of the whole process.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::fs;
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use common::{Echo, TestServer};
use tls::{TlsPeer, server_tls};
use wirelane::Driver;

on_every_driver!(an_idle_connection_is_bounded, a_silent_one_costs_next_to_nothing);

/// The figures are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Private dirty bytes of this process.
fn resident() -> i64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("procfs");
    let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("a line");
    let kib: i64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| server.tls(server_tls()).websocket("/", |_| Echo))
}

/// An open connection that has been used; its client keeps nothing but the descriptor.
fn open(server: &TestServer) -> TcpStream {
    let mut peer = TlsPeer::open(server.addr);
    peer.echo(&[7; 2000]);
    peer.stream
}

fn an_idle_connection_is_bounded(driver: Driver) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const COUNT: usize = 500;
    let server = start(driver);
    let mut streams: Vec<TcpStream> = (0..COUNT).map(|_| open(&server)).collect();
    let before = resident();
    streams.extend((0..COUNT).map(|_| open(&server)));
    server.wait_for("all to be open", |stats| stats.opened as usize == 2 * COUNT);
    let each = (resident() - before) / COUNT as i64;
    println!("{driver}: {each} bytes per idle connection with TLS");
    // The promise to users is 24 KiB.
    assert!(each <= 12 * 1024, "{driver}: {each} bytes per idle connection");
}

/// Whoever says nothing gets nothing: TLS begins with the first byte.
fn a_silent_one_costs_next_to_nothing(driver: Driver) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const COUNT: usize = 2000;
    let server = start(driver);
    let connect = || TcpStream::connect(server.addr).expect("the server listens");
    let mut streams: Vec<TcpStream> = Vec::with_capacity(2 * COUNT);
    streams.extend((0..COUNT).map(|_| connect()));
    server.wait_for("all to be there", |stats| stats.connections as usize == COUNT);
    let before = resident();
    streams.extend((0..COUNT).map(|_| connect()));
    server.wait_for("all to be there", |stats| stats.connections as usize == 2 * COUNT);
    let each = (resident() - before) / COUNT as i64;
    println!("{driver}: {each} bytes per silent connection with TLS");
    assert!(each <= 512, "{driver}: {each} bytes per silent connection");
}
