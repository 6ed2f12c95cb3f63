//! Networks of addresses (RFC 4632), and lists of peers.
//!
//! Comes in: the builder's texts, once; then addresses. Goes out: whether they are in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    V4 { bits: u32, mask: u32 },
    V6 { bits: u128, mask: u128 },
}

impl Network {
    fn contains(&self, ip: IpAddr) -> bool {
        // On a socket for both families IPv4 peers have IPv6 addresses (RFC 4291 2.5.5.2).
        match (self, ip.to_canonical()) {
            (Self::V4 { bits, mask }, IpAddr::V4(ip)) => ip.to_bits() & mask == *bits,
            (Self::V6 { bits, mask }, IpAddr::V6(ip)) => ip.to_bits() & mask == *bits,
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = &'static str;

    /// `10.0.0.0/8`, `fd00::/8`, or a single address.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const NOT_ONE: &str = "it is neither an address nor a network like 10.0.0.0/8";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(prefix.parse::<u32>().map_err(|_| NOT_ONE)?))
            }
            Some(_) => return Err(NOT_ONE),
            None => (text, None),
        };
        let too_long = "its prefix is longer than the address";
        let too_exact = "it has bits behind its prefix";
        if let Ok(address) = address.parse::<Ipv4Addr>() {
            let free = 32_u32.checked_sub(prefix.unwrap_or(32)).ok_or(too_long)?;
            let (bits, mask) = (address.to_bits(), u32::MAX.checked_shl(free).unwrap_or(0));
            return if bits & mask == bits { Ok(Self::V4 { bits, mask }) } else { Err(too_exact) };
        }
        let address: Ipv6Addr = address.parse().map_err(|_| NOT_ONE)?;
        if address.to_ipv4_mapped().is_some() {
            return Err("write IPv4 addresses as such");
        }
        let free = 128_u32.checked_sub(prefix.unwrap_or(128)).ok_or(too_long)?;
        let (bits, mask) = (address.to_bits(), u128::MAX.checked_shl(free).unwrap_or(0));
        if bits & mask == bits { Ok(Self::V6 { bits, mask }) } else { Err(too_exact) }
    }
}

/// Who is meant by a setting of the builder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    networks: Vec<Network>,
    /// Peers without an address, on a server that has no others.
    unix: bool,
}

impl Peers {
    /// Reads networks and single addresses; `unix` is every peer of a Unix socket.
    ///
    /// # Errors
    ///
    /// Which of them is none, and why.
    pub(crate) fn parse(
        texts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, String> {
        let mut peers = Self::default();
        for text in texts {
            let text = text.into();
            if text == "unix" {
                peers.unix = true;
            } else {
                let network = text.parse().map_err(|what| format!("{text:?}: {what}"))?;
                peers.networks.push(network);
            }
        }
        Ok(peers)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// True if peers of Unix sockets are meant: those that have no address.
    pub(crate) fn mean_unix(&self) -> bool {
        self.unix
    }

    /// `None` is a peer without an address.
    pub(crate) fn contain(&self, ip: Option<IpAddr>) -> bool {
        match ip {
            Some(ip) => self.networks.iter().any(|network| network.contains(ip)),
            None => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(network: &str, ip: &str) -> bool {
        let network: Network = network.parse().expect("a network");
        network.contains(ip.parse().expect("an address"))
    }

    #[test]
    fn networks_hold_what_shares_their_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.168.1.128/25", "192.168.1.128", "192.168.1.127"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1/32", "::ffff:127.0.0.1", "::1"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "127.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::/1", "7fff::", "8000::"),
        ] {
            assert!(contains(network, inside), "{network} {inside}");
            assert!(!contains(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "fd00::1/8",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.0/08x",
            "example.com",
            "*",
            "::ffff:10.0.0.0/104",
            "10.0.0.0 /8",
            "10.0.0.0/99999999999",
            "Unix",
        ] {
            let error = Peers::parse([text]).expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        let peers = Peers::parse(["unix"]).expect("a word for them");
        assert!(peers.contain(None) && peers.mean_unix() && !peers.is_empty());
        assert!(Peers::default().is_empty() && !Peers::default().contain(None));
    }

    proptest! {
        #[test]
        fn a_prefix_means_its_first_bits(a in any::<u32>(), b in any::<u32>(), prefix in 0..=32_u32) {
            let naive = |bits: u32| format!("{bits:032b}")[..prefix as usize].to_owned();
            let first = naive(a).chars().chain("0".repeat(32).chars()).take(32).collect::<String>();
            let first = u32::from_str_radix(&first, 2).expect("32 bits");
            let network = format!("{}/{prefix}", Ipv4Addr::from_bits(first));
            let inside = contains(&network, &Ipv4Addr::from_bits(b).to_string());
            prop_assert_eq!(inside, naive(a) == naive(b));
        }

        #[test]
        fn any_text_is_a_network_or_an_error(text in "[0-9a-f.:/]{0,20}") {
            let _ = text.parse::<Network>();
        }
    }
}
