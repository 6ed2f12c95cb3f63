//! Numbers and tables as text.

use std::fmt::Write as _;

/// A number with commas between groups of three digits.
pub(crate) fn grouped(number: f64, decimals: usize) -> String {
    let scale = 10_f64.powi(decimals as i32);
    // Adding zero turns the negative zero of a tiny loss into a plain one.
    let rounded = (number * scale).round() / scale + 0.0;
    let plain = format!("{rounded:.decimals$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, ".{fraction}");
    }
    text
}

/// A Markdown table with columns of even width, numbers to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(2)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (word, &width) in row.iter().zip(&widths) {
            text.push_str(&format!("| {word:>width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                text.push_str(&format!("| {}: ", "-".repeat(width - 1)));
            }
            text.push_str("|\n");
        }
    }
    text
}

/// The middle value; of two, their mean.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0.0, 0), "0");
        assert_eq!(grouped(-0.4, 0), "0");
        assert_eq!(grouped(999.0, 0), "999");
        assert_eq!(grouped(1000.0, 0), "1,000");
        assert_eq!(grouped(-1_234_567.891, 2), "-1,234,567.89");
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn tables_are_markdown_with_even_columns() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["123".to_owned(), String::new()]];
        let expected = "|   a | long |\n| --: | ---: |\n| 123 |      |\n";
        assert_eq!(aligned(&rows), expected);
    }
}
