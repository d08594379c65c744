//! Tables for a terminal.

use std::ops::Range;

use comfy_table::{CellAlignment, LineStyle, Table, presets};

/// Columns without borders, a line under the header.
pub(crate) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table
}

/// Numbers stand on the right.
pub(crate) fn align_right(table: &mut Table, columns: Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
