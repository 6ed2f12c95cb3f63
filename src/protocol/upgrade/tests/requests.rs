//! One test for each kind of hostile input, with the exact status.

use super::*;

#[test]
fn example_request_of_the_rfc_is_accepted() {
    assert_accepted(&head(
        "GET /chat HTTP/1.1",
        &[
            "Host: server.example.com",
            "Upgrade: websocket",
            "Connection: Upgrade",
            KEY,
            "Origin: http://example.com",
            "Sec-WebSocket-Protocol: chat, superchat",
            "Sec-WebSocket-Version: 13",
        ],
    ));
}

#[test]
fn oversized_head_is_431_and_oversized_target_is_414() {
    let blank = "a".repeat(16 * 1024);
    assert_refused(&upgrade_with("", &[&format!("X: {blank}")]), Refusal::HeadTooLarge, 431);
    let target = format!("GET /{} HTTP/1.1", "a".repeat(8 * 1024));
    assert_refused(&head(&target, &VALID), Refusal::TargetTooLong, 414);
    let target = format!("GET /{} HTTP/1.1", "a".repeat(8 * 1024 - 1));
    assert_accepted(&head(&target, &VALID));
}

#[test]
fn more_than_100_header_lines_are_431() {
    let mut lines = VALID.to_vec();
    lines.resize(100, "a: b");
    assert_accepted(&head("GET / HTTP/1.1", &lines));
    lines.push("a: b");
    assert_refused(&head("GET / HTTP/1.1", &lines), Refusal::TooManyHeaders, 431);
    let parsed = parse(&head("GET / HTTP/1.1", &lines)).unwrap_err();
    assert_eq!(parsed, Refusal::TooManyHeaders);
}

#[test]
fn other_methods_are_405() {
    for method in ["POST", "get", "HEAD", "OPTIONS", "G", "M-SEARCH"] {
        let bytes = head(&format!("{method} /chat HTTP/1.1"), &VALID);
        assert_refused(&bytes, Refusal::MethodNotAllowed, 405);
    }
}

#[test]
fn malformed_request_lines_are_400() {
    for line in [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/11.1",
        "GET / http/1.1",
        "GET / HTTQ/1.1",
        "GET / HTTP/1.1a",
        "G(T / HTTP/1.1",
        "/ HTTP/1.1",
        "GET / HTTP /1.1",
        "GET\t/ HTTP/1.1",
    ] {
        assert_refused(&head(line, &VALID), Refusal::MalformedRequestLine, 400);
        assert!(parse(&head(line, &VALID)).is_err(), "{line}");
    }
}

#[test]
fn http_1_0_upgrade_is_400() {
    assert_refused(&head("GET / HTTP/1.0", &VALID), Refusal::UpgradeNeedsHttp11, 400);
    assert_refused(&head("GET / HTTP/1.0", &VALID[1..]), Refusal::UpgradeNeedsHttp11, 400);
}

#[test]
fn other_major_version_is_505_and_higher_minor_version_is_taken() {
    for version in ["2.0", "0.9", "3.1", "9.9"] {
        let bytes = head(&format!("GET / HTTP/{version}"), &VALID);
        assert_refused(&bytes, Refusal::HttpVersion, 505);
        assert_eq!(parse(&bytes).unwrap_err(), Refusal::HttpVersion);
    }
    assert_accepted(&head("GET / HTTP/1.2", &VALID));
    assert_accepted(&head("GET / HTTP/1.9", &VALID));
}

#[test]
fn host_missing_repeated_or_invalid_is_400() {
    assert_refused(&upgrade_with("Host", &[]), Refusal::MissingHost, 400);
    assert_refused(&upgrade_with("", &["host: h.example"]), Refusal::RepeatedHost, 400);
    for host in ["Host:", "Host: a b", "Host: a/b", "Host: u@a", "Host: a:b", "Host: \u{e9}"] {
        assert_refused(&upgrade_with("Host", &[host]), Refusal::InvalidHost, 400);
    }
    // The rule holds for plain requests too, and not for HTTP/1.0.
    assert_eq!(parse(&head("GET / HTTP/1.1", &[])).unwrap_err(), Refusal::MissingHost);
    let bytes = head("GET / HTTP/1.0", &[]);
    assert_eq!(parse(&bytes).unwrap().host(), None);
}

#[test]
fn without_upgrade_or_connection_token_it_is_a_plain_request() {
    for (instead_of, replacement) in [
        ("Upgrade", "Accept: */*"),
        ("Upgrade", "Upgrade: websockets"),
        ("Upgrade", "Upgrade: h2c"),
        ("Upgrade", "Upgrade: websocket/13"),
        ("Connection", "Connection: keep-alive"),
        ("Connection", "Connection: upgraded"),
        ("Connection", "Connection: \"upgrade\""),
    ] {
        let bytes = upgrade_with(instead_of, &[replacement]);
        assert!(!parse(&bytes).unwrap().asks_for_websocket(), "{replacement}");
        assert_refused(&bytes, Refusal::UpgradeRequired, 426);
    }
}

#[test]
fn tokens_are_found_in_lists_in_any_case_and_on_several_lines() {
    for (instead_of, replacements) in [
        ("Upgrade", &["uPgRaDe: WebSocket"][..]),
        ("Upgrade", &["Upgrade: h2c, websocket"]),
        ("Upgrade", &["Upgrade: h2c", "Upgrade: ,WEBSOCKET ,"]),
        ("Connection", &["CONNECTION:keep-alive,\tuPGRADE\t"]),
        ("Connection", &["Connection: keep-alive", "Connection: upgrade"]),
        ("Connection", &["Connection: upgrade, upgrade"]),
    ] {
        assert_accepted(&upgrade_with(instead_of, replacements));
    }
}

#[test]
fn key_missing_repeated_or_not_canonical_is_400() {
    assert_refused(&upgrade_with(KEY, &[]), Refusal::MissingKey, 400);
    assert_refused(&upgrade_with("", &[KEY]), Refusal::RepeatedKey, 400);
    for value in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ== x",
        "dGhlIHNhbXBsZSBub25jZXg=",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZXh4",
        "dGhlIHNhbXBsZSBub25jZ-==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        let bytes = upgrade_with(KEY, &[&format!("Sec-WebSocket-Key: {value}")]);
        assert_refused(&bytes, Refusal::InvalidKey, 400);
    }
}

#[test]
fn version_other_than_13_missing_or_repeated_is_426() {
    let name = "Sec-WebSocket-Version";
    assert_refused(&upgrade_with(name, &[]), Refusal::MissingVersion, 426);
    let repeated = upgrade_with("", &["sec-websocket-version: 13"]);
    assert_refused(&repeated, Refusal::RepeatedVersion, 426);
    for value in ["", "8", "013", "13, 8", "12", "14", "1 3", "13.0", "+13", "13;"] {
        let bytes = upgrade_with(name, &[&format!("{name}: {value}")]);
        assert_refused(&bytes, Refusal::UnsupportedVersion, 426);
    }
}

#[test]
fn malformed_header_lines_are_400() {
    for (line, refusal) in [
        ("no colon", Refusal::MalformedHeader),
        ("NoColon", Refusal::MalformedHeader),
        ("Blank : before", Refusal::MalformedHeader),
        ("Tab\t: before", Refusal::MalformedHeader),
        (": no name", Refusal::MalformedHeader),
        ("(a): b", Refusal::MalformedHeader),
        ("\u{e9}: b", Refusal::MalformedHeader),
        ("a: \0", Refusal::ControlCharacter),
        ("a\0: b", Refusal::ControlCharacter),
        ("a: b\x7f", Refusal::ControlCharacter),
        ("a: \x1b[0m", Refusal::ControlCharacter),
        ("a: b\rc", Refusal::BareCarriageReturn),
        ("a: b\r", Refusal::BareCarriageReturn),
        ("a: b\nc: d", Refusal::BareLineFeed),
        ("a: b\r\n folded", Refusal::FoldedHeader),
        ("a: b\r\n\tfolded", Refusal::FoldedHeader),
        ("a: b\r\n ", Refusal::FoldedHeader),
    ] {
        for lines in [[&[line][..], &VALID].concat(), [&VALID[..], &[line]].concat()] {
            let bytes = head("GET / HTTP/1.1", &lines);
            assert_refused(&bytes, refusal, 400);
            // The parser alone is as strict, so that nobody depends on the scanner for it.
            assert_eq!(parse(&bytes).unwrap_err().status(), 400, "{line:?}");
        }
    }
    let folded_first = head("GET / HTTP/1.1", &[&[" a: b"][..], &VALID].concat());
    assert_refused(&folded_first, Refusal::FoldedHeader, 400);
}

#[test]
fn bare_line_feeds_are_400_everywhere() {
    let valid = upgrade_with("", &[]);
    for at in valid.iter().enumerate().filter(|(_, byte)| **byte == b'\r').map(|(at, _)| at) {
        let mut bytes = valid.clone();
        bytes.remove(at);
        assert_refused(&bytes, Refusal::BareLineFeed, 400);
        assert_eq!(parse(&bytes).unwrap_err(), Refusal::BareLineFeed, "CR at {at} removed");
    }
}

#[test]
fn upgrade_with_a_body_is_400() {
    assert_accepted(&upgrade_with("", &["Content-Length: 0"]));
    for lines in [
        &["Content-Length: 1"][..],
        &["Content-Length: 00"],
        &["Content-Length: 18446744073709551615"],
        &["Transfer-Encoding: chunked"],
    ] {
        assert_refused(&upgrade_with("", lines), Refusal::UpgradeWithBody, 400);
    }
    for lines in [&["Transfer-Encoding:"][..], &["Transfer-Encoding: identity"]] {
        assert_refused(&upgrade_with("", lines), Refusal::InvalidTransferEncoding, 400);
    }
}

#[test]
fn ambiguous_body_lengths_are_400_on_any_request() {
    for (lines, refusal) in [
        (&["Content-Length: 5", "Transfer-Encoding: chunked"][..], Refusal::ConflictingBodyLength),
        (&["Content-Length: 0", "Transfer-Encoding: x"], Refusal::ConflictingBodyLength),
        (&["Content-Length: 5", "Content-Length: 6"], Refusal::InvalidContentLength),
        (&["Content-Length: 5, 6"], Refusal::InvalidContentLength),
        // Even if they agree: whoever else reads this may take another one.
        (&["Content-Length: 7, 7"], Refusal::InvalidContentLength),
        (&["Content-Length: 7", "Content-Length: 7"], Refusal::InvalidContentLength),
        (&["Content-Length: +5"], Refusal::InvalidContentLength),
        (&["Content-Length: -5"], Refusal::InvalidContentLength),
        (&["Content-Length: 0x5"], Refusal::InvalidContentLength),
        (&["Content-Length: 5 5"], Refusal::InvalidContentLength),
        (&["Content-Length: 5,"], Refusal::InvalidContentLength),
        (&["Content-Length: "], Refusal::InvalidContentLength),
        (&["Content-Length: 18446744073709551616"], Refusal::InvalidContentLength),
        (&["Transfer-Encoding: gzip, chunked"], Refusal::InvalidTransferEncoding),
        (&["Transfer-Encoding: chunked, chunked"], Refusal::InvalidTransferEncoding),
        (
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            Refusal::InvalidTransferEncoding,
        ),
        (&["Transfer-Encoding: \u{b}chunked"], Refusal::ControlCharacter),
    ] {
        assert_refused(&upgrade_with("", lines), refusal, 400);
        for request_line in ["GET / HTTP/1.1", "POST / HTTP/1.1"] {
            let bytes = head(request_line, &[&["Host: a"][..], lines].concat());
            assert_eq!(parse(&bytes).unwrap_err(), refusal, "{lines:?}");
        }
    }
    let old = head("POST / HTTP/1.0", &["Transfer-Encoding: chunked"]);
    assert_eq!(parse(&old).unwrap_err(), Refusal::InvalidTransferEncoding);
}

#[test]
fn body_length_of_plain_requests_is_known() {
    for (lines, expected, is_empty) in [
        (&["Host: a"][..], BodyLength::None, true),
        (&["Host: a", "Content-Length: 0"], BodyLength::Bytes(0), true),
        (&["Host: a", "Content-Length: 12"], BodyLength::Bytes(12), false),
        (&["Host: a", "Transfer-Encoding: Chunked"], BodyLength::Chunked, false),
    ] {
        let bytes = head("POST / HTTP/1.1", lines);
        let body_length = parse(&bytes).unwrap().body_length();
        assert_eq!((body_length, body_length.is_empty()), (expected, is_empty));
    }
}

#[test]
fn bytes_behind_the_head_are_left_alone() {
    for behind in [&b"\x81\x85"[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0\n\r"] {
        let request = upgrade_with("", &[]);
        let bytes = [&request[..], behind].concat();
        let (_, head_len) = answer(&bytes).unwrap().unwrap();
        assert_eq!(head_len, request.len());
    }
}

#[test]
fn a_request_torn_at_any_byte_is_accepted() {
    let bytes = upgrade_with("", &["X-Blank:", "X-Tab:\t a\tb \t", "Cookie: a=b; c=d"]);
    let expected = answer(&bytes);
    assert!(expected.as_ref().is_ok_and(Option::is_some));
    for cut in 0..bytes.len() {
        assert_eq!(answer_in_pieces(&bytes, &[cut], &LIMITS), expected);
        assert_eq!(answer(&bytes[..cut]), Ok(None));
    }
    let every_byte: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(answer_in_pieces(&bytes, &every_byte, &LIMITS), expected);
}

#[test]
fn extensions_that_do_not_match_the_grammar_are_400() {
    let name = "Sec-WebSocket-Extensions";
    for value in [
        "",
        ",",
        "a b",
        "a;",
        "a;;b",
        ";a",
        "a=b",
        "a; b=",
        "a; b=\"c",
        "a; b=\"\"",
        "a; b=\"c d\"",
        "a; b=\"c\"d",
        "a, b;",
        "a/b",
        "\"a\"",
        "a; b=c=d",
        "a; \u{e9}",
        "{}",
        "a; b=\"\\",
    ] {
        let bytes = upgrade_with("", &[&format!("{name}: {value}")]);
        assert_refused(&bytes, Refusal::InvalidExtensions, 400);
    }
    // Each line counts.
    let second = upgrade_with("", &[&format!("{name}: a"), &format!("{name}: b;")]);
    assert_refused(&second, Refusal::InvalidExtensions, 400);
}

#[test]
fn unknown_extensions_are_declined_and_offers_can_be_read() {
    let bytes = upgrade_with(
        "",
        &[
            "Sec-WebSocket-Extensions: ,permessage-deflate; a; b=\"1\\0\" ,, __proto__;constructor=1",
            "sec-websocket-extensions: x-last",
            "Sec-WebSocket-Extensions: ",
        ],
    );
    assert_accepted(&bytes);
    let request = parse(&bytes).unwrap();
    let handshake = ServerHandshake::check(&request).unwrap();
    let names: Vec<_> = handshake.extensions().map(|offer| offer.name()).collect();
    assert_eq!(names, ["permessage-deflate", "__proto__", "x-last"]);
    let parameters: Vec<_> = handshake.extensions().next().unwrap().parameters().collect();
    assert_eq!((parameters[0].name, parameters[0].value), ("a", None));
    assert!(parameters[1].value.is_some_and(|value| value == "10"));
    assert_eq!(parameters.len(), 2);
}

#[test]
fn huge_lists_are_read_in_one_pass() {
    // A megabyte: anything that goes back over what it has read would not end.
    let limits = LIMITS.max_head(u32::MAX);
    const LEN: usize = 1024 * 1024;
    for (value, expected) in [
        ("a,".repeat(LEN / 2), Ok(LEN / 2)),
        (",".repeat(LEN) + "a", Ok(1)),
        ("a".to_owned() + &" ".repeat(LEN) + ",b", Ok(2)),
        ("a".to_owned() + &" ".repeat(LEN) + "b", Err(Refusal::InvalidExtensions)),
        ("a".to_owned() + &";b=\"c\\d\"".repeat(LEN / 8), Ok(1)),
        ("a;b=\"".to_owned() + &"\\c".repeat(LEN / 2), Err(Refusal::InvalidExtensions)),
        ("a; b".repeat(LEN / 4), Ok(1)),
    ] {
        let line = format!("Sec-WebSocket-Extensions: {value}");
        let bytes = upgrade_with("", &[&line]);
        let request = Request::parse(&bytes, &limits).unwrap();
        let offers = ServerHandshake::check(&request).map(|it| it.extensions().count());
        assert_eq!(offers, expected, "{}", &value[..16]);
    }
    let line = format!("Sec-WebSocket-Protocol: {}", "a ,\t".repeat(LEN / 4));
    let bytes = upgrade_with("", &[&line]);
    let request = Request::parse(&bytes, &limits).unwrap();
    assert_eq!(ServerHandshake::check(&request).unwrap().subprotocols().count(), LEN / 4);
}

#[test]
fn malformed_subprotocols_are_400() {
    for value in ["", " , ", "a b", "a;b", "a/b", "\"a\"", "a,\u{e9}", "a,(b)"] {
        let bytes = upgrade_with("", &[&format!("Sec-WebSocket-Protocol: {value}")]);
        assert_refused(&bytes, Refusal::InvalidSubprotocols, 400);
    }
}

#[test]
fn only_an_offered_subprotocol_is_answered() {
    let bytes = upgrade_with(
        "",
        &["Sec-WebSocket-Protocol: ,soap\t, wamp", "Sec-WebSocket-Protocol: mqtt,soap"],
    );
    assert_accepted(&bytes);
    let request = parse(&bytes).unwrap();
    let handshake = ServerHandshake::check(&request).unwrap();
    assert!(handshake.subprotocols().eq(["soap", "wamp", "mqtt", "soap"]));
    for offered in ["soap", "wamp", "mqtt"] {
        let mut out = Vec::new();
        handshake.write_response(Some(offered), &[], &mut out).unwrap();
        let response = String::from_utf8(out).unwrap();
        assert!(response.ends_with(&format!("\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n")));
    }
    for other in ["", "SOAP", "xmpp", "soap, wamp", "wam", "wamp\r\nA: b"] {
        let mut out = b"before".to_vec();
        let result = handshake.write_response(Some(other), &[], &mut out);
        assert_eq!(result, Err(InvalidHeader::SubprotocolNotOffered));
        assert_eq!(out, b"before");
    }
}

#[test]
fn other_protocols_are_400_at_once() {
    assert_refused(b"\x16", Refusal::MalformedRequestLine, 400);
    assert_refused(b"PRI *", Refusal::InvalidTarget, 400);
    assert_refused(b"PROXY T", Refusal::InvalidTarget, 400);
    assert_refused(b"\r", Refusal::LeadingEmptyLine, 400);
    assert_refused(b"\x81", Refusal::MalformedRequestLine, 400);
    assert_refused(b"SSH-2.0-x\r", Refusal::MalformedRequestLine, 400);
}

#[test]
fn headers_of_the_application_are_checked() {
    let bytes = upgrade_with("", &[]);
    let request = parse(&bytes).unwrap();
    let handshake = ServerHandshake::check(&request).unwrap();
    for (name, value, expected) in [
        ("X\r\nY", "a", InvalidHeader::Name),
        ("X Y", "a", InvalidHeader::Name),
        ("", "a", InvalidHeader::Name),
        ("X", "a\r\nSet-Cookie: b", InvalidHeader::Value),
        ("X", "a\nb", InvalidHeader::Value),
        ("X", "a\0", InvalidHeader::Value),
        ("X", "\x1b", InvalidHeader::Value),
        ("upgrade", "h2c", InvalidHeader::Reserved),
        ("Sec-WebSocket-Accept", "x", InvalidHeader::Reserved),
        ("SEC-WEBSOCKET-EXTENSIONS", "permessage-deflate", InvalidHeader::Reserved),
        ("Content-Length", "0", InvalidHeader::Reserved),
    ] {
        let mut out = Vec::new();
        let result = handshake.write_response(None, &[("A", "b"), (name, value)], &mut out);
        assert_eq!((result, out.len()), (Err(expected), 0), "{name:?}: {value:?}");
    }
    let mut out = b"before".to_vec();
    handshake.write_response(None, &[("Set-Cookie", "a=\u{e9}"), ("Vary", "")], &mut out).unwrap();
    let response = String::from_utf8(out).unwrap();
    assert!(response.starts_with("beforeHTTP/1.1 101 "));
    assert!(response.ends_with(&format!("{ACCEPT}\r\nSet-Cookie: a=\u{e9}\r\nVary: \r\n\r\n")));
}

#[test]
fn refusals_reflect_nothing() {
    let marker = "reflect-me";
    for bytes in [
        head(&format!("{marker} /{marker}?{marker} HTTP/1.1"), &[&format!("Host: {marker}")]),
        upgrade_with("", &[&format!("{marker}: {marker}"), &format!("Host: {marker}")]),
        upgrade_with("", &[&format!("Sec-WebSocket-Extensions: {marker};")]),
        upgrade_with(KEY, &[&format!("Sec-WebSocket-Key: {marker}")]),
        head(marker, &[]),
    ] {
        let mut out = Vec::new();
        answer(&bytes).unwrap_err().write_response(&mut out);
        assert!(!String::from_utf8(out).unwrap().contains(marker));
    }
}

#[test]
fn fields_of_a_request_can_be_read() {
    let bytes = head(
        "GET http://Other.example:1?x HTTP/1.1",
        &["Host: h.example", "Cookie: a", "X-Obs: \u{e9}", "cookie: \t b \t", "Empty:"],
    );
    let request = parse(&bytes).unwrap();
    assert_eq!(request.target(), "http://Other.example:1?x");
    assert_eq!((request.path(), request.query()), ("/", Some("x")));
    // RFC 9112 3.2.2: the absolute form decides, whatever Host says.
    assert_eq!(request.host(), Some("Other.example:1"));
    assert!(request.header_values("COOKIE").eq([b"a", b"b"]));
    assert_eq!(request.header("x-obs"), Some("\u{e9}".as_bytes()));
    assert_eq!((request.header("empty"), request.header("none")), (Some(&b""[..]), None));
    let names: Vec<_> = request.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "Cookie", "X-Obs", "cookie", "Empty"]);
    assert!(format!("{request:?}").contains("Other.example"));
}

#[test]
fn fragments_and_foreign_forms_of_the_target_are_400() {
    for target in ["/a#b", "#", "*", "chat", "ftp://a/", "http:///", "http://u@a/", "a:80"] {
        let bytes = head(&format!("GET {target} HTTP/1.1"), &VALID);
        assert_refused(&bytes, Refusal::InvalidTarget, 400);
        assert_eq!(parse(&bytes).unwrap_err(), Refusal::InvalidTarget, "{target}");
    }
    let options = head("OPTIONS * HTTP/1.1", &VALID);
    assert_eq!(parse(&options).unwrap().path(), "*");
    assert_accepted(&head("GET ws://h.example/chat HTTP/1.1", &VALID));
}

#[test]
fn a_head_that_is_not_complete_is_refused_by_the_parser() {
    let bytes = upgrade_with("", &[]);
    for len in 0..bytes.len() {
        assert_eq!(parse(&bytes[..len]).unwrap_err(), Refusal::IncompleteHead, "{len}");
    }
    let higher = head("GET / HTTP/1.2", &VALID);
    assert_eq!(parse(&higher[..higher.len() - 1]).unwrap_err(), Refusal::IncompleteHead);
}

#[test]
fn server_and_client_talk_to_each_other() {
    let mut client = ClientHandshake::new([7; 16]);
    let mut wire = Vec::new();
    let extra = [("Origin", "https://h.example"), ("Cookie", "a=b")];
    client.write_request("h.example:80", "/chat?x=y", &["a", "b"], &extra, &mut wire).unwrap();

    let head_len = HeadScanner::new().scan(&wire, &LIMITS).unwrap().unwrap();
    assert_eq!(head_len, wire.len());
    let request = parse(&wire).unwrap();
    assert_eq!((request.path(), request.query()), ("/chat", Some("x=y")));
    assert_eq!(request.header("origin"), Some(&b"https://h.example"[..]));
    let handshake = ServerHandshake::check(&request).unwrap();
    let mut response = Vec::new();
    handshake.write_response(Some("b"), &[("Server", "x")], &mut response).unwrap();

    let expected =
        Established { head_len: response.len(), subprotocol: Some("b".to_owned()), deflate: None };
    response.extend_from_slice(b"\x81\x00");
    assert_eq!(client.read_response(&response, &LIMITS), Ok(Some(expected)));
}

#[test]
fn client_reports_how_it_was_refused() {
    for refusal in Refusal::ALL {
        let mut response = Vec::new();
        refusal.write_response(&mut response);
        let mut client = ClientHandshake::new([0; 16]);
        let result = client.read_response(&response, &LIMITS);
        assert_eq!(result, Err(HandshakeError::Status(refusal.status())));
    }
}
