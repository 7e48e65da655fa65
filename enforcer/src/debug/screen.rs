//! Tables for people: as wide as the terminal, coloured only there.
//!
//! Input: rows of cells. Output: text. Invariant: what is written into a pipe or a file holds no escape
//! sequences, and no line of it is cut or wrapped.

use std::io::IsTerminal as _;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

/// Where the text goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Columns; `None` where it does not matter.
    width: Option<u16>,
    /// Lines; `None` where it does not matter.
    height: Option<u16>,
    colour: bool,
}

/// What a cell says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Worth,
}

impl Screen {
    /// Standard output, as it is now: a terminal may have another size a moment later.
    pub(super) fn of_stdout() -> Self {
        if !Self::is_terminal() {
            return Self { width: None, height: None, colour: false };
        }
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (width, height) = size().unzip();
        Self { width, height, colour }
    }

    /// Whether standard output is a terminal.
    pub(super) fn is_terminal() -> bool {
        std::io::stdout().is_terminal()
    }

    /// Whether it is a terminal with fewer columns.
    pub(super) fn is_narrower_than(&self, columns: u16) -> bool {
        self.width.is_some_and(|width| width < columns)
    }

    /// Lines that are seen at once.
    pub(super) fn height(&self) -> usize {
        self.height.map_or(usize::MAX, usize::from)
    }

    /// A line above a table.
    pub(super) fn title(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1m{text}\u{1b}[0m\n") } else { format!("{text}\n") }
    }

    /// A table with these columns; nothing where there are no rows.
    pub(super) fn table<const N: usize>(
        &self,
        header: [&str; N],
        rows: impl IntoIterator<Item = [(String, Tone); N]>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width)
            }
            None => table.force_no_tty().set_content_arrangement(ContentArrangement::Disabled),
        };
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(header.map(|name| self.cell(name, Tone::Plain, true)));
        for row in rows {
            table.add_row(row.map(|(text, tone)| self.cell(&text, tone, false)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if table.is_empty() {
            return String::new();
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }

    fn cell(&self, text: &str, tone: Tone, bold: bool) -> Cell {
        let cell = Cell::new(text);
        if !self.colour {
            return cell;
        }
        let cell = if bold { cell.add_attribute(Attribute::Bold) } else { cell };
        match tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Worth => cell.fg(Color::Yellow),
        }
    }
}

/// Columns and lines of the terminal; `None` where it does not know, as the first moment of one that
/// `kubectl exec` makes.
fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes a `winsize`, which lives until it returns.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// A cell without a tone.
pub(super) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A cell with one.
pub(super) fn toned(text: impl Into<String>, tone: Tone) -> (String, Tone) {
    (text.into(), tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [[(String, Tone); 2]; 2] {
        [
            [plain("c1"), toned("a long text that does not fit into a narrow terminal", Tone::Bad)],
            [plain("c2"), plain("")],
        ]
    }

    #[test]
    fn a_pipe_gets_whole_lines_without_escape_sequences() {
        let text =
            Screen { width: None, height: None, colour: false }.table(["CLUSTER", "TEXT"], rows());
        assert_eq!(
            text,
            "CLUSTER  TEXT\nc1       a long text that does not fit into a narrow terminal\nc2\n"
        );
    }

    #[test]
    fn a_terminal_gets_lines_of_its_width_and_colours() {
        let text = Screen { width: Some(30), height: None, colour: true }
            .table(["CLUSTER", "TEXT"], rows());
        assert!(text.lines().count() > 3, "{text}");
        assert!(text.contains("\u{1b}["), "{text:?}");
        let plain = Screen { width: Some(30), height: None, colour: false }
            .table(["CLUSTER", "TEXT"], rows());
        assert!(plain.lines().all(|line| line.chars().count() <= 30), "{plain}");
    }

    #[test]
    fn a_table_without_rows_is_nothing() {
        let none: [[(String, Tone); 1]; 0] = [];
        assert_eq!(
            Screen { width: None, height: None, colour: false }.table(["CLUSTER"], none),
            ""
        );
    }
}
