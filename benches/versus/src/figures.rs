//! Medians, spreads, and how figures are written.

use std::time::Duration;

#[expect(
    clippy::cast_precision_loss,
    reason = "figures are rounded to fewer digits than that"
)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    float(count) / time.as_secs_f64()
}

/// Of at least one figure.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// How far the rounds are apart: (max - min) / median.
pub(crate) fn spread(figures: &[f64]) -> f64 {
    let most = figures.iter().copied().fold(f64::MIN, f64::max);
    let least = figures.iter().copied().fold(f64::MAX, f64::min);
    match median(figures) {
        0.0 => 0.0,
        median => (most - least) / median,
    }
}

/// Three digits that count, and commas between thousands.
pub(crate) fn rounded(figure: f64) -> String {
    if figure > 0.0 && figure < 10.0 {
        return format!("{figure:.2}");
    }
    let mut step = 1.0;
    while figure / step >= 1_000.0 {
        step *= 10.0;
    }
    let digits = format!("{:.0}", (figure / step).round() * step);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn with_spread(figures: &[f64]) -> String {
    let percent = spread(figures) * 100.0;
    format!("{} ({percent:.0}%)", rounded(median(figures)))
}

#[cfg(test)]
mod tests {
    use super::{rounded, spread, with_spread};

    #[test]
    fn figures_are_rounded_to_three_digits() {
        let figures = [0.0, 1.234, 12.3, 999.4, 1_234.0, 49_960.0, 3_456_789.0];
        let written = ["0", "1.23", "12", "999", "1,230", "50,000", "3,460,000"];
        assert_eq!(figures.map(rounded), written);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert!((spread(&[90.0, 120.0, 100.0]) - 0.3).abs() < 1e-9);
        assert_eq!(with_spread(&[900.0, 1_200.0, 1_000.0]), "1,000 (30%)");
    }
}
