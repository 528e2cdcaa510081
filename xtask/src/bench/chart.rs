//! The figures as a bar chart: ours divided by Linux's, on a logarithmic scale.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Aim, Figure};

const WIDTH: u32 = 900;
const ROW: u32 = 34;
const MET: RGBColor = RGBColor(46, 125, 90);
const MISSED: RGBColor = RGBColor(190, 84, 52);

/// Draws the figures that have a ratio.
pub fn draw(figures: &[Figure], path: &Path) -> Result<()> {
    let rows: Vec<(&Figure, f64)> =
        figures.iter().filter_map(|figure| figure.ratio().map(|ratio| (figure, ratio))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let plain = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw {}: {error}", path.display());
    let area = SVGBackend::new(path, (WIDTH, ROW * rows.len() as u32 + 110)).into_drawing_area();
    area.fill(&WHITE).map_err(plain)?;
    let low = rows.iter().map(|(_, ratio)| *ratio).fold(0.05, f64::min) / 1.5;
    let high = rows.iter().map(|(_, ratio)| *ratio).fold(2.0, f64::max) * 2.0;
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("rumprun-bake ÷ Linux guest (the mark is the aim)", ("sans-serif", 18))
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 250)
        .set_label_area_size(LabelAreaPosition::Bottom, 36)
        .build_cartesian_2d((low..high).log_scale(), 0.0..count)
        .map_err(plain)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(plain)?;
    for (index, (figure, ratio)) in rows.iter().enumerate() {
        let bottom = count - index as f64 - 1.0;
        let colour = if figure.met { MET } else { MISSED };
        let bar = Rectangle::new([(low, bottom + 0.2), (*ratio, bottom + 0.8)], colour.filled());
        let text = format!("{ratio:.3}");
        let value = Text::new(text, (ratio * 1.05, bottom + 0.65), ("sans-serif", 13));
        chart.draw_series([bar]).map_err(plain)?;
        chart.draw_series([value]).map_err(plain)?;
        if let Aim::AtMost(aim) | Aim::AtLeast(aim) = figure.aim {
            let mark = PathElement::new([(aim, bottom + 0.08), (aim, bottom + 0.92)], BLACK.stroke_width(2));
            chart.draw_series([mark]).map_err(plain)?;
        }
        let (_, pixel) = chart.backend_coord(&(low, bottom + 0.5));
        let label = Text::new(figure.name.clone(), (14, pixel - 7), ("sans-serif", 14));
        area.draw(&label).map_err(plain)?;
    }
    let one = PathElement::new([(1.0, 0.0), (1.0, count)], BLACK.mix(0.4));
    chart.draw_series([one]).map_err(plain)?;
    area.present().map_err(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compared_figure_is_drawn() {
        let figures = [
            Figure::compared("faster", "ns", 100.0, 1000.0, Aim::AtMost(1.0 / 3.0)),
            Figure::compared("slower", "ns", 1500.0, 1000.0, Aim::AtMost(1.0)),
            Figure::compared("start to first output, microvm", "s", 0.1, 2.0, Aim::AtMost(0.1)),
            Figure::alone("not compared", "MiB", 0.5, Aim::AtMost(1.0)),
        ];
        let path = std::env::temp_dir().join(format!("chart-{}.svg", std::process::id()));
        draw(&figures, &path).unwrap();
        let drawing = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for text in ["faster", "slower", "start to first output, microvm", "0.100", "1.500"] {
            assert!(drawing.contains(text), "{text} is missing");
        }
        assert!(!drawing.contains("not compared"));
    }
}
