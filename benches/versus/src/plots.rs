//! The plots beside RESULTS.md.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};
use plotters::prelude::{
    ChartBuilder, Circle, DrawingArea, IntoDrawingArea as _, IntoFont as _, LineSeries,
    PathElement, RGBColor, SVGBackend, Text, WHITE,
};
use plotters::style::{Color as _, TextStyle};

use crate::figures::{float, median, rounded};
use crate::results::{Callers, Cell, Results};
use crate::rivals::Kind;

const SIZE: (u32, u32) = (1_180, 520);
const LEGEND_WIDTH: u32 = 150;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const P50: usize = 0;
const P99: usize = 1;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a rival: callers and value.
struct Line {
    kind: Kind,
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    callers: &'static str,
    values: &'static str,
    lines: Vec<Line>,
}

pub(crate) fn throughput(results: &Results, path: &Path) -> Result<()> {
    let rate = |cell: &Cell| Some(median(&cell.cycles_per_s));
    let panel = |title, callers, is_wanted: fn(&Callers) -> bool| Panel {
        title,
        callers,
        values: "cycles per second",
        lines: lines(results, is_wanted, rate),
    };
    let panels = [
        panel("Throughput, threads", "blocking callers", is_threads),
        panel("Throughput, tokio", "tasks", |callers| !is_threads(callers)),
    ];
    draw(path, &panels, &results.kinds)
}

pub(crate) fn latency(results: &Results, path: &Path) -> Result<()> {
    let panel = |title, values, quantile| Panel {
        title,
        callers: "blocking callers",
        values,
        lines: lines(results, is_threads, |cell| {
            let rounds = cell.latencies_us(quantile);
            (!rounds.is_empty()).then(|| median(&rounds))
        }),
    };
    let panels = [
        panel("Latency of a cycle, p50", "microseconds at p50", P50),
        panel("Latency of a cycle, p99", "microseconds at p99", P99),
    ];
    draw(path, &panels, &results.kinds)
}

fn is_threads(callers: &Callers) -> bool {
    matches!(callers, Callers::Threads(_))
}

fn lines(
    results: &Results,
    is_wanted: fn(&Callers) -> bool,
    value: impl Fn(&Cell) -> Option<f64>,
) -> Vec<Line> {
    let points = |kind: Kind| {
        let columns = results.columns.iter().filter(|callers| is_wanted(callers));
        columns
            .filter_map(|callers| {
                let value = value(&results.cells[&(kind, *callers)])?;
                // Nothing that is 0 has a place on a logarithmic scale.
                (value > 0.0).then(|| (float(callers.count() as u64), value))
            })
            .collect()
    };
    let kinds = results.kinds.iter();
    kinds
        .map(|kind| Line {
            kind: *kind,
            points: points(*kind),
        })
        .collect()
}

fn draw(path: &Path, panels: &[Panel], kinds: &[Kind]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let (charts, legend) = root.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let panels: Vec<&Panel> = panels
        .iter()
        .filter(|panel| panel.lines.iter().any(|line| !line.points.is_empty()))
        .collect();
    for (area, panel) in charts
        .split_evenly((1, panels.len().max(1)))
        .iter()
        .zip(panels)
    {
        draw_panel(area, panel)?;
    }
    draw_legend(&legend, kinds)?;
    root.present().map_err(|error| failed(&error))
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Result<()> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let mut ticks: Vec<f64> = points().map(|(callers, _)| *callers).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let fewest = ticks.first().copied().unwrap_or(1.0);
    let most = ticks.last().copied().unwrap_or(1.0);
    let lowest = points().map(|(_, value)| *value).fold(f64::MAX, f64::min);
    let highest = points().map(|(_, value)| *value).fold(f64::MIN, f64::max);
    let callers = (fewest / 1.25..most * 1.25)
        .log_scale()
        .with_key_points(ticks);
    let values = (lowest / 1.3..highest * 1.3)
        .log_scale()
        .with_key_points(steps(lowest / 1.3, highest * 1.3));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 20).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(callers, values)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .x_desc(panel.callers)
        .y_desc(panel.values)
        .x_label_formatter(&|callers| format!("{callers:.0}"))
        .y_label_formatter(&|value| rounded(*value))
        .draw()?;
    // The subject last, so that its line lies on top.
    for line in panel.lines.iter().rev() {
        let (colour, width) = style(line.kind);
        let stroke = colour.stroke_width(width);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), stroke))?;
        chart.draw_series(
            line.points
                .iter()
                .map(|point| Circle::new(*point, width + 1, colour.filled())),
        )?;
    }
    Ok(())
}

/// 1, 2 and 5 times each power of ten in the range.
fn steps(from: f64, until: f64) -> Vec<f64> {
    let mut steps = Vec::new();
    let mut decade = 10_f64.powf(from.log10().floor());
    while decade <= until {
        steps.extend([1.0, 2.0, 5.0].map(|times| times * decade));
        decade *= 10.0;
    }
    steps.retain(|step| (from..=until).contains(step));
    steps
}

fn draw_legend(area: &Area<'_>, kinds: &[Kind]) -> Result<()> {
    let text = TextStyle::from(("sans-serif", 15).into_font()).color(&INK);
    let mut y = 60;
    for kind in kinds {
        let (colour, width) = style(*kind);
        let line = vec![(4, y), (30, y)];
        area.draw(&PathElement::new(line, colour.stroke_width(width)))?;
        area.draw(&Circle::new((17, y), width + 1, colour.filled()))?;
        area.draw(&Text::new(kind.name(), (38, y - 8), text.clone()))?;
        y += 26;
    }
    Ok(())
}

fn style(kind: Kind) -> (RGBColor, u32) {
    match kind {
        Kind::Onceward => (RGBColor(214, 39, 40), 4),
        Kind::Floor => (RGBColor(20, 20, 20), 2),
        Kind::FloorWoken => (RGBColor(90, 90, 90), 2),
        Kind::Raw => (RGBColor(0, 0, 0), 1),
        Kind::Encrypted => (RGBColor(231, 120, 160), 2),
        Kind::Limited => (RGBColor(160, 60, 90), 2),
        Kind::RedbNaive => (RGBColor(158, 158, 158), 2),
        Kind::RedbGrouped => (RGBColor(140, 86, 75), 2),
        Kind::Sqlite => (RGBColor(31, 119, 180), 2),
        Kind::Lmdb => (RGBColor(44, 160, 44), 2),
        Kind::Fjall => (RGBColor(23, 190, 207), 2),
        Kind::Redis => (RGBColor(255, 127, 14), 2),
        Kind::OncewardRedis => (RGBColor(230, 85, 13), 4),
        Kind::Postgres => (RGBColor(148, 103, 189), 2),
        Kind::OncewardPostgres => (RGBColor(106, 61, 154), 4),
    }
}
