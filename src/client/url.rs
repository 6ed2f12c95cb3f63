//! Where a client connects: from `ws://HOST:PORT/PATH?QUERY`, `unix:PATH` or
//! `ws+unix:PATH:/PATH?QUERY` to its parts.
//!
//! In: text. Out: what to connect to, what to write behind `Host:`, what to ask for. Nothing here
//! looks up a name. RFC 6455 3 says what a WebSocket URL is.

use std::path::PathBuf;

/// The default port of ws (RFC 6455 3).
const DEFAULT_PORT: u16 = 80;

/// The default port of wss.
const DEFAULT_SECURE_PORT: u16 = 443;

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) endpoint: Endpoint,
    /// wss: everything goes through TLS.
    pub(crate) secure: bool,
    /// The value of the Host header: without the default port.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) target: String,
}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A name or address, without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Url {
    /// The parts, or what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err("write unix:PATH");
            }
            return Ok(Self::unix(path, "/"));
        }
        if let Some(rest) = text.strip_prefix("ws+unix:") {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            let (path, target) = rest.split_once(':').unwrap_or((rest, "/"));
            if path.is_empty() || path.contains('\0') || !target.starts_with('/') {
                return Err("write ws+unix:PATH or ws+unix:PATH:/TARGET");
            }
            if target.contains('#') {
                return Err("a fragment (#) cannot be asked for; write %23");
            }
            return Ok(Self::unix(path, target));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("write ws://HOST:PORT/PATH or unix:PATH");
        };
        let secure = scheme.eq_ignore_ascii_case("wss");
        if !secure && !scheme.eq_ignore_ascii_case("ws") {
            return Err("the scheme must be ws or wss");
        }
        let default_port = if secure { DEFAULT_SECURE_PORT } else { DEFAULT_PORT };
        // RFC 6455 3: fragment identifiers are meaningless and must not be used.
        if rest.contains('#') {
            return Err("a fragment (#) cannot be asked for; write %23");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        if authority.contains('@') {
            return Err("a user name cannot be part of the URL; send an Authorization header");
        }
        let (host, bare, port) = split_authority(authority, default_port)?;
        Ok(Url {
            host: if port == default_port { host.to_owned() } else { format!("{host}:{port}") },
            endpoint: Endpoint::Tcp { host: bare.to_owned(), port },
            secure,
            target,
        })
    }

    fn unix(path: &str, target: &str) -> Url {
        Url {
            endpoint: Endpoint::Unix(path.into()),
            secure: false,
            host: "localhost".to_owned(),
            target: target.to_owned(),
        }
    }
}

/// The host as written, without brackets, and the port.
pub(crate) fn split_authority(
    authority: &str,
    default_port: u16,
) -> Result<(&str, &str, u16), &'static str> {
    let port_at = match authority.rfind(':') {
        // A colon inside the brackets is part of the address.
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    };
    let (host, port) = authority.split_at(port_at);
    let port = match port.trim_start_matches(':') {
        "" => default_port,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_err(|_| "the port must be a number from 0 to 65535")?
        }
        _ => return Err("the port must be a number from 0 to 65535"),
    };
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("the bracket is not closed")?,
        None if host.contains(':') => return Err("write an IPv6 address in brackets"),
        None => host,
    };
    if bare.is_empty() {
        return Err("the host is missing");
    }
    Ok((host, bare, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> (String, u16, String, String) {
        match Url::parse(text) {
            Ok(Url { endpoint: Endpoint::Tcp { host, port }, host: header, target, .. }) => {
                (host, port, header, target)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn urls_have_their_parts() {
        for (text, host, port, header, target) in [
            ("ws://a", "a", 80, "a", "/"),
            ("WS://a:80/", "a", 80, "a", "/"),
            ("ws://a:/b", "a", 80, "a", "/b"),
            ("ws://a:9001/b/c?d=/e:f", "a", 9001, "a:9001", "/b/c?d=/e:f"),
            ("ws://a?b", "a", 80, "a", "/?b"),
            ("ws://127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1:1", "/"),
            ("ws://[::1]", "::1", 80, "[::1]", "/"),
            ("ws://[::1]:9001/x", "::1", 9001, "[::1]:9001", "/x"),
        ] {
            let wanted = (host.to_owned(), port, header.to_owned(), target.to_owned());
            assert_eq!(tcp(text), wanted, "{text}");
        }
        let unix = Url::parse("unix:/run/a.sock").unwrap();
        assert_eq!(unix.endpoint, Endpoint::Unix("/run/a.sock".into()));
        assert_eq!((&*unix.host, &*unix.target), ("localhost", "/"));
        for text in ["ws+unix:/run/a.sock:/b?c:d", "ws+unix:///run/a.sock:/b?c:d"] {
            let unix = Url::parse(text).unwrap();
            assert_eq!(unix.endpoint, Endpoint::Unix("/run/a.sock".into()));
            assert_eq!((&*unix.host, &*unix.target), ("localhost", "/b?c:d"));
        }
        assert_eq!(Url::parse("ws+unix:a").unwrap().target, "/");
    }

    #[test]
    fn secure_urls_have_a_port_of_their_own() {
        for (text, port, header) in [("wss://a/", 443, "a"), ("wss://a:80/", 80, "a:80")] {
            let url = Url::parse(text).unwrap();
            assert!(url.secure);
            assert_eq!(url.endpoint, Endpoint::Tcp { host: "a".into(), port });
            assert_eq!(url.host, header);
        }
        assert!(!Url::parse("ws://a:443/").unwrap().secure);
    }

    #[test]
    fn what_cannot_be_asked_for_is_named() {
        for (text, named) in [
            ("a:9001", "ws://HOST:PORT/PATH"),
            ("http://a/", "scheme"),
            ("ws://a/#b", "%23"),
            ("ws://user:secret@a/", "Authorization"),
            ("ws://", "host"),
            ("ws://:9001/", "host"),
            ("ws://[]:9001/", "host"),
            ("ws://[::1/", "bracket"),
            ("ws://::1/", "bracket"),
            ("ws://a:http/", "number"),
            ("ws://a:65536/", "number"),
            ("ws://a:+80/", "number"),
            ("unix:", "unix:PATH"),
            ("ws+unix:", "ws+unix:PATH"),
            ("ws+unix:/a:b", "ws+unix:PATH"),
            ("ws+unix:/a:/#b", "%23"),
        ] {
            let reason = Url::parse(text).expect_err(text);
            assert!(reason.contains(named), "{text}: {reason}");
        }
    }
}
