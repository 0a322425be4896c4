//! What all pages are made of.

/// The command that writes them.
pub(super) const COMMAND: &str = "cargo xtask gen-docs";

/// The beginning of a page: its title, who wrote it, and what it is.
pub(super) fn head(title: &str, text: &str) -> String {
    format!("# {title}\n\nWritten by `{COMMAND}`; a test compares it with the code.\n\n{text}\n")
}

/// A table with a heading for each column; a blank line is before it.
pub(super) fn table<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = format!(
        "\n{}|{}\n",
        line(&columns.map(str::to_owned)),
        "---|".repeat(N)
    );
    for row in rows {
        text += &line(&row);
    }
    text
}

pub(super) fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_in_a_cell_is_no_border() {
        let text = table(["a", "b"], [["x|y".to_owned(), "z".to_owned()]]);
        assert_eq!(text, "\n| a | b |\n|---|---|\n| x\\|y | z |\n");
    }
}
