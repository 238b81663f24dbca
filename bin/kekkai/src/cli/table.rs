//! Aligned columns: cells end with a tab, and a column is as wide as its widest cell plus three, at least ten.
//!
//! A column is a run of neighbouring lines that have a cell there (as with Go's `text/tabwriter`), so that a line without
//! tabs ends it.

/// The narrowest column.
const MIN_WIDTH: usize = 10;
/// Blanks after the widest cell.
const PADDING: usize = 3;

/// Aligns `text` with the widths that Docker's lists use.
pub(crate) fn align(text: &str) -> String {
    align_with(text, MIN_WIDTH, PADDING)
}

/// Aligns `text`; a column is at least `min_width` wide and `padding` wider than its widest cell.
pub(crate) fn align_with(text: &str, min_width: usize, padding: usize) -> String {
    let ends_with_newline = text.ends_with('\n');
    let body = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<Vec<&str>> = body
        .split('\n')
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines
        .iter()
        .map(|cells| vec![0; cells.len().saturating_sub(1)])
        .collect();
    fill(&lines, &mut widths, 0, lines.len(), 0, (min_width, padding));
    let mut out = String::with_capacity(text.len() * 2);
    for (index, cells) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths[index].get(column) {
                out.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()),
                ));
            }
        }
    }
    if ends_with_newline {
        out.push('\n');
    }
    out
}

fn fill(
    lines: &[Vec<&str>],
    widths: &mut [Vec<usize>],
    from: usize,
    to: usize,
    column: usize,
    (min_width, padding): (usize, usize),
) {
    let mut start = from;
    while start < to {
        if lines[start].len() <= column + 1 {
            start += 1;
            continue;
        }
        let length = lines[start..to]
            .iter()
            .take_while(|cells| cells.len() > column + 1)
            .count();
        let end = start + length;
        let widest = lines[start..end]
            .iter()
            .map(|cells| cells[column].chars().count())
            .max()
            .unwrap_or(0);
        let width = (widest + padding).max(min_width);
        for row in &mut widths[start..end] {
            row[column] = width;
        }
        fill(lines, widths, start, end, column + 1, (min_width, padding));
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        assert_eq!(
            align("CONTAINER ID\tNAMES\tb c\n47335a813b5f\tcli-a\t\n"),
            "CONTAINER ID   NAMES     b c\n47335a813b5f   cli-a     \n"
        );
        assert_eq!(align("a b\nc d\n"), "a b\nc d\n");
    }
}
