//! Environment variables that look like settings and are none: most likely a name was misspelt, and its setting has no
//! effect.

use clap::CommandFactory;

use super::Flags;

const PREFIX: &str = "WEIRGATE_";

/// Each of `names` that begins like a setting and is none, with the setting's name closest to it.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let command = Flags::command();
    let known: Vec<String> =
        command.get_arguments().filter_map(|flag| Some(flag.get_env()?.to_str()?.to_owned())).collect();
    let mut unknown: Vec<(String, String)> = names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .filter_map(|name| {
            let likeness =
                |known: &str| strsim::jaro(&name[PREFIX.len()..], known.strip_prefix(PREFIX).unwrap_or(known));
            let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?.clone();
            Some((name, nearest))
        })
        .collect();
    unknown.sort();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        let given = [
            "PATH",
            "WEIRGATE_LISTEN",
            "WEIRGATE_LISTN",
            "WEIRGATE_ANOUNCE",
            "WEIRGATE_RTCLISTEN",
            "WEIRGATE_LOGFORMAT",
            "XWEIRGATE_LISTN",
        ];
        let found = unknown_variables(given.map(str::to_owned));
        let found: Vec<_> = found.iter().map(|(name, nearest)| (name.as_str(), nearest.as_str())).collect();
        let expected = [
            ("WEIRGATE_ANOUNCE", "WEIRGATE_ANNOUNCE"),
            ("WEIRGATE_LISTN", "WEIRGATE_LISTEN"),
            ("WEIRGATE_LOGFORMAT", "WEIRGATE_LOG_FORMAT"),
            ("WEIRGATE_RTCLISTEN", "WEIRGATE_RTC_LISTEN"),
        ];
        assert_eq!(found, expected);
        assert_eq!(unknown_variables(["WEIRGATE_".to_owned()]).len(), 1);
    }
}
