// What the programs on tokio have in common: their command line and the accept loop. Each runs on
// one thread, as the others do, so that a core is a core.

use std::io::Write;

use tokio::net::{TcpListener, TcpStream};

/// `--mode echo --listen ADDR:PORT`; calls `serve` for every connection.
fn run<F: Future<Output = ()> + 'static>(serve: fn(TcpStream) -> F) {
    let mut listen = "127.0.0.1:9001".to_owned();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--mode", Some(value)) if value == "echo" => {}
            (word, value) => {
                eprintln!("unknown option {word} {}", value.unwrap_or_default());
                std::process::exit(2);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let served = runtime.and_then(|runtime| {
        local.block_on(&runtime, async {
            let listener = TcpListener::bind(&listen).await?;
            println!("listening on ws://{}/", listener.local_addr()?);
            std::io::stdout().flush()?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::task::spawn_local(serve(stream));
            }
        })
    });
    let result: Result<(), std::io::Error> = served;
    if let Err(error) = result {
        eprintln!("{listen}: {error}");
        std::process::exit(1);
    }
}
