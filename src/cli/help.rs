//! What stands below the options of `--help`: examples, and what else there is to know.
//!
//! Texts have no line ends but those of paragraphs: the parser breaks them at the width of the terminal.

/// Columns that examples and what they do may take together, side by side.
const SIDE_BY_SIDE_MAX: usize = 76;
/// The longest command that has what it does beside it.
const COMMAND_LEN_MAX: usize = 44;

/// How the program's own help is laid out, with its commands in groups, each with a heading and its commands.
pub(super) fn grouped(command: &clap::Command, groups: &[(&str, &[&str])]) -> String {
    let mut left: Vec<&clap::Command> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    let width = left.iter().map(|one| one.get_name().len()).max().unwrap_or(0);
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    let mut add = |heading: &str, commands: Vec<&clap::Command>| {
        if commands.is_empty() {
            return;
        }
        text += &format!("\n\x1b[1m\x1b[4m{heading}:\x1b[0m\n");
        for one in commands {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            text += &format!("  \x1b[1m{:width$}\x1b[0m  {about}\n", one.get_name());
        }
    };
    for (heading, names) in groups {
        let of_group = |one: &&clap::Command| names.contains(&one.get_name());
        let mut inside: Vec<_> = left.extract_if(.., |one| of_group(&&**one)).collect();
        inside.sort_by_key(|one| names.iter().position(|name| *name == one.get_name()));
        add(heading, inside);
    }
    add("More", left);
    text + "\n\x1b[1m\x1b[4mOptions:\x1b[0m\n{options}{after-help}"
}

/// Examples, each a command and what it does, and paragraphs that follow them.
pub(super) fn examples(examples: &[(&str, &str)], notes: &[&str]) -> String {
    let lens = examples.iter().filter(|(_, what)| !what.is_empty()).map(|(command, _)| command.len());
    let width = lens.filter(|len| *len <= COMMAND_LEN_MAX).max().unwrap_or(0);
    let mut lines = vec!["Examples:".to_owned()];
    for (command, what) in examples {
        let fits = command.len() <= width && width + what.len() <= SIDE_BY_SIDE_MAX;
        match what.is_empty() {
            true => lines.push(format!("  {command}")),
            false if fits => lines.push(format!("  {command:width$}  {what}")),
            false => lines.extend([format!("  {command}"), format!("      {what}")]),
        }
    }
    for note in notes {
        lines.extend([String::new(), (*note).to_owned()]);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_example_does_is_beside_it_or_below_it() {
        let long = "amop a-command-that-is-longer-than-what-has-room-beside-it";
        let text = examples(
            &[("amop a", "one"), ("amop bcd", "two"), (long, "three"), ("amop e", "")],
            &["A note."],
        );
        let expected = format!(
            "Examples:\n  amop a    one\n  amop bcd  two\n  {long}\n      three\n  amop e\n\nA note."
        );
        assert_eq!(text, expected);
    }
}
