//! Text that does nothing to a terminal.

/// Escapes control characters: each of their bytes becomes a backslash and three octal digits.
#[must_use]
pub fn printable(text: &str) -> String {
    escape(text, |_| false)
}

/// The same for text of several lines, whose ends stay.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    escape(text, |character| character == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if disturbs(character) && !keep(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                out.push_str(&format!("\\{byte:03o}"));
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// Escapes, as JSON does it, the control characters in a JSON text that JSON itself lets stand: its meaning stays.
#[must_use]
pub fn printable_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if disturbs(character) && !character.is_ascii_whitespace() {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, and what turns the direction of the text around it: with these a name shows as another one.
fn disturbs(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_see_no_control_characters() {
        assert_eq!(printable("a\x1b[2J\nb\t"), r"a\033[2J\012b\011");
        assert_eq!(printable("\u{9b}2Jé\x7f"), r"\302\2332Jé\177");
        assert_eq!(printable("cow\u{202e}ko.exe"), r"cow\342\200\256ko.exe");
        assert_eq!(
            printable_json("{\n  \"comm\": \"\u{9b}2J\x7f\"\n}"),
            "{\n  \"comm\": \"\\u009b2J\\u007f\"\n}"
        );
        assert_eq!(printable_lines("a\r\nb\x07\n"), "a\\015\nb\\007\n");
    }
}
