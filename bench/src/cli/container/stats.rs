//! `tare container stats`.

use clap::Args;
use tare_container::CgroupStatistics;

use crate::cli::print_text;
use crate::held;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tare container stats\n  tare container stats --json web")]
pub(in crate::cli) struct StatsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Containers [default: all]
    names: Vec<String>,
}

pub(super) fn run(args: &StatsArgs) -> anyhow::Result<u8> {
    let records = match &args.names[..] {
        [] => held::all(),
        names => names
            .iter()
            .map(|name| held::find(name).map(|(record, _)| record))
            .collect::<Result<_, _>>()?,
    };
    let mut rows = Vec::new();
    for record in records {
        rows.push((record.name, CgroupStatistics::of(&record.cgroups)?));
    }
    if args.json {
        let json: Vec<_> = rows.iter().map(|(name, statistics)| json(name, statistics)).collect();
        print_text(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
        return Ok(crate::cli::exit::OK);
    }
    let mut text = format!(
        "{:20} {:>12} {:>10} {:>8} {:>14} {:>14}\n",
        "name", "cpu s", "MiB", "pids", "read MiB", "written MiB"
    );
    let show = |value: Option<u64>, unit: f64, digits: usize| match value {
        Some(value) => format!("{:.digits$}", value as f64 / unit),
        None => "-".to_owned(),
    };
    let mib = f64::from(1 << 20);
    for (name, s) in &rows {
        text.push_str(&format!(
            "{name:20} {:>12} {:>10} {:>8} {:>14} {:>14}\n",
            show(s.cpu_used_us, 1e6, 3),
            show(s.memory_current_bytes, mib, 1),
            show(s.pids_current, 1.0, 0),
            show(s.io_read_bytes, mib, 1),
            show(s.io_written_bytes, mib, 1),
        ));
    }
    print_text(&text)?;
    Ok(crate::cli::exit::OK)
}

fn json(name: &str, s: &CgroupStatistics) -> serde_json::Value {
    serde_json::json!({
        "name": name,
        "memory_current_bytes": s.memory_current_bytes,
        "memory_peak_bytes": s.memory_peak_bytes,
        "oom_kills": s.oom_kills,
        "pids_current": s.pids_current,
        "pids_refused": s.pids_refused,
        "cpu_used_us": s.cpu_used_us,
        "cpu_throttled_us": s.cpu_throttled_us,
        "cpu_throttled_periods": s.cpu_throttled_periods,
        "io_read_bytes": s.io_read_bytes,
        "io_written_bytes": s.io_written_bytes,
    })
}
