//! Lines over the steps of a run, as SVG.

use kuva::prelude::{Layout, LinePlot, Plot as Drawn, SvgBackend};
use kuva::render::render::render_multiple;

/// Points that a line has at most; neighbours are averaged beyond that.
const MAX_POINTS: usize = 1000;

/// How much a smoothed value keeps of the one before.
const SMOOTHING: f64 = 0.9;

/// A line.
pub(super) struct Series {
    name: String,
    color: &'static str,
    points: Vec<(f64, f64)>,
}

impl Series {
    /// The line of `points`, a step and a value each; what is no number is left out.
    pub(super) fn new(name: &str, color: &'static str, points: Vec<(f64, f64)>) -> Self {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let points: Vec<_> = points.into_iter().filter(finite).collect();
        let size = points.len().div_ceil(MAX_POINTS).max(1);
        let mean = |points: &[(f64, f64)]| {
            let count = points.len() as f64;
            let (x, y) = points
                .iter()
                .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
            (x / count, y / count)
        };
        Self {
            name: escaped(name),
            color,
            points: points.chunks(size).map(mean).collect(),
        }
    }
}

/// An exponential moving average, freed of its beginning at zero.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut average, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|(_, y)| y.is_finite());
    finite
        .map(|&(x, y)| {
            average = SMOOTHING * average + (1.0 - SMOOTHING) * y;
            weight = SMOOTHING * weight + (1.0 - SMOOTHING);
            (x, average / weight)
        })
        .collect()
}

/// Some lines with a title.
pub(super) struct Plot {
    /// Tells the plots of a page apart.
    pub(super) id: usize,
    pub(super) title: &'static str,
    pub(super) y_label: &'static str,
    pub(super) series: Vec<Series>,
}

impl Plot {
    /// The plot, if there is anything to see.
    pub(super) fn svg(self) -> Option<String> {
        let plots: Vec<Drawn> = self
            .series
            .into_iter()
            .filter(|series| !series.points.is_empty())
            .map(|series| {
                let line = LinePlot::new()
                    .with_data(series.points)
                    .with_color(series.color)
                    .with_stroke_width(1.5);
                Drawn::Line(if series.name.is_empty() {
                    line
                } else {
                    line.with_legend(series.name)
                })
            })
            .collect();
        if plots.is_empty() {
            return None;
        }
        let layout = Layout::auto_from_plots(&plots)
            .with_title(self.title)
            .with_x_label("step")
            .with_y_label(self.y_label)
            .with_width(620.0)
            .with_height(360.0);
        let svg = SvgBackend.render_scene(&render_multiple(plots, layout));
        Some(with_own_clip(&svg, self.id))
    }
}

/// Names the one clip path of a plot after the plot: names inside of an SVG are names of the whole
/// page, and those that are given count all plots of the process.
fn with_own_clip(svg: &str, id: usize) -> String {
    let mut parts = svg.split("kuva-clip-");
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        named += &format!("plot-{id}");
        named += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    named
}

/// Only plain characters: the name stands in the middle of markup.
fn escaped(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | ',' | '_' | '-' | '.' | '/');
    name.chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_averaged_and_gaps_left_out() {
        let points = (0..3000)
            .map(|i| (f64::from(i), f64::from(i % 3)))
            .collect();
        let series = Series::new("a", "#000000", points);
        assert_eq!(series.points.len(), 1000);
        assert_eq!(series.points[1], (4.0, 1.0));
        let series = Series::new("a", "#000000", vec![(0.0, f64::NAN), (1.0, 2.0)]);
        assert_eq!(series.points, [(1.0, 2.0)]);
    }

    #[test]
    fn a_smoothed_constant_is_that_constant() {
        for (_, y) in smoothed(&[(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]) {
            assert!((y - 2.0).abs() < 1e-12, "{y}");
        }
    }

    #[test]
    fn single_points_and_equal_values_are_drawn() {
        for points in [vec![(1.0, 0.0)], vec![(1.0, 0.0), (2.0, 0.0)]] {
            let plot = Plot {
                id: 3,
                title: "Loss",
                y_label: "loss",
                series: vec![Series::new("<b>", "#000000", points)],
            };
            let svg = plot.svg().unwrap();
            assert!(
                svg.starts_with("<svg") && svg.contains("url(#plot-3)"),
                "{svg}"
            );
            assert!(
                svg.contains("_b_") && !svg.contains("<b>") && !svg.contains("NaN"),
                "{svg}"
            );
        }
        let empty = Plot {
            id: 0,
            title: "Loss",
            y_label: "loss",
            series: vec![Series::new("", "#000000", Vec::new())],
        };
        assert_eq!(empty.svg(), None);
    }
}
