//! The sources of a setting. Text is found here by name, in order of precedence, together with its place;
//! [`super::value`] gives it a meaning.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::error::ConfigError;

const KEYS: &[&str] = &[
    "listen",
    "admin-listen",
    "tls",
    "tls-cert",
    "tls-key",
    "acme-domain",
    "acme-contact",
    "acme-dir",
    "acme-directory",
    "acme-ca",
    "allow-origin",
    "rtc-listen",
    "rtc-exclude",
    "announce",
    "ice-server",
    "ice-server-secret",
    "ice-server-lifetime",
    "cores",
    "steering",
    "io",
    "spread",
    "coalesce-max",
    "last-n",
    "auth",
    "auth-key",
    "auth-leeway",
    "sockets-per-address",
    "sockets-per-user",
    "resume-grace",
    "same-user",
    "log",
    "log-format",
    "log-addresses",
    "admin-host",
    "webhook",
    "webhook-secret",
    "webhook-ca",
    "cluster",
    "cluster-creds",
    "cluster-ca",
    "cluster-key",
    "cluster-name",
    "node-name",
    "region",
    "public-url",
];

/// A setting's text and its place.
pub(super) struct Given {
    place: String,
    text: String,
}

impl Given {
    pub(super) fn parse_with<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, (String, String)>,
    ) -> Result<T, ConfigError> {
        parse(self.text.trim()).map_err(|(why, right)| self.wrong(&why, &right))
    }

    pub(super) fn wrong(&self, why: &str, right: &str) -> ConfigError {
        ConfigError::Wrong {
            place: self.place.clone(),
            value: self.text.clone(),
            why: why.to_owned(),
            right: right.to_owned(),
        }
    }
}

pub(super) struct File {
    path: String,
    table: toml::Table,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: name.clone(),
            why: error.to_string(),
            cure: "name a TOML file that this user may read with --config or WEIRGATE_CONFIG, or give neither".into(),
        })?;
        File::parse(name, &text)
    }

    pub(super) fn parse(path: String, text: &str) -> Result<File, ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::File {
            path: path.clone(),
            why: error.to_string().trim_end().to_owned(),
            cure: "write it as TOML, for example: listen = \"0.0.0.0:4443\"".into(),
        })?;
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::File {
                path,
                why: format!("there is no setting `{unknown}`"),
                cure: format!("the settings are: {}", KEYS.join(", ")),
            });
        }
        Ok(File { path, table })
    }

    /// None when the key is not there or its list is empty; every element in order when it is a list.
    fn values(&self, key: &str) -> Result<Option<Vec<Given>>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let elements = match value {
            toml::Value::Array(elements) => elements.as_slice(),
            single => std::slice::from_ref(single),
        };
        if elements.is_empty() {
            return Ok(None);
        }
        let place = format!("key `{key}` of {}", self.path);
        let values = elements.iter().map(|element| match element {
            toml::Value::String(text) => Ok(Given { place: place.clone(), text: text.clone() }),
            toml::Value::Integer(number) => Ok(Given { place: place.clone(), text: number.to_string() }),
            other => Err(Given { place: place.clone(), text: other.to_string() }
                .wrong(&format!("it is of type {}", other.type_str()), "a string, as on the command line")),
        });
        values.collect::<Result<Vec<Given>, ConfigError>>().map(Some)
    }
}

pub(super) struct SettingSources<'a> {
    pub(super) flags: &'a ArgMatches,
    pub(super) file: Option<&'a File>,
}

impl SettingSources<'_> {
    pub(super) fn one(&self, key: &str, default: &str) -> Result<Given, ConfigError> {
        let mut given = self.many(key, &[default])?;
        match (given.pop(), given.is_empty()) {
            (Some(single), true) => Ok(single),
            (Some(last), false) => Err(last.wrong("this setting takes one value, here is a list", "one value")),
            (None, _) => Ok(Given { place: "the default".into(), text: default.to_owned() }),
        }
    }

    /// A file's name, where one is given.
    pub(super) fn path(&self, key: &str) -> Result<Option<(Given, PathBuf)>, ConfigError> {
        let mut given = self.many(key, &[])?;
        let Some(single) = given.pop() else { return Ok(None) };
        if !given.is_empty() || single.text.is_empty() {
            return Err(single.wrong("it names no single file", "the path of one file"));
        }
        let path = PathBuf::from(&single.text);
        Ok(Some((single, path)))
    }

    /// An environment variable that is set but empty counts as not set.
    pub(super) fn many(&self, key: &str, default: &[&str]) -> Result<Vec<Given>, ConfigError> {
        let id = key.replace('-', "_");
        let place = match self.flags.value_source(&id) {
            Some(ValueSource::CommandLine) => Some(format!("--{key}")),
            Some(ValueSource::EnvVariable) => Some(format!("WEIRGATE_{}", id.to_uppercase())),
            _ => None,
        };
        if let Some(place) = place {
            let texts: Vec<&String> = self.flags.get_many::<String>(&id).into_iter().flatten().collect();
            let empty = place.starts_with("WEIRGATE_") && texts.iter().all(|text| text.is_empty());
            if !empty {
                return Ok(texts.into_iter().map(|text| Given { place: place.clone(), text: text.clone() }).collect());
            }
        }
        if let Some(given) = self.file.map(|file| file.values(key)).transpose()?.flatten() {
            return Ok(given);
        }
        Ok(default.iter().map(|text| Given { place: "the default".into(), text: (*text).to_owned() }).collect())
    }
}
