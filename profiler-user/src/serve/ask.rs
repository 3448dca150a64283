//! Parameters of a request → the question that they ask.
//!
//! They are the flags of `perf-agent query` without their dashes, and the same parser reads them, so both mean the same. Only flags that a question
//! declares exist here: none of them names a file.

use clap::{ArgAction, Command, Parser};

use super::answer::Refused;

/// Longest list of parameters in a request, bytes, and most of them.
const LONGEST: usize = 8 << 10;
const MOST: usize = 64;

/// The command whose flags are a question's parameters.
pub(super) fn command<Q: Parser>() -> Command {
    Q::command()
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .color(clap::ColorChoice::Never)
}

/// Reads a question.
///
/// # Errors
///
/// What is not understood, and what would be.
pub(super) fn question<Q: Parser>(query: &str) -> Result<Q, Refused> {
    let command = command::<Q>();
    let flags = flags(query, &command)?;
    let matches = command.try_get_matches_from(flags).map_err(|error| Refused::usage(in_words(&error)))?;
    Q::from_arg_matches(&matches).map_err(|error| Refused::usage(in_words(&error)))
}

fn flags(query: &str, command: &Command) -> Result<Vec<String>, Refused> {
    if query.len() > LONGEST {
        return Err(Refused::usage(format!("more than {LONGEST} bytes of parameters")));
    }
    let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    if parts.len() > MOST {
        return Err(Refused::usage(format!("more than {MOST} parameters")));
    }
    let mut flags = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let Some(argument) = command.get_arguments().find(|argument| argument.get_long() == Some(&*name))
        else {
            let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
            let known = if known.is_empty() { "there are none here".to_owned() } else { known.join(", ") };
            return Err(
                Refused::usage(format!("there is no parameter {name:?}")).hint(format!("known: {known}"))
            );
        };
        match (argument.get_action(), &*value) {
            (ArgAction::SetTrue, "" | "true" | "1") => flags.push(format!("--{name}")),
            (ArgAction::SetTrue, "false" | "0") => {}
            (ArgAction::SetTrue, _) => {
                return Err(Refused::usage(format!("{name}={value:?} is neither true nor false")));
            }
            _ => flags.push(format!("--{name}={value}")),
        }
    }
    Ok(flags)
}

/// Percent-decoded, as a form sends it.
fn decoded(text: &str) -> Result<String, Refused> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = tail.get(2..).unwrap_or_default();
                byte.ok_or_else(|| Refused::usage(format!("{text:?} is not percent-encoded")))?
            }
            byte => *byte,
        });
    }
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| Refused::usage("a parameter is not text in UTF-8"))
}

/// The parser's words without its headline and its advice for shells.
fn in_words(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    crate::profile::clean(text.trim_start_matches("error: ").trim().replace('\n', " ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{PartArgs, RangeArgs, RowsArgs, encoded};

    #[derive(Debug, Parser)]
    struct Question {
        #[command(flatten)]
        part: PartArgs,
        #[command(flatten)]
        range: RangeArgs,
        #[command(flatten)]
        rows: RowsArgs,
    }

    #[test]
    fn parameters_mean_what_flags_mean() {
        let asked: Question =
            question("from=-30m&process=%2F%5Eng%2F&pid=7,8&lines&top=5&type=off-cpu").unwrap();
        assert_eq!(asked.part.profile_type, "off-cpu");
        assert_eq!(asked.part.filter().pids, [7, 8]);
        assert!(asked.part.filter().process.is_some_and(|pattern| pattern.matches("nginx")));
        assert_eq!((asked.range.from.to_string(), asked.rows.top), ("-1800000000000ns".to_owned(), 5));
        assert!(asked.rows.is_by_function());
        let asked: Question = question("lines=false&process=a+b%26c").unwrap();
        assert!(!asked.rows.is_by_function());
        assert!(asked.part.filter().process.is_some_and(|pattern| pattern.matches("a b&c")));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (query, wanted) in [
            ("store=/etc", "no parameter \"store\""),
            ("help", "no parameter \"help\""),
            ("from=soon", "soon"),
            ("sort=fastest", "fastest"),
            ("process=/(/", "regular expression"),
            ("process=%zz", "percent-encoded"),
            ("process=%ff", "UTF-8"),
            ("process=%00", "UTF-8"),
            ("process=a&process=b", "cannot be used multiple times"),
            ("lines=maybe", "neither"),
            ("top=-1", "-1"),
        ] {
            let refused = question::<Question>(query).unwrap_err();
            assert_eq!(refused.status.as_u16(), 400);
            assert!(refused.message.contains(wanted), "{query}: {}", refused.message);
        }
        assert!(question::<Question>(&"a=b&".repeat(65)).is_err());
        assert!(question::<Question>(&"a".repeat(9000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(query in "\\PC{0,100}", name in "\\PC{0,40}") {
            let _ = question::<Question>(&query);
            proptest::prop_assert_eq!(decoded(&encoded(&name)).ok(), Some(name));
        }
    }
}
