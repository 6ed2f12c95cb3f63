//! Which sites' pages may open a connection (RFC 6455 10.2).
//!
//! Comes in: the Origin and the Host of an upgrade request. Goes out: yes or no. Nothing here is
//! a pattern: sites are compared as a whole.

use std::fmt;
use std::sync::Arc;

use crate::protocol::upgrade::is_authority;
use crate::upgrade::UpgradeRequest;

/// The sites whose pages may open WebSocket connections; every other page gets 403.
///
/// A browser lets any page on the internet connect to any server that it can reach, also to one
/// on the user's own machine, and sends the user's cookies along. It says which site the page is
/// from in Origin; looking at that is the server's job (RFC 6455 10.2). Programs other than
/// browsers send no Origin, or whatever they like: this is no authentication.
///
/// Set for all routes with [`ServerBuilder::origins`](crate::ServerBuilder::origins), for one
/// with [`RouteOptions::origins`](crate::RouteOptions::origins). Schemes and host names are
/// compared without regard to case, and a port that is left out is the scheme's own: 80 for
/// `http` and `ws`, 443 for `https` and `wss`.
#[derive(Clone, Default)]
pub struct Origins {
    policy: Policy,
}

#[derive(Clone, Default)]
enum Policy {
    #[default]
    SameHost,
    List(Vec<String>),
    Check(Arc<Check>),
    Any,
}

type Check = dyn Fn(&UpgradeRequest<'_>) -> bool + Send + Sync;

impl Origins {
    /// Pages of the host and port that the request itself was made to, over HTTP or HTTPS, and
    /// requests without an Origin. The default. Requests over TLS to this server must come from
    /// pages that came over TLS, too.
    ///
    /// Behind a proxy this needs the proxy to pass Host on unchanged.
    pub fn same_host() -> Self {
        Self { policy: Policy::SameHost }
    }

    /// Pages of exactly these sites, written as a browser writes them: `https://example.com`,
    /// `http://localhost:3000`. Requests without an Origin may connect, too; the same host may
    /// not unless it is in the list. What is no site is an error of the builder.
    pub fn list(sites: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { policy: Policy::List(sites.into_iter().map(Into::into).collect()) }
    }

    /// Requests for which `allows` says yes, whether they have an
    /// [`origin`](crate::Request::origin) or not. Called on the workers' threads; one that
    /// panics refuses.
    pub fn check(allows: impl Fn(&UpgradeRequest<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self { policy: Policy::Check(Arc::new(allows)) }
    }

    /// Every page on the internet that a user of this server happens to look at may connect in
    /// that user's name. Right for servers that give everybody the same and take nothing.
    pub fn any_site_may_connect_dangerously() -> Self {
        Self { policy: Policy::Any }
    }

    /// Says which of the listed sites is none.
    pub(crate) fn problem(&self) -> Option<String> {
        let Policy::List(sites) = &self.policy else { return None };
        // A '*' would be a legal, if useless, name of a host: here it is always a mistake.
        let wrong = sites.iter().find(|site| site.contains('*') || Site::parse(site).is_none())?;
        Some(format!(
            "{wrong:?} is no site: write scheme, host and port as in \"https://example.com:8443\", \
             without a path, a '*' or a '/' at the end"
        ))
    }

    /// The decision.
    pub(crate) fn allow(&self, request: &UpgradeRequest<'_>) -> bool {
        let origin = match &self.policy {
            Policy::Any => return true,
            Policy::Check(allows) => return allows(request),
            Policy::SameHost | Policy::List(_) => request.origin(),
        };
        // RFC 6455 10.2: clients that are no browsers need not send one.
        let Some(origin) = origin else { return true };
        // `null`, the origin of sandboxed pages of any site, is no site.
        let Some(site) = Site::parse(origin) else { return false };
        match &self.policy {
            Policy::List(sites) => sites.iter().any(|other| Site::parse(other) == Some(site)),
            _ => request.host().is_some_and(|host| site.is_served_at(host, request.is_secure())),
        }
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Policy::SameHost => f.write_str("SameHost"),
            Policy::List(sites) => f.debug_tuple("List").field(sites).finish(),
            Policy::Check(_) => f.write_str("Check"),
            Policy::Any => f.write_str("Any"),
        }
    }
}

/// `scheme://host:port` (RFC 6454 6.2).
#[derive(Debug, Clone, Copy)]
struct Site<'a> {
    scheme: &'a str,
    host: &'a str,
    /// Given, or the scheme's own.
    port: Option<u16>,
}

impl<'a> Site<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme_char = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(scheme_char) {
            return None;
        }
        let (host, port) = split_authority(authority)?;
        Some(Self { scheme, host, port: port.or(default_port(scheme)) })
    }

    /// Whether this is the site at an address as Host has it. Host does not say the scheme: a
    /// port that it leaves out is that of whatever scheme the page was loaded with, which a proxy
    /// in front may have changed. But over TLS it is known, and a page that came without, which
    /// anybody on the way can have written, is not of the same site (RFC 6454 5).
    fn is_served_at(&self, host: &str, secure: bool) -> bool {
        let Some(default) = default_port(self.scheme) else { return false };
        if secure && default != 443 {
            return false;
        }
        split_authority(host).is_some_and(|(host, port)| {
            host.eq_ignore_ascii_case(self.host) && Some(port.unwrap_or(default)) == self.port
        })
    }
}

impl PartialEq for Site<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.host.eq_ignore_ascii_case(other.host)
            && self.port == other.port
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    let is = |other: &str| scheme.eq_ignore_ascii_case(other);
    match scheme.len() {
        4 if is("http") => Some(80),
        5 if is("https") => Some(443),
        2 if is("ws") => Some(80),
        3 if is("wss") => Some(443),
        _ => None,
    }
}

/// Host and port of `host[:port]`; `None` if it is no such thing.
pub(crate) fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    if !is_authority(text.as_bytes()) {
        return None;
    }
    // The colons of an IPv6 address stand inside brackets.
    let host_end = text.rfind(']').map_or(0, |bracket| bracket + 1);
    match text[host_end..].find(':') {
        Some(colon) => {
            let (host, port) = text.split_at(host_end + colon);
            let port = &port[1..];
            let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
            Some((host, port))
        }
        None => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same_host(origin: &str, host: &str) -> bool {
        Site::parse(origin).is_some_and(|site| site.is_served_at(host, false))
    }

    #[test]
    fn over_tls_the_page_came_over_tls_too() {
        for (origin, host, expected) in [
            ("https://example.com", "example.com", true),
            ("https://example.com", "example.com:443", true),
            ("https://example.com:8443", "example.com:8443", true),
            ("http://example.com", "example.com", false),
            ("http://example.com:8443", "example.com:8443", false),
            ("http://example.com:443", "example.com", false),
        ] {
            let site = Site::parse(origin).expect("a site");
            assert_eq!(site.is_served_at(host, true), expected, "{origin} {host}");
        }
    }

    #[test]
    fn the_same_host_is_the_same_port_too() {
        for (origin, host) in [
            ("http://example.com", "example.com"),
            ("https://example.com", "example.com"),
            ("https://example.com", "example.com:443"),
            ("http://example.com:80", "example.com"),
            ("http://EXAMPLE.com", "example.COM"),
            ("http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("http://[::1]:9001", "[::1]:9001"),
            ("wss://[::1]", "[::1]:443"),
        ] {
            assert!(same_host(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "null"),
            ("", ""),
            ("http://example.com", "example.com:443"),
            ("https://example.com", "example.com:80"),
            ("http://example.com:8080", "example.com"),
            ("http://example.com", "example.com:8080"),
            ("http://example.com.", "example.com"),
            ("http://example.com.evil", "example.com"),
            ("http://evil-example.com", "example.com"),
            ("http://evil.com/example.com", "example.com"),
            ("http://example.com@evil.com", "evil.com"),
            ("http://example.com/", "example.com"),
            ("http://example.com http://example.com", "example.com"),
            ("http://example.com:99999", "example.com"),
            ("chrome-extension://example.com", "example.com"),
            ("http:example.com", "example.com"),
            ("://example.com", "example.com"),
            ("http://[::1]", "[::2]"),
        ] {
            assert!(!same_host(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn listed_sites_are_compared_as_a_whole() {
        let same = |a, b| Site::parse(a) == Site::parse(b) && Site::parse(a).is_some();
        assert!(same("https://a.example", "HTTPS://A.example:443"));
        assert!(same("app://obsidian.md", "app://obsidian.md"));
        assert!(!same("https://a.example", "http://a.example"));
        assert!(!same("https://a.example", "https://a.example:8443"));
        assert!(!same("https://a.example", "https://b.a.example"));
    }

    #[test]
    fn a_list_names_what_is_no_site() {
        assert_eq!(Origins::list(["https://a.example", "http://[::1]:80"]).problem(), None);
        for wrong in ["example.com", "https://a/", "https://*.a", "null", "*", "", "https://"] {
            let problem = Origins::list(["https://fine.example", wrong]).problem();
            let problem = problem.expect("an error");
            assert!(problem.contains(&format!("{wrong:?}")), "{problem}");
        }
        assert_eq!(Origins::same_host().problem(), None);
    }
}
