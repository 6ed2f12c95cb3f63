//! Who is compared: a name in, the command that starts its server for a need out, or why there is
//! none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::compare::cell::{Cell, Deflate, Need, PUBLISHERS, Service, TOPICS, Task};

/// Where programs are, and what ours are told.
#[derive(Debug)]
pub(crate) struct Places {
    /// Our examples.
    pub(crate) examples: PathBuf,
    /// What the build script for peers made, with `cert.pem` and `key.pem`.
    pub(crate) peers: PathBuf,
    /// At which level ours compress, if not at their default.
    pub(crate) deflate_level: Option<u8>,
}

/// A server that somebody else wrote, in a small program of ours.
#[derive(Debug)]
struct Peer {
    name: &'static str,
    services: &'static [Service],
    /// Empty but for [`Off`] if its crate cannot compress.
    deflate: &'static [Deflate],
}

use Deflate::{Dedicated, Off, Shared};
use Service::{Broadcast, Echo, Relay, Subscribe, Threads};

/// In the order of the tables.
const PEERS: &[Peer] = &[
    Peer {
        name: "uwebsockets",
        services: &[Echo, Broadcast, Relay, Subscribe],
        deflate: &[Off, Shared, Dedicated],
    },
    Peer { name: "fastwebsockets", services: &[Echo], deflate: &[Off] },
    Peer { name: "sockudo-ws", services: &[Echo, Broadcast], deflate: &[Off, Shared, Dedicated] },
    Peer { name: "tokio-tungstenite", services: &[Echo, Broadcast], deflate: &[Off] },
    Peer { name: "tokio-websockets", services: &[Echo, Broadcast], deflate: &[Off] },
    Peer { name: "yawc", services: &[Echo, Broadcast], deflate: &[Off, Shared, Dedicated] },
    Peer {
        name: "ws-node",
        services: &[Echo, Broadcast, Relay],
        deflate: &[Off, Shared, Dedicated],
    },
];

/// The peer that everybody is compared with.
pub(crate) const BASELINE: &str = "uwebsockets";

/// Somebody who takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Our examples on one driver.
    Wirelane { driver: &'static str },
    /// TCP without a protocol on one kernel interface.
    Raw { driver: &'static str },
    /// By its place in the table.
    Peer(usize),
}

impl Contestant {
    /// Everybody: the baseline, then we, the limits and the others.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Peer(0)];
        all.extend(["epoll", "io_uring"].map(|driver| Self::Wirelane { driver }));
        all.extend(["epoll", "io_uring"].map(|driver| Self::Raw { driver }));
        all.extend((1..PEERS.len()).map(Self::Peer));
        all
    }

    /// As in tables and in `--who`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Wirelane { driver } => format!("wirelane-{driver}"),
            Self::Raw { driver } => format!("raw-{driver}"),
            Self::Peer(index) => PEERS[*index].name.to_owned(),
        }
    }

    /// Whether a share of capacity is a share of what the slowest of these keeps up with.
    pub(crate) fn sets_the_pace(&self) -> bool {
        matches!(self, Self::Wirelane { .. }) || self.name() == BASELINE
    }

    /// What the build script for peers builds for it.
    pub(crate) fn package(&self) -> Option<&'static str> {
        match self {
            Self::Wirelane { .. } => None,
            Self::Raw { .. } => Some("raw"),
            Self::Peer(index) => Some(PEERS[*index].name),
        }
    }

    /// The program and its arguments, without the address to listen on.
    ///
    /// # Errors
    ///
    /// A few words: it cannot do that, or was not built.
    pub(crate) fn command(&self, cell: &Cell, places: &Places) -> Result<Vec<OsString>, String> {
        let need = &cell.need();
        let mut words: Vec<OsString> = Vec::new();
        match self {
            Self::Wirelane { driver } => {
                match need.service {
                    Echo | Broadcast | Relay => {
                        words.push(existing(places.examples.join(need.service.name()))?);
                    }
                    Subscribe | Threads => {
                        // A server inside this program.
                        let program = std::env::current_exe().map_err(|it| it.to_string())?;
                        words.extend([program.into(), "serve".into()]);
                        words.extend(["--mode".into(), need.service.name().into()]);
                        words.extend(special(cell));
                    }
                }
                words.extend(["--driver".into(), (*driver).into()]);
                if let (Shared | Dedicated, Some(level)) = (need.deflate, places.deflate_level) {
                    words.extend(["--deflate-level".into(), level.to_string().into()]);
                }
            }
            Self::Raw { driver } => {
                let plain = Need { service: Echo, tls: false, deflate: Off };
                if *need != plain || cell.task == Task::Connect {
                    return Err("it has no protocol".to_owned());
                }
                words.push(existing(places.peers.join("raw"))?);
                words.extend(["--driver".into(), (*driver).into()]);
            }
            Self::Peer(index) => {
                let peer = &PEERS[*index];
                if need.service == Threads {
                    return Err("no publishing from other threads".to_owned());
                }
                if !peer.services.contains(&need.service) {
                    return Err(format!("no {} in our program for it", need.service.name()));
                }
                if !peer.deflate.contains(&need.deflate) {
                    return Err("it has no permessage-deflate".to_owned());
                }
                words.push(existing(places.peers.join(peer.name))?);
                words.extend(["--mode".into(), need.service.name().into()]);
                words.extend(special(cell));
            }
        }
        if need.deflate != Off {
            words.extend(["--deflate".into(), need.deflate.name().into()]);
        }
        if need.tls {
            words.extend(["--tls-cert".into(), existing(places.peers.join("cert.pem"))?]);
            words.extend(["--tls-key".into(), existing(places.peers.join("key.pem"))?]);
        }
        Ok(words)
    }
}

/// What the services that only one cell needs are told.
fn special(cell: &Cell) -> Vec<OsString> {
    match cell.task {
        Task::Subscriptions => vec!["--topics".into(), TOPICS.to_string().into()],
        Task::Threads => vec![
            "--publishers".into(),
            PUBLISHERS.to_string().into(),
            "--copies".into(),
            (cell.depth / PUBLISHERS).to_string().into(),
        ],
        _ => Vec::new(),
    }
}

/// The path, if there is such a file; otherwise the reason that the build script left beside it.
fn existing(path: PathBuf) -> Result<OsString, String> {
    if path.is_file() {
        return Ok(path.into_os_string());
    }
    let mut reason = path.clone().into_os_string();
    reason.push(".failed");
    let reason = std::fs::read_to_string(Path::new(&reason));
    Err(match reason {
        Ok(reason) => format!("could not be built: {}", reason.trim()),
        Err(_) => format!("{} is missing", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::batch::Content;

    const PLAIN: Cell = Cell::echo(1, 20, 1, Content::Binary);

    #[test]
    fn everybody_has_a_name_and_the_baseline_comes_first() {
        let mut names: Vec<String> = Contestant::all().iter().map(Contestant::name).collect();
        assert_eq!(names[0], BASELINE);
        assert!(names.contains(&"wirelane-io_uring".to_owned()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Contestant::all().len());
    }

    #[test]
    fn commands_follow_the_need_and_reasons_say_what_is_missing() {
        let directory = std::env::temp_dir().join(format!("contestants-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for file in ["uwebsockets", "cert.pem", "key.pem"] {
            std::fs::write(directory.join(file), "").unwrap();
        }
        std::fs::write(directory.join("raw.failed"), "no compiler\n").unwrap();
        let examples = directory.join("examples");
        std::fs::create_dir_all(&examples).unwrap();
        let places = Places { examples, peers: directory.clone(), deflate_level: Some(6) };
        let relay = Cell { task: Task::Relay, ..PLAIN }.over_tls().deflated(Shared);
        let words = Contestant::Peer(0).command(&relay, &places).unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert!(words[0].ends_with("/uwebsockets"));
        assert_eq!(words[1..5], ["--mode", "relay", "--deflate", "shared"]);
        assert!(words[6].ends_with("cert.pem") && words[8].ends_with("key.pem"));

        let raw = Contestant::Raw { driver: "epoll" };
        assert!(raw.command(&PLAIN, &places).unwrap_err().contains("no compiler"));
        assert!(raw.command(&relay, &places).unwrap_err().contains("no protocol"));
        let ours = Contestant::Wirelane { driver: "epoll" };
        assert!(ours.command(&PLAIN, &places).unwrap_err().contains("examples/echo is missing"));
        std::fs::write(places.examples.join("relay"), "").unwrap();
        let words = ours.command(&relay, &places).unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words[1..5], ["--driver", "epoll", "--deflate-level", "6"]);
        assert!(Contestant::Peer(1).command(&relay, &places).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
