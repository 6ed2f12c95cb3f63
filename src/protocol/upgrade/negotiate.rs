//! What the peers agree on: Sec-WebSocket-Protocol and Sec-WebSocket-Extensions (RFC 6455 4.3,
//! 9.1).
//!
//! Comes in: the values of these header lines. Goes out: tokens, offers and parameters, as slices
//! of the head. One pass from left to right, no allocation, no going back: a hostile list costs
//! as much as any other of its length. It never decides which offer is taken.

use super::grammar::is_token_char;
use super::request::HeaderValues;

/// The subprotocols that the client offers, the preferred one first; see
/// [`ServerHandshake::subprotocols`](super::ServerHandshake::subprotocols).
#[derive(Clone, Debug)]
pub struct Subprotocols<'r> {
    values: HeaderValues<'r>,
    line: Cursor<'r>,
}

impl<'r> Subprotocols<'r> {
    pub(super) fn new(values: HeaderValues<'r>) -> Self {
        Subprotocols { values, line: Cursor::default() }
    }

    /// Whether the lines together are `1#token` (RFC 6455 4.3); true if there is no line.
    pub(super) fn are_valid(values: HeaderValues<'r>) -> bool {
        all_elements(values, Cursor::subprotocol)
    }
}

impl<'r> Iterator for Subprotocols<'r> {
    type Item = &'r str;

    fn next(&mut self) -> Option<&'r str> {
        next_element(&mut self.values, &mut self.line, Cursor::subprotocol)
    }
}

/// The extensions that the client offers, the preferred one first; see
/// [`ServerHandshake::extensions`](super::ServerHandshake::extensions).
#[derive(Clone, Debug)]
pub struct ExtensionOffers<'r> {
    values: HeaderValues<'r>,
    line: Cursor<'r>,
}

impl<'r> ExtensionOffers<'r> {
    pub(super) fn new(values: HeaderValues<'r>) -> Self {
        ExtensionOffers { values, line: Cursor::default() }
    }

    /// Whether the lines together are an `extension-list` (RFC 6455 9.1); true if there is no
    /// line.
    pub(super) fn are_valid(values: HeaderValues<'r>) -> bool {
        all_elements(values, Cursor::extension)
    }
}

/// The extensions in one line of an answer, if it is an `extension-list` (RFC 6455 9.1).
pub(super) fn extensions_in(line: &[u8]) -> Option<impl Iterator<Item = ExtensionOffer<'_>>> {
    let mut line = Cursor { rest: str::from_utf8(line).ok()? };
    let mut ahead = line;
    while ahead.skip_separators() {
        ahead.extension()?;
        if !ahead.at_separator() {
            return None;
        }
    }
    Some(std::iter::from_fn(move || line.skip_separators().then(|| line.extension()).flatten()))
}

impl<'r> Iterator for ExtensionOffers<'r> {
    type Item = ExtensionOffer<'r>;

    fn next(&mut self) -> Option<ExtensionOffer<'r>> {
        next_element(&mut self.values, &mut self.line, Cursor::extension)
    }
}

/// One offered extension with its parameters (RFC 6455 9.1).
#[derive(Clone, Copy, Debug)]
pub struct ExtensionOffer<'r> {
    name: &'r str,
    parameters: &'r str,
}

impl<'r> ExtensionOffer<'r> {
    /// The name, as sent.
    pub fn name(&self) -> &'r str {
        self.name
    }

    /// The parameters in the order in which they were sent, repeated ones included.
    pub fn parameters(&self) -> ExtensionParameters<'r> {
        ExtensionParameters { line: Cursor { rest: self.parameters } }
    }
}

/// The parameters of one [`ExtensionOffer`].
#[derive(Clone, Debug)]
pub struct ExtensionParameters<'r> {
    line: Cursor<'r>,
}

impl<'r> Iterator for ExtensionParameters<'r> {
    type Item = ExtensionParameter<'r>;

    fn next(&mut self) -> Option<ExtensionParameter<'r>> {
        // The offer was checked as a whole, so that a parameter follows each semicolon.
        if self.line.eat(b';') { self.line.parameter() } else { None }
    }
}

/// `name` or `name=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionParameter<'r> {
    /// The name, as sent.
    pub name: &'r str,
    /// The value, if there is one.
    pub value: Option<ParameterValue<'r>>,
}

/// The value of a parameter. It is a token, whether it was sent quoted or not (RFC 6455 9.1), and
/// compares equal to the text that it means.
#[derive(Clone, Copy, Debug)]
pub struct ParameterValue<'r> {
    /// Without quotes; a backslash can only be an escape, because a token has none.
    raw: &'r str,
}

impl<'r> ParameterValue<'r> {
    /// The characters of the value, all ASCII, without quotes and escapes. Never empty.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + use<'r> {
        self.raw.bytes().filter(|&byte| byte != b'\\')
    }
}

impl PartialEq<str> for ParameterValue<'_> {
    fn eq(&self, other: &str) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl PartialEq<&str> for ParameterValue<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq for ParameterValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl Eq for ParameterValue<'_> {}

/// Reads one element of a list; `None` if there is none.
type Element<'r, T> = fn(&mut Cursor<'r>) -> Option<T>;

/// Whether the lines together are a list of at least one element. RFC 6455 4.3 takes its grammar
/// from RFC 2616 2.1: empty elements do not count, and blanks may stand around each separator.
fn all_elements<'r, T>(values: HeaderValues<'r>, element: Element<'r, T>) -> bool {
    let mut lines = 0;
    let mut elements = 0;
    for value in values {
        lines += 1;
        let Ok(rest) = str::from_utf8(value) else { return false };
        let mut line = Cursor { rest };
        while line.skip_separators() {
            if element(&mut line).is_none() || !line.at_separator() {
                return false;
            }
            elements += 1;
        }
    }
    lines == 0 || elements > 0
}

/// The next element of lines that [`all_elements`] accepted.
fn next_element<'r, T>(
    values: &mut HeaderValues<'r>,
    line: &mut Cursor<'r>,
    element: Element<'r, T>,
) -> Option<T> {
    while !line.skip_separators() {
        line.rest = str::from_utf8(values.next()?).unwrap_or_default();
    }
    element(line)
}

/// What is left of one line.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor<'r> {
    rest: &'r str,
}

impl<'r> Cursor<'r> {
    /// Skips commas and blanks; whether something follows.
    fn skip_separators(&mut self) -> bool {
        self.rest = self.rest.trim_start_matches([',', ' ', '\t']);
        !self.rest.is_empty()
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Skips blanks; whether the line or the element ends here.
    fn at_separator(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty() || self.rest.starts_with(',')
    }

    /// Skips blanks, and this byte if it is next; whether it was.
    fn eat(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.rest.as_bytes().first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn token(&mut self) -> Option<&'r str> {
        self.skip_blanks();
        let end = self.rest.bytes().position(|byte| !is_token_char(byte));
        // The byte at `end` is the first of a character: everything before it is ASCII.
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn subprotocol(&mut self) -> Option<&'r str> {
        self.token()
    }

    // RFC 6455 9.1: extension = extension-token *( ";" extension-param )
    fn extension(&mut self) -> Option<ExtensionOffer<'r>> {
        let name = self.token()?;
        let behind_name = self.rest;
        while self.eat(b';') {
            self.parameter()?;
        }
        let parameters = &behind_name[..behind_name.len() - self.rest.len()];
        Some(ExtensionOffer { name, parameters })
    }

    // RFC 6455 9.1: extension-param = token [ "=" (token | quoted-string) ]
    fn parameter(&mut self) -> Option<ExtensionParameter<'r>> {
        let name = self.token()?;
        let value = if self.eat(b'=') {
            let raw = if self.eat(b'"') { self.quoted()? } else { self.token()? };
            Some(ParameterValue { raw })
        } else {
            None
        };
        Some(ExtensionParameter { name, value })
    }

    /// The rest of a quoted string, whose first quote is gone.
    // RFC 6455 9.1: after unescaping, a quoted value MUST be a token.
    fn quoted(&mut self) -> Option<&'r str> {
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        loop {
            match *bytes.get(at)? {
                b'"' => break,
                b'\\' if is_token_char(*bytes.get(at + 1)?) => at += 2,
                byte if is_token_char(byte) => at += 1,
                _ => return None,
            }
        }
        // Everything before the quote is ASCII, and so is the quote.
        let raw = &self.rest[..at];
        self.rest = &self.rest[at + 1..];
        (!raw.is_empty()).then_some(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(value: &str) -> Option<(ExtensionOffer<'_>, &str)> {
        let mut line = Cursor { rest: value };
        let offer = line.extension()?;
        Some((offer, line.rest))
    }

    #[test]
    fn parameters_are_read_with_blanks_around_every_separator() {
        let (offer, rest) = extension("a ; b ;c=d; e = \"f\\g\" ,h").unwrap();
        assert_eq!((offer.name(), rest), ("a", ",h"));
        let parameters: Vec<_> = offer.parameters().collect();
        let names: Vec<_> = parameters.iter().map(|parameter| parameter.name).collect();
        assert_eq!(names, ["b", "c", "e"]);
        assert_eq!(parameters[0].value, None);
        assert_eq!(parameters[1].value.unwrap(), "d");
        assert_eq!(parameters[2].value.unwrap(), "fg");
        assert_eq!(parameters[2].value.unwrap().bytes().count(), 2);
    }

    #[test]
    fn quoted_and_plain_values_are_equal() {
        let value = |text| extension(text).unwrap().0.parameters().next().unwrap().value.unwrap();
        assert_eq!(value("x;y=10"), value("x;y=\"10\""));
        assert_eq!(value("x;y=10"), value("x;y=\"1\\0\""));
        assert_ne!(value("x;y=10"), value("x;y=\"1\""));
        assert_ne!(value("x;y=10"), "100");
    }

    #[test]
    fn what_the_grammar_does_not_know_is_no_extension() {
        for value in [
            "",
            ";",
            "=",
            "a;",
            "a;;b",
            "a; =b",
            "a;b=",
            "a;b=\"",
            "a;b=\"\"",
            "a;b=\"c",
            "a;b=\"c d\"",
            "a;b=\"c,d\"",
            "a;b=\"c\\",
            "a;b=\"\\\"\"",
            "a;b=\"\u{e9}\"",
            "\"a\"",
        ] {
            assert!(extension(value).is_none(), "{value:?}");
        }
    }
}
