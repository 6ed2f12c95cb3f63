//! Whom to believe about where a request comes from.
//!
//! Comes in: the address of a socket's other end, a request, and what the builder said about the
//! proxies in front. Goes out: the address of the client behind them, and whether a Host is one of
//! ours. What a peer that is not listed says about addresses is not even read.

pub(crate) mod forwarded;
pub(crate) mod network;
pub(crate) mod proxy_protocol;

use std::net::IpAddr;

pub use self::forwarded::ForwardedHeader;
use self::network::Peers;
use crate::origins::split_authority;
use crate::protocol::upgrade::Request;

/// The builder's settings about proxies and names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// The header that names the client, and the proxies that write it.
    pub(crate) forwarded: Option<(ForwardedHeader, Peers)>,
    /// Peers that begin every connection with a PROXY header.
    pub(crate) proxy_protocol: Peers,
    /// The names that we answer to; empty: any.
    pub(crate) hosts: Vec<String>,
}

impl Trust {
    /// Says which of the names cannot be a Host.
    pub(crate) fn problem_of_hosts(&self) -> Option<String> {
        let wrong = self.hosts.iter().find(|host| split_authority(host).is_none())?;
        Some(format!("{wrong:?} is no host: write a name or address, with or without a port"))
    }

    /// Whether this address is that of a proxy, who stands for many clients.
    pub(crate) fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = Some(ip.to_canonical());
        self.proxy_protocol.contain(ip)
            || self.forwarded.as_ref().is_some_and(|(_, proxies)| proxies.contain(ip))
    }

    /// Whether a request with this Host is for us.
    pub(crate) fn knows_host(&self, host: Option<&str>) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let Some((name, port)) = host.and_then(split_authority) else { return false };
        self.hosts.iter().filter_map(|known| split_authority(known)).any(|(known, wanted)| {
            known.eq_ignore_ascii_case(name) && (wanted.is_none() || wanted == port)
        })
    }

    /// The client's address, given that of the next proxy or of the client itself.
    pub(crate) fn client_ip(&self, source: Option<IpAddr>, head: &Request<'_>) -> Option<IpAddr> {
        let source = source.map(|ip| ip.to_canonical());
        let Some((header, proxies)) = &self.forwarded else { return source };
        if !proxies.contain(source) {
            return source;
        }
        // The last hop was written by the proxy that we know, the one before by whoever that
        // believes: the first stranger from the right is the client.
        let mut client = source;
        for hop in header.hops(head).into_iter().rev() {
            // A hop that has no address ends what is known.
            let Some(ip) = hop else { break };
            client = Some(ip);
            if !proxies.contain(client) {
                break;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Limits;

    fn client_ip(header: ForwardedHeader, source: &str, lines: &str) -> String {
        let trust = Trust {
            forwarded: Some((header, Peers::parse(["10.0.0.0/8", "fd00::/8"]).expect("networks"))),
            ..Trust::default()
        };
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = Request::parse(head.as_bytes(), &Limits::new()).expect("a request");
        let source = Some(source.parse().expect("an address"));
        trust.client_ip(source, &head).expect("an address").to_string()
    }

    #[test]
    fn the_client_is_the_first_stranger_from_the_right() {
        for (source, lines, expected) in [
            // A stranger's word counts for nothing.
            ("192.0.2.1", "X-Forwarded-For: 198.51.100.1\r\n", "192.0.2.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"),
            ("::ffff:10.0.0.1", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"),
            // What the client claims stands to the left of what the proxy saw.
            ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, 198.51.100.1\r\n", "198.51.100.1"),
            ("10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4"),
            ("10.0.0.1", "X-Forwarded-For: 6.6.6.6,1.2.3.4,10.9.9.9 , 10.1.1.1\r\n", "1.2.3.4"),
            // Only our own: the one that is furthest away.
            ("10.0.0.1", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3"),
            // Nobody knows what stands left of a hop without an address.
            ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.2\r\n", "10.0.0.2"),
            ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, \r\n", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: evil\r\n", "10.0.0.1"),
            // The other header is one that the proxy may pass on unseen.
            ("10.0.0.1", "Forwarded: for=6.6.6.6\r\n", "10.0.0.1"),
        ] {
            let client = client_ip(ForwardedHeader::XForwardedFor, source, lines);
            assert_eq!(client, expected, "{source} {lines}");
        }
        for (lines, expected) in [
            ("Forwarded: for=6.6.6.6, For=\"[2001:db8::1]:4711\";proto=https\r\n", "2001:db8::1"),
            ("Forwarded: for=1.2.3.4\r\nForwarded: for=\"[fd00::1]\"\r\n", "1.2.3.4"),
            ("Forwarded: for=6.6.6.6\r\nForwarded: proto=https\r\n", "10.0.0.1"),
            ("Forwarded: for=6.6.6.6, for=_hidden\r\n", "10.0.0.1"),
            ("X-Forwarded-For: 6.6.6.6\r\n", "10.0.0.1"),
        ] {
            let client = client_ip(ForwardedHeader::Forwarded, "10.0.0.1", lines);
            assert_eq!(client, expected, "{lines}");
        }
    }

    #[test]
    fn only_listed_hosts_are_known() {
        let hosts = ["example.com", "localhost:9001", "[::1]"].map(String::from).to_vec();
        let trust = Trust { hosts, ..Trust::default() };
        assert_eq!(trust.problem_of_hosts(), None);
        for host in ["example.com", "EXAMPLE.com:8443", "localhost:9001", "[::1]:80", "[::1]"] {
            assert!(trust.knows_host(Some(host)), "{host}");
        }
        for host in ["localhost", "localhost:9002", "www.example.com", "example.com.", "::1", ""] {
            assert!(!trust.knows_host(Some(host)), "{host}");
        }
        assert!(!trust.knows_host(None));
        assert!(Trust::default().knows_host(None));
        let wrong = Trust { hosts: vec!["http://a".into()], ..Trust::default() };
        assert!(wrong.problem_of_hosts().expect("no host").contains("http://a"));
    }
}
