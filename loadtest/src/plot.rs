//! Charts as SVG: numbers in, the text of a picture out. Lines over a logarithmic or percentile
//! axis, and bars by name; nothing that needs a font to be measured or a script to run.

use std::fmt::Write as _;

/// A picture with axes.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) x_axis: Axis,
    pub(crate) series: Vec<Series>,
}

/// How the positions of points become places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Axis {
    /// By the logarithm; labels are numbers.
    Logarithmic,
    /// Quantiles, spread so that each further nine takes the same room.
    Percentile,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Position and value; values must be positive.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Bars: for each group, one bar per series.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<String>,
    /// The name of a group, and its values in the order of the series.
    pub(crate) groups: Vec<(String, Vec<Option<f64>>)>,
    /// A value at which a line is drawn: that of the baseline.
    pub(crate) line: Option<f64>,
}

/// Either kind.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    Lines(Chart),
    Bars(Bars),
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 44.0;
/// Room for the numbers below a chart; names of bars need more.
const BOTTOM: f64 = 56.0;
const PLOT_HEIGHT: f64 = 300.0;
const BAR_HEIGHT: f64 = 13.0;
/// Of text beside bars.
const CHARACTER_WIDTH: f64 = 6.0;
const VALUE_WIDTH: f64 = 36.0;

/// The first eight stay apart for most kinds of colour blindness (Okabe and Ito).
const COLOURS: [&str; 12] = [
    "#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800",
    "#7f3c8d", "#888888", "#8b4513", "#4b6a00",
];

/// All pictures below each other, as one SVG file.
pub(crate) fn page(pictures: &[Picture]) -> String {
    let mut body = String::new();
    let mut height = 0.0;
    for picture in pictures {
        let (text, own_height) = match picture {
            Picture::Lines(chart) => lines(chart),
            Picture::Bars(bars) => horizontal_bars(bars),
        };
        let _ = write!(body, "<g transform=\"translate(0,{height:.0})\">\n{text}</g>\n");
        height += own_height;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" \
         width=\"{WIDTH:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn lines(chart: &Chart) -> (String, f64) {
    let mut text = String::new();
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let place = |x: f64| match chart.x_axis {
        Axis::Logarithmic => x.max(f64::MIN_POSITIVE).log10(),
        // 0.9, 0.99 and 0.999 are at 1, 2 and 3.
        Axis::Percentile => -(1.0 - x).max(1e-9).log10(),
    };
    let (x_min, x_max) = range(points().map(|(x, _)| place(*x)));
    let (y_min, y_max) = range(points().map(|(_, y)| y.max(1e-12).log10()));
    // Whole decades, so that there are at least two labels.
    let (y_min, y_max) = (y_min.floor(), y_max.ceil().max(y_min.floor() + 1.0));
    let plot_width = WIDTH - LEFT - RIGHT;
    let to_x = |x: f64| LEFT + (place(x) - x_min) / (x_max - x_min).max(1e-9) * plot_width;
    let to_y = |y: f64| TOP + (y_max - y.max(1e-12).log10()) / (y_max - y_min) * PLOT_HEIGHT;

    heading(&mut text, &chart.title);
    let bottom = TOP + PLOT_HEIGHT;
    let mut decade = y_min as i32;
    while f64::from(decade) <= y_max {
        let y = to_y(10_f64.powi(decade));
        rule(&mut text, LEFT, y, LEFT + plot_width, y);
        label(&mut text, LEFT - 6.0, y + 4.0, "end", &short(10_f64.powi(decade)));
        decade += 1;
    }
    let ticks: Vec<(f64, String)> = match chart.x_axis {
        Axis::Percentile => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
            .into_iter()
            .map(|quantile: f64| (quantile, percentile(quantile)))
            .collect(),
        Axis::Logarithmic => {
            let mut places: Vec<f64> = points().map(|(x, _)| *x).collect();
            places.sort_by(f64::total_cmp);
            places.dedup();
            places.into_iter().map(|x| (x, short(x))).collect()
        }
    };
    for (x, name) in ticks {
        if (x_min - 1e-9..=x_max + 1e-9).contains(&place(x)) {
            rule(&mut text, to_x(x), TOP, to_x(x), bottom);
            label(&mut text, to_x(x), bottom + 18.0, "middle", &name);
        }
    }
    label(&mut text, LEFT + plot_width / 2.0, bottom + 38.0, "middle", &chart.x_label);
    let _ = writeln!(
        text,
        "<text transform=\"translate(18,{:.0}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        TOP + PLOT_HEIGHT / 2.0,
        escape(&chart.y_label)
    );
    for (number, series) in chart.series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let dash = if number >= COLOURS.len() { " stroke-dasharray=\"5 3\"" } else { "" };
        let path: Vec<String> =
            series.points.iter().map(|(x, y)| format!("{:.1},{:.1}", to_x(*x), to_y(*y))).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
        for (x, y) in &series.points {
            if series.points.len() <= 12 {
                let (x, y) = (to_x(*x), to_y(*y));
                let _ = writeln!(
                    text,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
        }
        legend(&mut text, number, colour, &series.name);
    }
    (text, bottom + BOTTOM)
}

fn horizontal_bars(bars: &Bars) -> (String, f64) {
    let mut text = String::new();
    heading(&mut text, &bars.title);
    // Names of cells are long, and a value stands behind the longest bar.
    let longest = bars.groups.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * CHARACTER_WIDTH + 16.0).clamp(LEFT, WIDTH / 2.0);
    let plot_width = WIDTH - left - RIGHT - VALUE_WIDTH;
    let values = bars.groups.iter().flat_map(|(_, values)| values.iter().flatten());
    let most = values.copied().fold(bars.line.unwrap_or(0.0), f64::max).max(1e-12);
    // One bar that is far longer than the line must not flatten all others.
    let most = bars.line.map_or(most, |line| most.min(line * 4.0));
    let to_x = |value: f64| left + value.min(most) / most * plot_width;
    let group_height = BAR_HEIGHT * bars.series.len() as f64 + 10.0;
    let mut y = TOP;
    for (name, values) in &bars.groups {
        label(&mut text, left - 8.0, y + group_height / 2.0, "end", name);
        for (number, value) in values.iter().enumerate() {
            let top = y + BAR_HEIGHT * number as f64;
            let Some(value) = value else { continue };
            let colour = COLOURS[number % COLOURS.len()];
            let _ = writeln!(
                text,
                "<rect x=\"{left:.0}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.0}\" \
                 fill=\"{colour}\"/>",
                to_x(*value) - left,
                BAR_HEIGHT - 2.0
            );
            let shown = if *value < 100.0 { format!("{value:.2}") } else { short(*value) };
            label(&mut text, to_x(*value) + 4.0, top + BAR_HEIGHT - 3.0, "start", &shown);
        }
        y += group_height;
    }
    if let Some(line) = bars.line {
        let x = to_x(line);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{TOP:.0}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#cc0000\" \
             stroke-dasharray=\"4 3\"/>"
        );
    }
    label(&mut text, left + plot_width / 2.0, y + 18.0, "middle", &bars.y_label);
    for (number, name) in bars.series.iter().enumerate() {
        legend(&mut text, number, COLOURS[number % COLOURS.len()], name);
    }
    // The legend may be longer than the bars.
    let legend_end = TOP + 20.0 * bars.series.len() as f64;
    (text, (y + 36.0).max(legend_end + 20.0))
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) =
        values.fold((f64::MAX, f64::MIN), |(least, most), it| (least.min(it), most.max(it)));
    if least > most { (0.0, 1.0) } else { (least, most) }
}

fn heading(text: &mut String, title: &str) {
    let title = escape(title);
    let _ = writeln!(text, "<text x=\"16\" y=\"26\" font-size=\"16\">{title}</text>");
}

fn rule(text: &mut String, x1: f64, y1: f64, x2: f64, y2: f64) {
    let _ = writeln!(
        text,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>"
    );
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    let _ =
        writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn legend(text: &mut String, number: usize, colour: &str, name: &str) {
    let (x, y) = (WIDTH - RIGHT + 30.0, TOP + 20.0 * number as f64);
    let _ = writeln!(
        text,
        "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"14\" height=\"10\" fill=\"{colour}\"/>"
    );
    label(text, x + 20.0, y + 10.0, "start", name);
}

/// As `p99.9`.
fn percentile(quantile: f64) -> String {
    if quantile == 0.0 {
        return "min".to_owned();
    }
    let digits = format!("{:.3}", quantile * 100.0);
    format!("p{}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// As `20`, `16k`, `1.5M`.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        number if number >= 1e9 => (number / 1e9, "G"),
        number if number >= 1e6 => (number / 1e6, "M"),
        number if number >= 1e4 => (number / 1e3, "k"),
        number => (number, ""),
    };
    let digits = if scaled < 1.0 { format!("{scaled:.6}") } else { format!("{scaled:.1}") };
    let trimmed = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if trimmed.is_empty() { "0" } else { trimmed })
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str, what: &str) -> usize {
        text.matches(what).count()
    }

    #[test]
    fn lines_have_axes_points_and_a_legend() {
        let series = |name: &str, factor: f64| Series {
            name: name.to_owned(),
            points: vec![(20.0, 10.0 * factor), (1024.0, 100.0 * factor), (16384.0, 5000.0)],
        };
        let chart = Chart {
            title: "a < b & c".to_owned(),
            x_label: "bytes".to_owned(),
            y_label: "per second".to_owned(),
            x_axis: Axis::Logarithmic,
            series: vec![series("first", 1.0), series("second", 2.0)],
        };
        let svg = page(&[Picture::Lines(chart.clone()), Picture::Lines(chart)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(count(&svg, "<polyline"), 4);
        assert_eq!(count(&svg, "<circle"), 12);
        assert_eq!(count(&svg, "<g "), count(&svg, "</g>"));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains(">16.4k<"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn percentiles_are_spread_by_their_nines() {
        let points = vec![(0.5, 10.0), (0.9, 20.0), (0.99, 40.0), (0.9999, 900.0)];
        let chart = Chart {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            x_axis: Axis::Percentile,
            series: vec![Series { name: "x".to_owned(), points }],
        };
        let svg = page(&[Picture::Lines(chart)]);
        for name in ["p50", "p90", "p99", "p99.9", "p99.99"] {
            assert!(svg.contains(&format!(">{name}<")), "{name}");
        }
        assert!(!svg.contains(">min<"), "nothing was drawn there");
    }

    #[test]
    fn bars_stay_inside_the_picture() {
        let bars = Bars {
            title: "ratios".to_owned(),
            y_label: "times".to_owned(),
            series: vec!["a".to_owned(), "b".to_owned()],
            groups: vec![
                ("x".to_owned(), vec![Some(1.5), None]),
                ("y".to_owned(), vec![Some(40.0); 2]),
            ],
            line: Some(1.0),
        };
        let svg = page(&[Picture::Bars(bars)]);
        assert!(svg.contains("<rect x=\"80\""), "{svg}");
        // Three bars, two legends and the background.
        assert_eq!(count(&svg, "<rect"), 6);
        assert!(svg.contains(">40.00<") && svg.contains(">1.50<"));
        // Where the names are longer, the bars begin further to the right.
        let name = "broadcast to 200, 1 KiB json, 16 a turn, deflate shared".to_owned();
        let long = Bars {
            title: String::new(),
            y_label: String::new(),
            series: vec!["a".to_owned()],
            groups: vec![(name, vec![Some(1.0)])],
            line: None,
        };
        assert!(page(&[Picture::Bars(long)]).contains("<rect x=\"346\""));
        let empty = Bars {
            title: String::new(),
            y_label: String::new(),
            series: Vec::new(),
            groups: Vec::new(),
            line: None,
        };
        assert!(!page(&[Picture::Bars(empty)]).contains("NaN"));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(20.0, "20"), (1024.0, "1024"), (16384.0, "16.4k"), (1e6, "1M"), (0.01, "0.01")]
        {
            assert_eq!(short(number), text);
        }
        assert_eq!(percentile(0.9999), "p99.99");
    }
}
