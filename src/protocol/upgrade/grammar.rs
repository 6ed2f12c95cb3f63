//! The few rules of the HTTP grammar that several files of this folder share.
//!
//! Comes in: single bytes and field values. Goes out: yes or no, or a trimmed slice. It never
//! allocates and never looks at a byte twice.

/// RFC 9110 5.6.2: `tchar`, the characters of a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// Whether the byte may stand in a token (RFC 9110 5.6.2).
pub(crate) fn is_token_char(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether the text is a token: not empty, and nothing but token characters.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_char)
}

/// Whether the bytes may be sent as a field value (RFC 9110 5.5): no control character but HTAB,
/// and no blank at either end, which a recipient would cut off.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
        && trim_blanks(value).len() == value.len()
}

/// Cuts off leading and trailing SP and HTAB (RFC 9110 5.6.3: `OWS`).
pub(crate) fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, trimmed; empty elements are left out
/// (RFC 9110 5.6.1.2). Elements are not checked.
pub(crate) fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_blanks).filter(|element| !element.is_empty())
}

/// Index of the first control character: below 0x20, or 0x7f. Looks at eight bytes at a time.
pub(super) fn find_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let below_space = word.wrapping_sub(0x20 * ONES) & !word & TOPS;
        let delete = word ^ (0x7f * ONES);
        let is_delete = delete.wrapping_sub(ONES) & !delete & TOPS;
        // A borrow can mark a byte wrongly only above a byte that is marked rightly, and only
        // the lowest mark is used.
        let hits = below_space | is_delete;
        if hits != 0 {
            return Some(index * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let control = rest.iter().position(|byte| byte.is_ascii_control())?;
    Some(words.len() * 8 + control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_characters_are_those_of_the_rfc() {
        let separators = b"\"(),/:;<=>?@[\\]{}";
        for byte in 0..=255_u8 {
            let expected = byte.is_ascii_graphic() && !separators.contains(&byte);
            assert_eq!(is_token_char(byte), expected, "{byte:#04x}");
        }
        assert!(!is_token(""));
    }

    #[test]
    fn find_control_agrees_with_the_naive_search() {
        // Every byte value at every position of a word and of the rest, before each neighbour
        // that could borrow or carry.
        for byte in 0..=255_u8 {
            for at in 0..19 {
                for filler in [0x20, 0x21, 0x7e, 0x80, 0xff] {
                    let mut bytes = [filler; 19];
                    bytes[at] = byte;
                    let naive = bytes.iter().position(|byte| byte.is_ascii_control());
                    assert_eq!(find_control(&bytes), naive, "{byte:#04x} at {at}");
                }
            }
        }
        assert_eq!(find_control(b"12345678\x7f\x00"), Some(8));
        assert_eq!(find_control(b"\x1f\x20\x7f\x00aaaa"), Some(0));
        assert_eq!(find_control(b""), None);
    }

    #[test]
    fn list_elements_are_trimmed_and_never_empty() {
        let elements: Vec<&[u8]> = list_elements(b" , a,\t b c ,,d").collect();
        assert_eq!(elements, [&b"a"[..], b"b c", b"d"]);
        assert_eq!(list_elements(b" ,, ").count(), 0);
    }

    #[test]
    fn field_values_have_no_controls_and_no_outer_blanks() {
        assert!(is_field_value(b""));
        assert!(is_field_value("a\tb \u{e9}".as_bytes()));
        for value in ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\x7f", " a", "a\t", "\x1b"] {
            assert!(!is_field_value(value.as_bytes()), "{value:?}");
        }
    }
}
