//! Paths and queries.

use std::borrow::Cow;

use crate::http::percent::{self, QueryPairs};
use crate::http::router::Router;

/// Patterns with line ends in between; the last line is the path.
pub fn router(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (patterns, path) = text.rsplit_once('\n').unwrap_or(("", text));
    let mut router: Router<()> = Router::default();
    let mut expected = Vec::new();
    for pattern in patterns.split('\n').take(16) {
        let known = router.iter().any(|route| route.pattern() == pattern);
        if router.entry(pattern).is_ok()
            && !known
            && router.iter().any(|route| route.pattern() == pattern)
            && let Some(fit) = fit(pattern, path)
        {
            expected.push((fit.0, pattern.to_owned(), fit.1, fit.2));
        }
    }
    // Static before parameter before the rest, from the left.
    expected.sort();
    let mut found = Vec::new();
    let nobody: Option<()> = router.find(path, |route, parameters| {
        let values: Vec<_> = parameters.iter().map(|(_, value)| value.to_owned()).collect();
        let kinds = fit(route.pattern(), path).expect("it fits").0;
        let rest = parameters.rest().map(str::to_owned);
        found.push((kinds, route.pattern().to_owned(), values, rest));
        None
    });
    assert_eq!(nobody, None);
    assert_eq!(found, expected);
    let first = router.find(path, |route, _| Some(route.pattern()));
    assert_eq!(first, found.first().map(|(_, pattern, ..)| pattern.as_str()));
}

/// The kinds of the segments, the values of the parameters, and the rest.
type Fit = (Vec<u8>, Vec<String>, Option<String>);

/// How a pattern fits a path, if it does, as one would write it down first.
fn fit(pattern: &str, path: &str) -> Option<Fit> {
    let (mut kinds, mut values) = (Vec::new(), Vec::new());
    let mut path: Vec<&str> = path.strip_prefix('/')?.split('/').rev().collect();
    for segment in pattern.strip_prefix('/')?.split('/') {
        if segment == "*" {
            kinds.push(2);
            path.reverse();
            return (!path.is_empty()).then(|| (kinds, values, Some(path.join("/"))));
        }
        let text = path.pop()?;
        if segment.starts_with(':') {
            if text.is_empty() {
                return None;
            }
            kinds.push(1);
            values.push(text.to_owned());
        } else if segment == text {
            kinds.push(0);
        } else {
            return None;
        }
    }
    path.is_empty().then_some((kinds, values, None))
}

/// A query.
pub fn query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let decoded = percent::decode(text);
    if !text.contains('%') {
        assert!(matches!(decoded, Cow::Borrowed(_)));
    }
    assert!(decoded.len() <= text.len());
    let pairs: Vec<_> = QueryPairs::new(Some(text)).collect();
    assert!(pairs.len() <= text.split('&').count());
    // Encoded by the simplest rule, it comes back.
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    assert_eq!(percent::decode(&encode(text)), text);
    let again: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let again = again.join("&");
    assert_eq!(QueryPairs::new(Some(&again)).collect::<Vec<_>>(), pairs);
}
