//! How a failed command says what failed.

/// The error and its causes on one line. Some errors already end with their cause, which is not
/// said twice.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("os error 2")
            .context("cannot read plan.json: os error 2")
            .context("not a bundle");
        assert_eq!(
            describe(&error),
            "not a bundle: cannot read plan.json: os error 2"
        );
    }
}
