//! What holds for any bytes, whole or in pieces.

use proptest::prelude::*;

use super::*;

/// A valid request with some bytes replaced, inserted or removed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let valid = upgrade_with(
        "",
        &[
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x; y=\"z\\a\"",
            "Sec-WebSocket-Protocol: soap, wamp",
            "Content-Length: 0",
        ],
    );
    let interesting = prop_oneof![
        Just(b'\r'),
        Just(b'\n'),
        Just(b' '),
        Just(b'\t'),
        Just(b':'),
        Just(b','),
        Just(b';'),
        Just(b'"'),
        Just(b'\\'),
        Just(b'0'),
        any::<u8>(),
    ];
    let change = (any::<prop::sample::Index>(), 0..3_u8, interesting);
    prop::collection::vec(change, 0..6).prop_map(move |changes| {
        let mut bytes = valid.clone();
        for (index, kind, byte) in changes {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// The answer does not depend on the pieces; and scanner and parser agree on what a head is.
fn check_any_bytes(bytes: &[u8], cuts: &[prop::sample::Index]) -> Result<(), TestCaseError> {
    let limits = LIMITS.max_head(700).max_target(200).max_headers(12);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let whole = answer_in_pieces(bytes, &[], &limits);
    prop_assert_eq!(&answer_in_pieces(bytes, &cuts, &limits), &whole);

    let scanned = HeadScanner::new().scan(bytes, &limits);
    let parsed = Request::parse(bytes, &limits);
    if parsed.is_ok() {
        prop_assert!(matches!(scanned, Ok(Some(_))), "only the parser accepts: {:?}", scanned);
    }
    if let (Ok(Some(_)), Err(refusal)) = (scanned, parsed) {
        use Refusal::*;
        let of_the_scanner = matches!(
            refusal,
            MalformedRequestLine
                | LeadingEmptyLine
                | InvalidTarget
                | BareLineFeed
                | FoldedHeader
                | BareCarriageReturn
                | ControlCharacter
                | IncompleteHead
                | TargetTooLong
                | HeadTooLarge
                | TooManyHeaders
                | HttpVersion
        );
        prop_assert!(!of_the_scanner, "the scanner let pass: {refusal:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_segmentation_of_mutated_requests_gives_the_same_answer(
        bytes in mutated(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        check_any_bytes(&bytes, &cuts)?;
    }

    #[test]
    fn any_segmentation_of_random_bytes_gives_the_same_answer(
        start in prop::sample::select(vec![
            "", "GET ", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\r\nA: ",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        check_any_bytes(&[start.as_bytes(), &rest].concat(), &cuts)?;
    }

    #[test]
    fn any_segmentation_of_a_mutated_response_gives_the_same_answer(
        index in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut bytes = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        ).into_bytes();
        let at = index.index(bytes.len());
        bytes[at] = byte;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = ClientHandshake::new(*b"the sample nonce").read_response(&bytes, &LIMITS);
        let mut client = ClientHandshake::new(*b"the sample nonce");
        let mut answer = Ok(None);
        for end in cuts.into_iter().chain([bytes.len()]) {
            answer = client.read_response(&bytes[..end], &LIMITS);
            if answer != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(answer, whole);
    }

    #[test]
    fn random_bytes_never_panic_in_the_client(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let with_start = [b"HTTP/1.1 101 x\r\n", &bytes[..]].concat();
        for bytes in [&bytes, &with_start] {
            let result = ClientHandshake::new([0; 16]).read_response(bytes, &LIMITS);
            prop_assert!(!matches!(result, Ok(Some(_))));
        }
    }

    #[test]
    fn text_of_the_application_never_adds_a_line(name in ".{0,8}", value in ".{0,8}") {
        let mut out = Vec::new();
        let headers = [(&*name, &*value)];
        let result = write_http_response(&mut out, 200, &headers, b"", false);
        if result.is_ok() {
            let mut table = [httparse::EMPTY_HEADER; 4];
            let mut response = httparse::Response::new(&mut table);
            prop_assert!(response.parse(&out).unwrap().is_complete());
            prop_assert_eq!(response.headers.len(), 3);
            prop_assert_eq!(response.headers[1].name, &name);
            prop_assert_eq!(response.headers[1].value, value.as_bytes());
        } else {
            prop_assert!(out.is_empty());
        }
    }
}
