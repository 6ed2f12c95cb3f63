//! Why TLS connections fail, in words for figures.

/// Why a TLS connection failed. Counted in [`Stats::tls_failures`](crate::Stats::tls_failures).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// What came first is no TLS: plain HTTP, a port scan.
    NotTls,
    /// No protocol version, cipher suite, group or kind of signature in common.
    Incompatible,
    /// The client speaks none of our application protocols (ALPN, RFC 7301).
    NoApplicationProtocol,
    /// The peer showed no certificate though it has to, or one that is not accepted.
    Certificate,
    /// The peer sent a fatal alert (RFC 8446 6.2): most often it does not trust our certificate.
    AlertReceived,
    /// The peer broke a rule of TLS, or sent a record that was forged or damaged.
    Violation,
    /// The handshake was not complete within `handshake_timeout`.
    Timeout,
    /// The peer left before the handshake was complete.
    Ended,
    /// An open connection ended without close_notify (RFC 8446 6.1): somebody may have cut off
    /// what the peer still had to say.
    Truncated,
    /// This side's own failure: no random bytes, a bad configuration of the application.
    Internal,
}

impl TlsFailure {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 10] = [
        Self::NotTls,
        Self::Incompatible,
        Self::NoApplicationProtocol,
        Self::Certificate,
        Self::AlertReceived,
        Self::Violation,
        Self::Timeout,
        Self::Ended,
        Self::Truncated,
        Self::Internal,
    ];

    /// A name for metrics, in small letters and underscores.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::NoApplicationProtocol => "no_application_protocol",
            Self::Certificate => "certificate",
            Self::AlertReceived => "alert_received",
            Self::Violation => "violation",
            Self::Timeout => "timeout",
            Self::Ended => "ended",
            Self::Truncated => "truncated",
            Self::Internal => "internal",
        }
    }
}
