//! The report as a text table, JSON and CSV.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    account::{Account, Row},
    draw::draw,
};

/// Faults of one sort in one phase that are printed.
const PRINTED_MAX: usize = 3;

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// A directory for each run.
    runs: Vec<PathBuf>,
    /// Write lab.json, lab.csv and lab.svg there.
    #[arg(long)]
    out: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error>;

/// Ends with 1 if anything went wrong that has no excuse.
pub(crate) fn run(args: &ReportArgs) -> Result<ExitCode, Failure> {
    let accounts: Vec<Account> = args.runs.iter().map(|dir| Account::read(dir)).collect::<Result<_, _>>()?;
    print(&accounts);
    if let Some(out) = &args.out {
        fs::create_dir_all(out)?;
        fs::write(out.join("lab.json"), serde_json::to_string_pretty(&as_json(&accounts))? + "\n")?;
        write_csv(&out.join("lab.csv"), &accounts)?;
        draw(&out.join("lab.svg"), &accounts)?;
        println!("written: lab.json, lab.csv, lab.svg in {}", out.display());
    }
    let faults: u64 = accounts.iter().flat_map(|account| &account.rows).map(Row::faults).sum();
    let troubles: usize = accounts.iter().map(|account| account.timeline.troubles.len()).sum();
    if faults == 0 && troubles == 0 {
        println!("nothing was lost, doubled or out of order without an excuse");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{faults} faults without an excuse, {troubles} troubles with nodes");
    Ok(ExitCode::FAILURE)
}

/// Middle, 99th of a hundred and longest, in milliseconds.
fn delays(delays: &Histogram<u64>) -> [f64; 3] {
    [delays.value_at_quantile(0.5), delays.value_at_quantile(0.99), delays.max()]
        .map(|nanoseconds| nanoseconds as f64 / 1e6)
}

fn codes(row: &Row) -> String {
    let codes: Vec<String> = row.codes.iter().map(|(code, count)| format!("{code}:{count}")).collect();
    if codes.is_empty() { "-".to_owned() } else { codes.join(" ") }
}

fn print(accounts: &[Account]) {
    if let Some(Account { timeline, .. }) = accounts.first() {
        println!(
            "# {}, {} processors; messages of {} B",
            timeline.kernel, timeline.processors, timeline.payload
        );
    }
    println!(
        "# delays in ms since a message was due: p50, p99, longest; unicast until the answer, multicast until each copy"
    );
    for account in accounts {
        let timeline = &account.timeline;
        println!(
            "\n{}: {} nodes, {} links, publishers {:?}, subscribers {:?}, {} messages/s each; load before {:.2}, at the end {:.2}",
            timeline.topology,
            timeline.nodes,
            timeline.links,
            timeline.publishers,
            timeline.subscribers,
            timeline.rate,
            timeline.load_before,
            timeline.load_after,
        );
        println!(
            "{:<44} {:>8} {:>8} {:<16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>24} {:>24}",
            "what was done",
            "unicasts",
            "code 0",
            "other codes",
            "copies",
            "missing",
            "doubled",
            "disord.",
            "excused",
            "faults",
            "unicast ms",
            "multicast ms",
        );
        for row in &account.rows {
            let [unicast, multicast] = [&row.unicast_delays, &row.multicast_delays].map(|histogram| {
                let [p50, p99, longest] = delays(histogram);
                format!("{p50:.2} {p99:.2} {longest:.1}")
            });
            println!(
                "{:<44} {:>8} {:>8} {:<16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>24} {:>24}",
                row.phase,
                row.unicasts,
                row.answered,
                codes(row),
                row.copies,
                row.missing,
                row.doubled,
                row.disordered,
                row.excused,
                row.faults(),
                unicast,
                multicast,
            );
        }
        for trouble in &timeline.troubles {
            println!("  trouble: {trouble}");
        }
        for ((phase, sort), faults) in &account.faults {
            println!("  {phase}: {} × {sort:?}", faults.count);
            for fault in faults.told.iter().take(PRINTED_MAX) {
                println!("    {fault}");
            }
        }
    }
    println!();
}

fn row_json(row: &Row) -> Value {
    let [unicast, multicast] = [&row.unicast_delays, &row.multicast_delays].map(|histogram| {
        let [p50, p99, longest] = delays(histogram);
        json!({ "p50_ms": p50, "p99_ms": p99, "longest_ms": longest })
    });
    json!({
        "what": row.phase, "seconds": row.seconds, "unicasts": row.unicasts, "answered_0": row.answered,
        "other_codes": row.codes, "other_codes_but_delivered": row.taken, "multicasts": row.multicasts,
        "multicasts_refused": row.refused, "copies_expected": row.copies,
        "copies_delivered": row.copies - row.missing, "copies_missing": row.missing, "doubled": row.doubled,
        "disordered": row.disordered, "excused": row.excused, "faults": row.faults(),
        "unicast_delay": unicast, "multicast_delay": multicast,
    })
}

fn as_json(accounts: &[Account]) -> Value {
    let runs = accounts.iter().map(|account| {
        let rows: Vec<Value> = account.rows.iter().map(row_json).collect();
        let faults: Vec<Value> = account
            .faults
            .iter()
            .map(|((phase, sort), faults)| json!({ "what": phase, "sort": sort, "faults": faults }))
            .collect();
        json!({ "run": account.timeline, "rows": rows, "faults": faults })
    });
    runs.collect()
}

fn write_csv(path: &Path, accounts: &[Account]) -> Result<(), Failure> {
    let mut csv = fs::File::create(path)?;
    writeln!(
        csv,
        "topology,what,seconds,unicasts,answered_0,other_codes,multicasts,refused,copies,missing,doubled,disordered,\
         excused,faults,unicast_p50_ms,unicast_p99_ms,unicast_longest_ms,multicast_p50_ms,multicast_p99_ms,\
         multicast_longest_ms"
    )?;
    for row in accounts.iter().flat_map(|account| &account.rows) {
        let figures = [&row.unicast_delays, &row.multicast_delays].map(delays).concat();
        let figures: Vec<String> = figures.iter().map(|figure| format!("{figure:.3}")).collect();
        writeln!(
            csv,
            "\"{}\",\"{}\",{:.1},{},{},{},{},{},{},{},{},{},{},{},{}",
            row.topology,
            row.phase,
            row.seconds,
            row.unicasts,
            row.answered,
            codes(row),
            row.multicasts,
            row.refused,
            row.copies,
            row.missing,
            row.doubled,
            row.disordered,
            row.excused,
            row.faults(),
            figures.join(","),
        )?;
    }
    Ok(())
}
