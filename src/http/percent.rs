//! Percent-encoding (RFC 3986 2.1) and the pairs of a query.
//!
//! Comes in: parts of a request target, as sent. Goes out: what they mean. It never fails: what
//! cannot be decoded is given as it was sent.

use std::borrow::Cow;

/// Decodes `%XX`. A text with a `%` that two hexadecimal digits do not follow, or that does not
/// decode to UTF-8, is given as it was sent. Allocates only if there is something to decode.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    decode_bytes(text.as_bytes())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The same, but `None` for what cannot be decoded.
pub(crate) fn decode_strictly(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    String::from_utf8(decode_bytes(text.as_bytes())?).ok().map(Cow::Owned)
}

fn decode_bytes(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    while let [first, behind @ ..] = text {
        if *first == b'%' {
            let [high, low, behind @ ..] = behind else { return None };
            decoded.push(digit(*high)? << 4 | digit(*low)?);
            text = behind;
        } else {
            decoded.push(*first);
            text = behind;
        }
    }
    Some(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// The `name=value` pairs of a query, decoded, in the order in which they were sent; see
/// [`Request::query_pairs`](crate::Request::query_pairs).
#[derive(Debug, Clone)]
pub struct QueryPairs<'r> {
    rest: Option<&'r str>,
}

impl<'r> QueryPairs<'r> {
    pub(crate) fn new(query: Option<&'r str>) -> Self {
        Self { rest: query }
    }
}

impl<'r> Iterator for QueryPairs<'r> {
    type Item = (Cow<'r, str>, Cow<'r, str>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest?;
            let pair = match rest.split_once('&') {
                Some((pair, behind)) => {
                    self.rest = Some(behind);
                    pair
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            if !pair.is_empty() {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                return Some((decode(name), decode(value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_percent_signs_mean_something() {
        for (sent, meant) in [
            ("", ""),
            ("a+b", "a+b"),
            ("%41%6a%6A", "Ajj"),
            ("caf%C3%A9", "caf\u{e9}"),
            ("%2F%25%00", "/%\0"),
            // Not decodable: as sent.
            ("%", "%"),
            ("%4", "%4"),
            ("%4g", "%4g"),
            ("%41%zz", "%41%zz"),
            ("%ff", "%ff"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(decode(sent), meant, "{sent:?}");
        }
        assert!(matches!(decode("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn pairs_are_split_before_they_are_decoded() {
        let pairs: Vec<_> = QueryPairs::new(Some("a=1&b=x%26y%3Dz&&c&=d&e=f=g&")).collect();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x&y=z"), ("c", ""), ("", "d"), ("e", "f=g")]);
        assert_eq!(QueryPairs::new(None).count(), 0);
        assert_eq!(QueryPairs::new(Some("")).count(), 0);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in any::<String>()) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), text);
        }

        #[test]
        fn anything_is_decoded_somehow(text in "[ -~]*") {
            let _ = decode(&text);
            let _ = QueryPairs::new(Some(&text)).count();
        }
    }
}
