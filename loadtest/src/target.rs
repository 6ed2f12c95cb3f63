//! Where the server is: a URL in, an address, a `Host` value and a request target out.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::failure::{Context, Failure};

/// A server as the user named it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    place: Place,
    speech: Speech,
    /// Value of the `Host` header.
    host: String,
    /// Request target: path and query.
    path: String,
    manner: Manner,
}

/// How a server is spoken to, beside what its URL says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// Certificates that are believed; none means all are.
    pub(crate) ca: Option<PathBuf>,
    /// Whether TLS sessions are resumed.
    pub(crate) resume: bool,
    /// Whether permessage-deflate is offered, and insisted on.
    pub(crate) deflate: bool,
}

/// What is spoken over the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// WebSocket.
    Plain,
    /// WebSocket over TLS.
    Tls,
    /// Nothing: bytes that are expected back as they are.
    Raw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp { name: String, port: u16 },
    Unix(PathBuf),
}

/// A [`Target`] whose name was looked up.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(file) => file.display().fmt(formatter),
        }
    }
}

impl Target {
    /// Reads `ws://HOST[:PORT][/PATH]`, the same with `wss`, `tcp://HOST:PORT`, `unix:PATH` or
    /// `ws+unix:PATH[:/TARGET]`.
    ///
    /// # Errors
    ///
    /// A sentence that names what is wrong with the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        for (scheme, speech, port) in [
            // RFC 6455 3: port 80, and 443 for wss, unless the URL says otherwise.
            ("ws://", Speech::Plain, Some(80)),
            ("wss://", Speech::Tls, Some(443)),
            ("tcp://", Speech::Raw, None),
        ] {
            if let Some(rest) = url.strip_prefix(scheme) {
                return Self::parse_tcp(url, rest, speech, port);
            }
        }
        let Some(rest) = url.strip_prefix("ws+unix:").or_else(|| url.strip_prefix("unix:")) else {
            return Err(format!("no URL with scheme ws, wss, tcp, unix or ws+unix: '{url}'"));
        };
        // The target of a socket file comes after a colon, as in other tools that know ws+unix.
        let (file, path) = match rest.find(":/") {
            Some(colon) => (&rest[..colon], &rest[colon + 1..]),
            None => (rest, "/"),
        };
        // "ws+unix:///run/a.sock" and "ws+unix:/run/a.sock" are the same file.
        let file = file.strip_prefix("//").unwrap_or(file);
        if file.is_empty() {
            return Err(format!("no socket file in '{url}'"));
        }
        Ok(Self {
            place: Place::Unix(PathBuf::from(file)),
            speech: Speech::Plain,
            host: "localhost".to_owned(),
            path: path.to_owned(),
            manner: Manner::default(),
        })
    }

    fn parse_tcp(
        url: &str,
        rest: &str,
        speech: Speech,
        default_port: Option<u16>,
    ) -> Result<Self, String> {
        // RFC 6455 3: a fragment identifier has no meaning in a WebSocket URL.
        if rest.contains('#') {
            return Err(format!("a WebSocket URL has no fragment: '{url}'"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // The colons of an IPv6 address are inside brackets.
        let after_brackets = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (name, port) = match authority[after_brackets..].find(':') {
            Some(colon) => {
                let (name, port) = authority.split_at(after_brackets + colon);
                (name, port[1..].parse().map_err(|_| format!("no port in '{url}'"))?)
            }
            None => (authority, default_port.ok_or_else(|| format!("no port in '{url}'"))?),
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() || authority.contains('@') {
            return Err(format!("no host in '{url}'"));
        }
        Ok(Self {
            place: Place::Tcp { name: bare.to_owned(), port },
            speech,
            host: authority.to_owned(),
            path,
            manner: Manner::default(),
        })
    }

    /// What is spoken.
    pub(crate) fn speech(&self) -> Speech {
        self.speech
    }

    /// The name or address in the URL; `localhost` for a socket file.
    pub(crate) fn name(&self) -> &str {
        match &self.place {
            Place::Tcp { name, .. } => name,
            Place::Unix(_) => "localhost",
        }
    }

    /// The same server, spoken to in another manner.
    pub(crate) fn spoken_to(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// How it is spoken to.
    pub(crate) fn manner(&self) -> &Manner {
        &self.manner
    }

    /// Value of the `Host` header (RFC 6455 4.1).
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Request target (RFC 6455 4.1).
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Looks the name up and takes the first address.
    ///
    /// # Errors
    ///
    /// The name is unknown.
    pub(crate) fn resolve(&self) -> Result<Address, Failure> {
        match &self.place {
            Place::Unix(file) => Ok(Address::Unix(file.clone())),
            Place::Tcp { name, port } => (name.as_str(), *port)
                .to_socket_addrs()
                .context(|| format!("cannot look up '{name}'"))?
                .next()
                .map(Address::Tcp)
                .ok_or_else(|| Failure::new(format!("'{name}' has no address"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(url: &str) -> (String, u16, String, String) {
        match Target::parse(url) {
            Ok(Target { place: Place::Tcp { name, port }, host, path, .. }) => {
                (name, port, host, path)
            }
            other => panic!("{url}: {other:?}"),
        }
    }

    fn unix(url: &str) -> (PathBuf, String) {
        match Target::parse(url) {
            Ok(Target { place: Place::Unix(file), path, .. }) => (file, path),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let words = |name: &str, port, host: &str, path: &str| {
            (name.to_owned(), port, host.to_owned(), path.to_owned())
        };
        assert_eq!(tcp("ws://a:9001/"), words("a", 9001, "a:9001", "/"));
        assert_eq!(tcp("ws://a"), words("a", 80, "a", "/"));
        assert_eq!(tcp("ws://a:1?x=/y:2"), words("a", 1, "a:1", "/?x=/y:2"));
        assert_eq!(tcp("wss://a/b"), words("a", 443, "a", "/b"));
        assert_eq!(Target::parse("tcp://a:7/").unwrap().speech(), Speech::Raw);
        assert_eq!(tcp("ws://[::1]:5/c?d"), words("::1", 5, "[::1]:5", "/c?d"));
        assert_eq!(tcp("ws://[::1]/c"), words("::1", 80, "[::1]", "/c"));
        assert_eq!(unix("unix:/run/a.sock"), (PathBuf::from("/run/a.sock"), "/".to_owned()));
        assert_eq!(unix("ws+unix:///a.sock:/c"), (PathBuf::from("/a.sock"), "/c".to_owned()));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["", "http://a/", "tcp://a/", "ws:///", "ws://a:b/", "ws://a:70000/", "unix:"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
        assert!(Target::parse("ws://a/#b").is_err());
        assert!(Target::parse("ws://u@a/").is_err());
    }

    #[test]
    fn a_numeric_address_needs_no_name_service() {
        let address = Target::parse("ws://127.0.0.1:9001/").unwrap().resolve().unwrap();
        assert!(matches!(address, Address::Tcp(address) if address.port() == 9001));
    }
}
