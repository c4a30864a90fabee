//! The objects of `docs/json.md` that pictures are made of.

use serde::{Deserialize, Deserializer, de};

use crate::error::LineError;
use crate::lines::{Object, json_error};

/// A number that is a string in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hex(pub(crate) u64);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let digits = text
            .strip_prefix("0x")
            .filter(|rest| !rest.starts_with('+'));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.map(Self).ok_or_else(|| {
            let found = de::Unexpected::Str(&text);
            de::Error::invalid_value(found, &"64 bits in hexadecimal with 0x")
        })
    }
}

/// The first object of what a command prints.
#[derive(Clone, Deserialize, Debug)]
pub(crate) struct Header {
    pub(crate) schema: String,
    pub(crate) version: u64,
    pub(crate) command: String,
    pub(crate) pid: u64,
    pub(crate) live: bool,
    /// Whether these are tables of the kernel.
    #[serde(default)]
    pub(crate) kernel: bool,
    pub(crate) page_shift: u32,
    pub(crate) va_bits: u32,
    pub(crate) oa_bits: u32,
    #[serde(rename = "levels")]
    pub(crate) _levels: u64,
    #[serde(rename = "mair")]
    pub(crate) _mair: Hex,
}

/// The last one.
#[derive(Deserialize, Debug)]
pub(crate) struct End {
    pub(crate) changed: u64,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Table {
    pub(crate) level: i8,
    pub(crate) address: Hex,
    pub(crate) frame: Hex,
}

/// What an entry says.
#[derive(Deserialize, Debug)]
pub(crate) struct Said {
    pub(crate) descriptor: Hex,
    pub(crate) kind: String,
    pub(crate) frame: Option<Hex>,
    #[serde(default)]
    pub(crate) el0: String,
    #[serde(default)]
    pub(crate) el1: String,
    #[serde(default)]
    pub(crate) memory: String,
    #[serde(default)]
    pub(crate) shareability: String,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    pub(crate) area: Option<u64>,
    pub(crate) exclusive: Option<bool>,
    pub(crate) writable: Option<bool>,
    pub(crate) marks: Option<u64>,
    pub(crate) gcs: Option<bool>,
    pub(crate) key: Option<u64>,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Entry {
    pub(crate) level: i8,
    pub(crate) address: Hex,
    pub(crate) size: u64,
    #[serde(flatten)]
    pub(crate) said: Said,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Range {
    pub(crate) start: Hex,
    pub(crate) end: Hex,
    pub(crate) pages: u64,
    pub(crate) level: i8,
    pub(crate) consecutive: bool,
    pub(crate) first_frame: Option<Hex>,
    pub(crate) vma: Option<String>,
    pub(crate) name: Option<String>,
    #[serde(flatten)]
    pub(crate) said: Said,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Change {
    pub(crate) level: i8,
    pub(crate) address: Hex,
    pub(crate) old: Hex,
    pub(crate) descriptor: Hex,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Round {
    pub(crate) time_ms: u64,
    pub(crate) round: Option<u64>,
    pub(crate) pages: Option<u64>,
}

#[derive(Deserialize, Debug)]
pub(crate) struct Run {
    pub(crate) round: u64,
    pub(crate) start: Hex,
    pub(crate) end: Hex,
    pub(crate) pages: u64,
    pub(crate) kind: String,
}

/// An object.
#[derive(Debug)]
pub(crate) enum Record {
    Header(Header),
    End(End),
    Table(Table),
    Entry(Entry),
    Range(Range),
    Change(Change),
    Round(Round),
    Run(Run),
    /// Of another type: to be passed over.
    Other,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

impl Record {
    /// What `object` says.
    ///
    /// # Errors
    ///
    /// [`LineError::Json`] where a member is missing or is something else.
    pub(crate) fn parse(object: &Object) -> Result<Self, LineError> {
        let text = &object.text;
        let record = match serde_json::from_str::<Kind<'_>>(text).map(|found| found.kind) {
            Err(error) => Err(error),
            Ok(kind) => match &*kind {
                "header" => serde_json::from_str(text).map(Self::Header),
                "end" => serde_json::from_str(text).map(Self::End),
                "table" => serde_json::from_str(text).map(Self::Table),
                "entry" => serde_json::from_str(text).map(Self::Entry),
                "range" => serde_json::from_str(text).map(Self::Range),
                "change" => serde_json::from_str(text).map(Self::Change),
                "round" => serde_json::from_str(text).map(Self::Round),
                "run" => serde_json::from_str(text).map(Self::Run),
                _ => Ok(Self::Other),
            },
        };
        record.map_err(|error| json_error(&error, text))
    }

    /// Its type.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::End(_) => "end",
            Self::Table(_) => "table",
            Self::Entry(_) => "entry",
            Self::Range(_) => "range",
            Self::Change(_) => "change",
            Self::Round(_) => "round",
            Self::Run(_) => "run",
            Self::Other => "object",
        }
    }
}
