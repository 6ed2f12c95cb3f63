//! Agreeing on permessage-deflate (RFC 7692 5 and 7.1), both roles.
//!
//! Comes in: what this side wants ([`Deflate`]) and what the peer offers or answers. Goes out: the
//! parameters that hold from then on, and the header values that say so. An offer that cannot be
//! kept is declined, and the next one is looked at; an answer that cannot be kept is an error.

use super::negotiate::{ExtensionOffer, ExtensionOffers, ParameterValue};
use crate::protocol::deflate::{MAX_WINDOW_BITS, WINDOW_BITS};
use crate::protocol::{Deflate, DeflateParameters};

/// The name of the extension (RFC 7692 7).
pub(super) const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The parameters of one offer or answer, each valid by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Given {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// In an offer it may stand without a value.
    client_max_window_bits: Option<Option<u8>>,
}

impl Given {
    /// `None` if a parameter is unknown, repeated or has no valid value: RFC 7692 7.1 has such an
    /// offer declined and such an answer fail.
    fn read(extension: &ExtensionOffer<'_>) -> Option<Self> {
        let mut given = Self::default();
        for parameter in extension.parameters() {
            let repeated = match parameter.name {
                SERVER_NO_CONTEXT_TAKEOVER if parameter.value.is_none() => {
                    std::mem::replace(&mut given.server_no_context_takeover, true)
                }
                CLIENT_NO_CONTEXT_TAKEOVER if parameter.value.is_none() => {
                    std::mem::replace(&mut given.client_no_context_takeover, true)
                }
                SERVER_MAX_WINDOW_BITS => {
                    given.server_max_window_bits.replace(window_bits(parameter.value?)?).is_some()
                }
                CLIENT_MAX_WINDOW_BITS => {
                    let bits = match parameter.value {
                        Some(value) => Some(window_bits(value)?),
                        None => None,
                    };
                    given.client_max_window_bits.replace(bits).is_some()
                }
                _ => return None,
            };
            if repeated {
                return None;
            }
        }
        Some(given)
    }
}

/// RFC 7692 7.1.2.1: a decimal integer from 8 to 15, without leading zeros.
fn window_bits(value: ParameterValue<'_>) -> Option<u8> {
    let mut digits = value.bytes();
    let bits = match (digits.next()?, digits.next(), digits.next()) {
        (digit @ b'8'..=b'9', None, _) => digit - b'0',
        (b'1', Some(digit @ b'0'..=b'5'), None) => 10 + digit - b'0',
        _ => return None,
    };
    Some(bits)
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) parameters: DeflateParameters,
    /// The windows have to be in the answer.
    names_server_window: bool,
    names_client_window: bool,
}

impl Answer {
    /// Takes the first offer that can be kept.
    pub(super) fn to(mut offers: ExtensionOffers<'_>, settings: &Deflate) -> Option<Self> {
        if !settings.is_on() {
            return None;
        }
        offers.find_map(|offer| {
            (offer.name() == NAME)
                .then(|| Given::read(&offer))
                .flatten()
                .and_then(|offer| Self::to_offer(offer, settings))
        })
    }

    fn to_offer(offer: Given, settings: &Deflate) -> Option<Self> {
        let asked = offer.server_max_window_bits;
        if asked.is_some_and(|bits| !WINDOW_BITS.contains(&bits)) {
            // RFC 7692 7.1.2.1: a server that does not support the value declines.
            return None;
        }
        let own = settings.compressor_window();
        let server_window = asked.unwrap_or(MAX_WINDOW_BITS).min(own.unwrap_or(MAX_WINDOW_BITS));
        // RFC 7692 7.1.2.2: a client that does not offer this parameter must not be given it.
        let client_window = offer.client_max_window_bits.map(|bits| {
            let wanted = settings.decompressor_window().unwrap_or(MAX_WINDOW_BITS);
            bits.unwrap_or(MAX_WINDOW_BITS).min(wanted)
        });
        Some(Self {
            parameters: DeflateParameters {
                server_no_context_takeover: offer.server_no_context_takeover || own.is_none(),
                // RFC 7692 7.1.1.2: also if the client has not offered it. With a decompressor of
                // its own it is left out: an offer is only a hint that the client could do so.
                client_no_context_takeover: settings.decompressor_window().is_none(),
                server_max_window_bits: server_window,
                client_max_window_bits: client_window.unwrap_or(MAX_WINDOW_BITS),
            },
            names_server_window: asked.is_some() || server_window < MAX_WINDOW_BITS,
            names_client_window: client_window.is_some_and(|bits| bits < MAX_WINDOW_BITS),
        })
    }

    /// The value of Sec-WebSocket-Extensions.
    pub(super) fn header_value(&self) -> String {
        let mut value = String::from(NAME);
        let parameters = &self.parameters;
        if parameters.server_no_context_takeover {
            push(&mut value, SERVER_NO_CONTEXT_TAKEOVER, None);
        }
        if parameters.client_no_context_takeover {
            push(&mut value, CLIENT_NO_CONTEXT_TAKEOVER, None);
        }
        if self.names_server_window {
            push(&mut value, SERVER_MAX_WINDOW_BITS, Some(parameters.server_max_window_bits));
        }
        if self.names_client_window {
            push(&mut value, CLIENT_MAX_WINDOW_BITS, Some(parameters.client_max_window_bits));
        }
        value
    }
}

/// What a client offers, as the value of Sec-WebSocket-Extensions; `None` for nothing.
///
/// A shared codec becomes a parameter that asks for no context takeover, a dedicated one with a
/// window below 15 bits one that names it. `client_max_window_bits` is always there, so that the
/// server may choose the window of what we compress.
pub(super) fn offer(settings: &Deflate) -> Option<String> {
    if !settings.is_on() {
        return None;
    }
    let mut value = String::from(NAME);
    let named = |window: Option<u8>| window.filter(|bits| *bits < MAX_WINDOW_BITS);
    match settings.decompressor_window() {
        None => push(&mut value, SERVER_NO_CONTEXT_TAKEOVER, None),
        window if named(window).is_some() => push(&mut value, SERVER_MAX_WINDOW_BITS, window),
        Some(_) => {}
    }
    if settings.compressor_window().is_none() {
        push(&mut value, CLIENT_NO_CONTEXT_TAKEOVER, None);
    }
    push(&mut value, CLIENT_MAX_WINDOW_BITS, named(settings.compressor_window()));
    Some(value)
}

/// What a server's answer to [`offer`] means; `None` if it cannot be kept (RFC 7692 7.1: the client
/// fails the connection).
pub(super) fn accepted(
    answer: &ExtensionOffer<'_>,
    settings: &Deflate,
) -> Option<DeflateParameters> {
    let answer = (answer.name() == NAME && settings.is_on()).then(|| Given::read(answer))??;
    let own = settings.compressor_window().unwrap_or(MAX_WINDOW_BITS);
    let client_window = match answer.client_max_window_bits {
        None => own,
        // RFC 7692 7.1.2.2: in an answer it has a value, at most the one that was offered.
        Some(bits) => bits.filter(|bits| *bits <= own)?,
    };
    let server_window = answer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS);
    match settings.decompressor_window() {
        // RFC 7692 7.1.1.1: a server that accepts this parameter repeats it.
        None if !answer.server_no_context_takeover => return None,
        // RFC 7692 7.1.2.1: the same or a smaller window.
        Some(window) if server_window > window => return None,
        _ => {}
    }
    Some(DeflateParameters {
        server_no_context_takeover: answer.server_no_context_takeover,
        client_no_context_takeover: answer.client_no_context_takeover,
        server_max_window_bits: server_window,
        client_max_window_bits: client_window,
    })
}

fn push(header_value: &mut String, name: &str, value: Option<u8>) {
    header_value.push_str("; ");
    header_value.push_str(name);
    if let Some(value) = value {
        header_value.push('=');
        header_value.push_str(&value.to_string());
    }
}
