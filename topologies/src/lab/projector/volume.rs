//! Which files a directory holds, as Kubernetes' projected volumes have it. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use super::Secrets;

/// One `--volume`: a Secret in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    dir: PathBuf,
    secret: String,
    /// Key to file name; empty: every key under its own name.
    items: Vec<(String, String)>,
}

/// What is wrong with a `--volume`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\": {problem}; write DIR=SECRET or DIR=SECRET:KEY>FILE,KEY>FILE")]
pub(crate) struct SourceError {
    text: String,
    problem: &'static str,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let fail = |problem| SourceError { text: text.into(), problem };
        let (dir, rest) = text.split_once('=').ok_or_else(|| fail("the directory is missing"))?;
        let (secret, items) = rest.split_once(':').unwrap_or((rest, ""));
        if dir.is_empty() || secret.is_empty() {
            return Err(fail("directory and Secret have names"));
        }
        let item = |item: &str| match item.split_once('>') {
            Some((key, file)) if is_file_name(key) && is_file_name(file) => Ok((key.to_owned(), file.to_owned())),
            _ => Err(fail("an item is not KEY>FILE")),
        };
        let items = items.split(',').filter(|text| !text.is_empty()).map(item).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.into(), secret: secret.into(), items })
    }
}

/// A directory with all that goes into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) dir: PathBuf,
    sources: Vec<Source>,
}

impl Volume {
    /// Groups sources by their directory.
    pub(crate) fn gather(sources: Vec<Source>) -> Vec<Self> {
        let mut volumes: Vec<Self> = Vec::new();
        for source in sources {
            match volumes.iter_mut().find(|volume| volume.dir == source.dir) {
                Some(volume) => volume.sources.push(source),
                None => volumes.push(Self { dir: source.dir.clone(), sources: vec![source] }),
            }
        }
        volumes
    }

    pub(crate) fn has(&self, secret: &str) -> bool {
        self.sources.iter().any(|source| source.secret == secret)
    }

    /// File names and contents. Secrets and keys that are not there leave their files out; the later source wins.
    pub(crate) fn files(&self, secrets: &Secrets) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for source in &self.sources {
            let Some(data) = secrets.get(&source.secret) else { continue };
            for (key, content) in data {
                let names: Vec<&String> = match source.items.as_slice() {
                    [] => vec![key],
                    items => items.iter().filter(|(from, _)| from == key).map(|(_, to)| to).collect(),
                };
                for name in names.into_iter().filter(|name| is_file_name(name)) {
                    files.insert(name.clone(), content.clone());
                }
            }
        }
        files
    }
}

/// A name inside the directory; those with two dots in front are the projector's own.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && !name.starts_with("..") && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(all: &[(&str, &[(&str, &str)])]) -> Secrets {
        let data = |keys: &[(&str, &str)]| {
            keys.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
        };
        all.iter().map(|(name, keys)| ((*name).to_owned(), data(keys))).collect()
    }

    #[test]
    fn directories_hold_what_their_secrets_say() {
        let sources = ["/a=one", "/b=one:tls.crt>own.crt", "/a=two:x>tls.crt", "/a=missing"];
        let volumes = Volume::gather(sources.iter().map(|text| text.parse().unwrap()).collect());
        let secrets = secrets(&[
            ("one", &[("tls.crt", "1"), ("tls.key", "2"), ("..data", "evil"), ("a/b", "evil")]),
            ("two", &[("x", "3"), ("y", "4")]),
        ]);
        let seen: Vec<String> = volumes
            .iter()
            .map(|volume| {
                let files = volume.files(&secrets);
                let files = files.iter().map(|(name, text)| format!("{name}={}", String::from_utf8_lossy(text)));
                format!("{}: {}", volume.dir.display(), files.collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(seen, ["/a: tls.crt=3 tls.key=2", "/b: own.crt=1"]);
        assert!(volumes[0].has("missing") && !volumes[1].has("two"));
        assert!(volumes[0].files(&Secrets::new()).is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["one", "=one", "/a=", "/a=one:key", "/a=one:key>../up", "/a=one:key>"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
