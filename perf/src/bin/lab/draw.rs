//! The longest delay in each tenth of a second, and what was done to the network meanwhile.

use std::{collections::BTreeMap, path::Path};

use plotters::prelude::*;

use crate::{
    account::Account,
    events::{QUIET, Timeline},
};

const WIDTH: u32 = 1200;
const HEIGHT_EACH: u32 = 260;
/// Of a point, in nanoseconds.
const BIN: u64 = 100_000_000;
/// Milliseconds.
const RANGE: std::ops::Range<f64> = 0.1..100_000.0;

pub(crate) fn draw(path: &Path, accounts: &[Account]) -> Result<(), Box<dyn std::error::Error>> {
    let height = HEIGHT_EACH * accounts.len().max(1) as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, account) in root.split_evenly((accounts.len().max(1), 1)).iter().zip(accounts) {
        let Timeline { topology, phases, .. } = &account.timeline;
        let Some((first, last)) = phases.first().zip(phases.last()) else { continue };
        let seconds = |at: u64| at.saturating_sub(first.begin) as f64 / 1e9;
        let mut chart = ChartBuilder::on(area)
            .caption(
                format!("{topology}: longest delay in each 0.1 s, ms; unicast blue, multicast red"),
                ("sans-serif", 16),
            )
            .margin(10)
            .x_label_area_size(34)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..seconds(last.end), RANGE.log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .x_desc("seconds")
            .y_label_formatter(&|milliseconds| format!("{milliseconds}"))
            .draw()?;
        for (index, phase) in phases.iter().filter(|phase| phase.name != QUIET).enumerate() {
            let (from, to) = (seconds(phase.begin), seconds(phase.end));
            let shade = Rectangle::new([(from, RANGE.start), (to, RANGE.end)], BLACK.mix(0.07).filled());
            // Names are longer than phases are wide: three rows of them.
            let height = RANGE.end * [0.8, 0.27, 0.09][index % 3];
            let name = Text::new(phase.name.clone(), (from, height), ("sans-serif", 11));
            chart.draw_series([shade])?;
            chart.draw_series([name])?;
        }
        for (is_multicast, colour) in [(false, BLUE), (true, RED)] {
            let mut longest = BTreeMap::<u64, u64>::new();
            for delay in account.delays.iter().filter(|delay| delay.is_multicast == is_multicast) {
                let bin = longest.entry(delay.due.saturating_sub(first.begin) / BIN).or_default();
                *bin = delay.nanoseconds.max(*bin);
            }
            let points = longest.iter().map(|(bin, delay)| {
                ((bin * BIN) as f64 / 1e9, (*delay as f64 / 1e6).clamp(RANGE.start, RANGE.end))
            });
            chart.draw_series(LineSeries::new(points, colour))?;
        }
    }
    root.present()?;
    Ok(())
}
