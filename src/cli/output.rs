//! What commands print for people: tables on standard output, progress bars on standard error.

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A table without lines: a row of headings, then the rows, in columns that are as wide as their content. Columns whose
/// number is in `right` are aligned to the right.
pub fn table<const N: usize>(
    headings: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A progress bar on standard error. When standard error is not a terminal or when the command answers with JSON, the
/// progress is logged every 30 seconds instead.
pub struct Bar {
    bar: ProgressBar,
    what: &'static str,
    logged: Cell<Instant>,
}

const LOG_INTERVAL: Duration = Duration::from_secs(30);

impl Bar {
    /// A bar for a job whose length is not known yet. `what` says what the command does, such as `Importing`.
    pub fn new(what: &'static str, json: bool) -> Self {
        let target = match !json && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{prefix} {wide_bar:.cyan/dim} {human_pos}/{human_len} {msg} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(what);
        Self { bar, what, logged: Cell::new(Instant::now()) }
    }

    /// A line with a text that changes and no bar, for steps whose number is not known.
    pub fn steps(json: bool) -> Self {
        let bar = Self::new("", json);
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
            bar.bar.set_style(style);
        }
        bar.bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// Shows that `done` of `of` pieces are done, and what they are.
    pub fn show(&self, done: u64, of: u64, what: impl Into<Cow<'static, str>>) {
        self.bar.set_length(of);
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.logged.get().elapsed() >= LOG_INTERVAL {
            self.logged.set(Instant::now());
            tracing::info!(done, of, "{}", self.what);
        }
        self.say(what);
    }

    /// Shows a text.
    pub fn say(&self, what: impl Into<Cow<'static, str>>) {
        self.bar.set_message(what);
    }
}

/// Removes the bar, also when the command fails.
impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let rows = [["lakeside".to_owned(), "7".to_owned()], ["山".to_owned(), "12".to_owned()]];
        assert_eq!(table(["SLUG", "NOTES"], &[1], rows), "SLUG      NOTES\nlakeside      7\n山           12\n");
    }
}
