//! Figures as comma-separated values (RFC 4180), for spreadsheets: the JSON of a run in.

use serde_json::Value;

/// A mode with one result: a line of names, such as `server.rss_bytes`, and a line of values.
pub(crate) fn one_row(figures: &Value) -> String {
    let mut columns = Vec::new();
    flatten("", figures, &mut columns);
    let (names, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
    format!("{}\n{}\n", line(&names), line(&values))
}

/// A mode with a list of results: a line for each, with the columns of the first one.
pub(crate) fn rows(names: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut text = line(&names) + "\n";
    for row in rows {
        text.push_str(&line(&row));
        text.push('\n');
    }
    text
}

fn flatten(name: &str, value: &Value, columns: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name =
                    if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                flatten(&name, value, columns);
            }
        }
        Value::Array(values) => {
            let words: Vec<String> = values.iter().map(scalar).collect();
            columns.push((name.to_owned(), words.join(" ")));
        }
        value => columns.push((name.to_owned(), scalar(value))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn line(fields: &[String]) -> String {
    let quoted: Vec<String> = fields
        .iter()
        .map(|field| {
            if field.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", field.replace('"', "\"\""))
            } else {
                field.clone()
            }
        })
        .collect();
    quoted.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_figures_become_columns() {
        let figures = json!({"a": 1, "b": {"c": 2.5, "d": null}, "e": ["x", 7], "f": "1,\"2\""});
        assert_eq!(one_row(&figures), "a,b.c,b.d,e,f\n1,2.5,,x 7,\"1,\"\"2\"\"\"\n");
        assert_eq!(rows(&["a", "b"], [vec!["1".to_owned(), "2".to_owned()]]), "a,b\n1,2\n");
    }
}
