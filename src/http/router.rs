//! Which pattern a path belongs to.
//!
//! Patterns come in, once, when a server is built; then paths, and out go the values that fit, the
//! most specific first, with what their parameters stand for. It never decodes percent signs and
//! never resolves dot segments: two paths are the same if their bytes are.
//!
//! ```text
//!  /room/lobby     static      only this segment
//!  /room/:id       parameter   any one segment that is not empty
//!  /room/*         the rest    anything, with slashes or empty
//! ```
//!
//! In each segment, from the left, static goes before parameter before the rest. A choice that
//! comes to nothing further right is taken back, so `/room/:id/log` is found beside
//! `/room/lobby`. Every node of the tree is reached on one way only: a path costs at most one
//! visit of each node, however it is made.

use std::fmt;

/// The most parameters of one pattern; their values lie on the stack.
pub(crate) const MAX_PARAMETERS: usize = 16;

/// Patterns with a value each.
pub(crate) struct Router<T> {
    root: Node,
    routes: Vec<Route<T>>,
}

/// A pattern and what belongs to it.
pub(crate) struct Route<T> {
    pattern: String,
    names: Vec<String>,
    pub(crate) value: T,
}

impl<T> Route<T> {
    /// The pattern, as it was given.
    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }
}

/// One segment of some patterns. Indices are those of `routes`.
#[derive(Default)]
struct Node {
    /// Sorted by segment.
    statics: Vec<(String, Node)>,
    parameter: Option<Box<Node>>,
    /// The pattern that ends here.
    end: Option<usize>,
    /// The pattern whose `*` stands behind this segment.
    rest: Option<usize>,
}

/// What the parameters of a pattern stand for in one path, not decoded.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'r> {
    names: &'r [String],
    values: [&'r str; MAX_PARAMETERS],
    rest: Option<&'r str>,
}

impl<'r> Parameters<'r> {
    /// Names and values, from left to right.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'r str, &'r str)> {
        let names = self.names.iter().map(String::as_str);
        names.zip(self.values)
    }

    /// What the `*` stands for.
    pub(crate) fn rest(&self) -> Option<&'r str> {
        self.rest
    }
}

impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).entries(self.rest.map(|rest| ("*", rest))).finish()
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { root: Node::default(), routes: Vec::new() }
    }
}

impl<T> Router<T> {
    /// The value of this pattern, made if there is none.
    ///
    /// # Errors
    ///
    /// What is wrong with the pattern, itself or beside one that was given before.
    pub(crate) fn entry(&mut self, pattern: &str) -> Result<&mut T, String>
    where
        T: Default,
    {
        let segments = parse(pattern).map_err(|what| format!("pattern {pattern:?}: {what}"))?;
        let next = self.routes.len();
        let mut names = Vec::new();
        let mut node = &mut self.root;
        // `parse` sees to it that it is the last one.
        let has_rest = segments.last() == Some(&Segment::Rest);
        for segment in segments {
            match segment {
                Segment::Static(text) => node = node.static_child(text),
                Segment::Parameter(name) => {
                    names.push(name.to_owned());
                    node = node.parameter.get_or_insert_default();
                }
                Segment::Rest => {}
            }
        }
        let place = if has_rest { &mut node.rest } else { &mut node.end };
        let index = *place.get_or_insert(next);
        if index == next {
            self.routes.push(Route { pattern: pattern.to_owned(), names, value: T::default() });
        } else if self.routes[index].names != names {
            let other = &self.routes[index].pattern;
            return Err(format!(
                "pattern {pattern:?} fits the same paths as {other:?}: use the same names in both"
            ));
        }
        Ok(&mut self.routes[index].value)
    }

    /// Shows `visit` every route that fits the path, the most specific first, until it answers.
    pub(crate) fn find<'r, R>(
        &'r self,
        path: &'r str,
        mut visit: impl FnMut(&'r Route<T>, Parameters<'r>) -> Option<R>,
    ) -> Option<R> {
        let mut walk = Walk {
            routes: &self.routes,
            values: [""; MAX_PARAMETERS],
            count: 0,
            visit: &mut visit,
        };
        walk.descend(&self.root, path.strip_prefix('/')?)
    }

    /// All routes, in the order they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route<T>> {
        self.routes.iter()
    }
}

impl<T> fmt::Debug for Router<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Route::pattern)).finish()
    }
}

impl Node {
    fn static_child(&mut self, text: &str) -> &mut Node {
        let place = self.statics.binary_search_by(|(other, _)| other.as_str().cmp(text));
        let index = place.unwrap_or_else(|index| {
            self.statics.insert(index, (text.to_owned(), Node::default()));
            index
        });
        &mut self.statics[index].1
    }
}

/// The search for one path.
struct Walk<'r, 'v, T, R> {
    routes: &'r [Route<T>],
    values: [&'r str; MAX_PARAMETERS],
    count: usize,
    visit: &'v mut dyn FnMut(&'r Route<T>, Parameters<'r>) -> Option<R>,
}

impl<'r, T, R> Walk<'r, '_, T, R> {
    /// `path` follows the slash behind this node's segment. As deep as the longest pattern, not
    /// as the path.
    fn descend(&mut self, node: &'r Node, path: &'r str) -> Option<R> {
        let (segment, behind) = match path.split_once('/') {
            Some((segment, behind)) => (segment, Some(behind)),
            None => (path, None),
        };
        if let Ok(index) = node.statics.binary_search_by(|(text, _)| text.as_str().cmp(segment))
            && let Some(found) = self.step(&node.statics[index].1, behind)
        {
            return Some(found);
        }
        if let Some(child) = &node.parameter
            && !segment.is_empty()
        {
            self.values[self.count] = segment;
            self.count += 1;
            let found = self.step(child, behind);
            self.count -= 1;
            if found.is_some() {
                return found;
            }
        }
        self.offer(node.rest, Some(path))
    }

    fn step(&mut self, node: &'r Node, behind: Option<&'r str>) -> Option<R> {
        match behind {
            Some(path) => self.descend(node, path),
            None => self.offer(node.end, None),
        }
    }

    fn offer(&mut self, route: Option<usize>, rest: Option<&'r str>) -> Option<R> {
        let route = &self.routes[route?];
        let parameters = Parameters { names: &route.names, values: self.values, rest };
        (self.visit)(route, parameters)
    }
}

/// One part of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Segment<'p> {
    Static(&'p str),
    Parameter(&'p str),
    Rest,
}

fn parse(pattern: &str) -> Result<Vec<Segment<'_>>, &'static str> {
    let Some(path) = pattern.strip_prefix('/') else { return Err("it must start with '/'") };
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return Err(
            "it must hold neither blanks nor '?' nor '#'; other characters than ASCII are \
                    written as %XX",
        );
    }
    let mut segments = Vec::new();
    let mut names = Vec::new();
    let mut texts = path.split('/').peekable();
    while let Some(text) = texts.next() {
        if text.starts_with('{') || text.starts_with('<') {
            return Err("a parameter is written :name, and whatever is left *");
        }
        segments.push(match text.strip_prefix(':') {
            Some(name) => {
                let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                if name.is_empty() || !name.bytes().all(word) {
                    return Err("the name behind ':' is made of letters, digits and '_'");
                }
                if names.contains(&name) {
                    return Err("a name stands for one parameter only");
                }
                names.push(name);
                Segment::Parameter(name)
            }
            None if text == "*" && texts.peek().is_none() => Segment::Rest,
            None if text.contains('*') => {
                return Err("'*' can only be the whole last segment");
            }
            None => Segment::Static(text),
        });
    }
    if names.len() > MAX_PARAMETERS {
        return Err("at most 16 parameters are possible");
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn router(patterns: &[&str]) -> Router<()> {
        let mut router = Router::default();
        for pattern in patterns {
            router.entry(pattern).expect("a good pattern");
        }
        router
    }

    /// Every pattern that fits, with parameters, in the order of the search.
    fn all(router: &Router<()>, path: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        router.find(path, |route, parameters| {
            found.push((route.pattern().to_owned(), format!("{parameters:?}")));
            None::<()>
        });
        found
    }

    fn first(router: &Router<()>, path: &str) -> Option<String> {
        router.find(path, |route, parameters| Some(format!("{} {parameters:?}", route.pattern())))
    }

    #[test]
    fn static_goes_before_parameter_before_the_rest() {
        let router = router(&["/*", "/room/*", "/room/:id", "/room/lobby", "/room/:id/log"]);
        for (path, expected) in [
            ("/room/lobby", "/room/lobby {}"),
            ("/room/7", r#"/room/:id {"id": "7"}"#),
            ("/room/lobby/log", r#"/room/:id/log {"id": "lobby"}"#),
            ("/room/7/8", r#"/room/* {"*": "7/8"}"#),
            ("/room/", r#"/room/* {"*": ""}"#),
            ("/room", r#"/* {"*": "room"}"#),
            ("/", r#"/* {"*": ""}"#),
            ("//", r#"/* {"*": "/"}"#),
            ("/Room/lobby", r#"/* {"*": "Room/lobby"}"#),
        ] {
            assert_eq!(first(&router, path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(first(&router, "*"), None);
        assert_eq!(first(&router, ""), None);
    }

    #[test]
    fn whoever_is_not_satisfied_is_shown_the_next() {
        let router = router(&["/:a/:b", "/x/:b", "/x/y", "/:a/y", "/*"]);
        let found: Vec<_> = all(&router, "/x/y").into_iter().map(|(pattern, _)| pattern).collect();
        assert_eq!(found, ["/x/y", "/x/:b", "/:a/y", "/:a/:b", "/*"]);
    }

    #[test]
    fn a_slash_at_the_end_counts() {
        let router = router(&["/a", "/b/", "/:x/c/"]);
        assert_eq!(first(&router, "/a/"), None);
        assert_eq!(first(&router, "/b"), None);
        assert!(first(&router, "/b/").is_some());
        assert_eq!(first(&router, "//c/"), None, "a parameter is never empty");
    }

    #[test]
    fn one_shape_has_one_set_of_names() {
        let mut router = router(&["/a/:id", "/a/:name/log"]);
        assert!(router.entry("/a/:id").is_ok());
        let error = router.entry("/a/:name").expect_err("the same paths");
        assert!(error.contains("/a/:name") && error.contains("/a/:id"), "{error}");
        assert_eq!(router.iter().count(), 2);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        let many = "/:p".to_owned() + &(0..16).map(|i| format!("/:p{i}")).collect::<String>();
        for pattern in [
            "", "a", "*", ":id", "/a b", "/\u{e9}", "/a?b", "/a#b", "/:", "/:a-b", "/:a/:a",
            "/*/a", "/a*", "/**", "/a/*b", &many,
        ] {
            let error = Router::<()>::default().entry(pattern).expect_err(pattern);
            assert!(error.contains(pattern), "{error}");
        }
        for pattern in ["/", "//", "/a:b", "/a/:b_1/*", "/%41", &many[3..]] {
            assert!(Router::<()>::default().entry(pattern).is_ok(), "{pattern}");
        }
    }

    /// Rank per segment, and whether the pattern fits: the definition.
    fn fits(pattern: &str, path: &str) -> Option<Vec<u8>> {
        let mut rank = Vec::new();
        let mut rest = path.strip_prefix('/').map(|path| path.split('/'))?;
        for segment in pattern[1..].split('/') {
            if segment == "*" {
                rest.next()?;
                rank.push(2);
                return Some(rank);
            }
            let part = rest.next()?;
            if segment.starts_with(':') && !part.is_empty() {
                rank.push(1);
            } else if segment == part {
                rank.push(0);
            } else {
                return None;
            }
        }
        rest.next().is_none().then_some(rank)
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_the_definition(
            patterns in prop::collection::vec("(/(a|b|:x|)){1,4}(/\\*)?", 1..12),
            paths in prop::collection::vec("(/(a|b|c|)){1,5}", 1..12),
        ) {
            let mut router = Router::<()>::default();
            let mut known: Vec<String> = Vec::new();
            for pattern in patterns {
                // Names must differ inside a pattern; the same position has the same name.
                let named: Vec<String> = pattern
                    .split('/')
                    .enumerate()
                    .map(|(i, part)| if part == ":x" { format!(":x{i}") } else { part.to_owned() })
                    .collect();
                let named = named.join("/");
                prop_assert!(router.entry(&named).is_ok());
                if !known.contains(&named) {
                    known.push(named);
                }
            }
            for path in paths {
                let mut expected: Vec<(Vec<u8>, &String)> = known
                    .iter()
                    .filter_map(|pattern| Some((fits(pattern, &path)?, pattern)))
                    .collect();
                expected.sort();
                let expected: Vec<String> =
                    expected.into_iter().map(|(_, pattern)| pattern.clone()).collect();
                let found: Vec<String> =
                    all(&router, &path).into_iter().map(|(pattern, _)| pattern).collect();
                prop_assert_eq!(found, expected, "{}", path);
            }
        }
    }
}
