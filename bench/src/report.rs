//! The table.

use anyhow::{Context, Result};

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Docker's figure.
    pub(crate) docker: String,
    /// Ours.
    pub(crate) kekkai: String,
    /// The figure that the target is about.
    pub(crate) result: String,
    /// Floor and aim of the target.
    pub(crate) target: String,
    /// Whether the floor and the aim are met, where both sides were measured.
    pub(crate) verdict: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Machine, versions, load.
    pub(crate) facts: Vec<String>,
    /// The lines.
    pub(crate) rows: Vec<Row>,
    /// What stands below the table.
    pub(crate) notes: Vec<String>,
}

const BEGIN: &str = "<!-- table: written by `cargo run --release -p kekkai-bench -- --write` -->";
const FIGURES: &str = "<!-- figures: written by the benchmark -->";
const LEGEND: &str = "Times are minimum / median / p99 in milliseconds; ratios are of medians.";
const END: &str = "<!-- end of table -->";

impl Report {
    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            text += &format!("- {fact}\n");
        }
        text += "\n| | Docker | Kekkai | result | floor, aim | met |\n|---|---|---|---|---|---|\n";
        for row in &self.rows {
            text += &format!(
                "| {} | {} | {} | {} | {} | {} |\n",
                row.what, row.docker, row.kekkai, row.result, row.target, row.verdict
            );
        }
        text += &format!("\n{LEGEND}\n");
        for note in &self.notes {
            text += &format!("- {note}\n");
        }
        text
    }

    /// Puts it between the marks in bench/README.md.
    pub(crate) fn write_into_readme(&self) -> Result<()> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let text = std::fs::read_to_string(&path)?;
        let (before, rest) = text
            .split_once(BEGIN)
            .context("bench/README.md has no begin mark")?;
        let (_, after) = rest
            .split_once(END)
            .context("bench/README.md has no end mark")?;
        self.write_headlines(&path.with_file_name("../README.md"))?;
        std::fs::write(
            &path,
            format!("{before}{BEGIN}\n\n{}\n{END}{after}", self.markdown()),
        )?;
        Ok(())
    }

    /// The table without its targets, for the project's README.
    fn write_headlines(&self, path: &std::path::Path) -> Result<()> {
        let text = std::fs::read_to_string(path)?;
        let (before, rest) = text
            .split_once(FIGURES)
            .context("README.md has no figures mark")?;
        let (_, after) = rest.split_once(END).context("README.md has no end mark")?;
        let mut table = String::from("| | Docker | Kekkai | |\n|---|---|---|---|\n");
        for row in &self.rows {
            table += &format!(
                "| {} | {} | {} | {} |\n",
                row.what, row.docker, row.kekkai, row.result
            );
        }
        let facts = self.facts.join("; ");
        let text = format!("{before}{FIGURES}\n\n{table}\n{LEGEND} {facts}.\n\n{END}{after}");
        std::fs::write(path, text)?;
        Ok(())
    }
}

/// `floor` and `aim` of a figure that should be large.
pub(crate) fn at_least(value: Option<f64>, floor: f64, aim: f64) -> String {
    verdict(value, |v| v >= floor, |v| v >= aim)
}

/// `floor` and `aim` of a figure that should be small.
pub(crate) fn at_most(value: Option<f64>, floor: f64, aim: f64) -> String {
    verdict(value, |v| v <= floor, |v| v <= aim)
}

fn verdict(value: Option<f64>, floor: impl Fn(f64) -> bool, aim: impl Fn(f64) -> bool) -> String {
    match value {
        None => "not measured".into(),
        Some(v) if aim(v) => "aim".into(),
        Some(v) if floor(v) => "floor".into(),
        Some(_) => "**missed**".into(),
    }
}
