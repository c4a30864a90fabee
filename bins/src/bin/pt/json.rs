//! JSON lines. docs/json.md describes the members.

use core::fmt::{self, Display, Write};

use tablewalk_rt::console::Stream;
use tablewalk_walker::Level;

/// The version of the schema: incremented when a member changes its meaning or is removed.
pub(crate) const VERSION: u64 = 2;

/// An object on a separate line, which ends when this is dropped.
pub(crate) struct Json(Stream);

impl Json {
    /// Begins an object of type `kind`.
    pub(crate) fn new(kind: &str) -> Self {
        let mut json = Self(Stream::stdout());
        json.raw(format_args!("{{\"type\":\"{kind}\""));
        json
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(format_args!(",\"{name}\":{value}"))
    }

    /// Writes the process ID, if there is one.
    pub(crate) fn process(&mut self, pid: Option<i32>) -> &mut Self {
        match pid {
            Some(pid) => self.number("pid", pid.unsigned_abs().into()),
            None => self,
        }
    }

    /// Writes the lookup level, as a number.
    pub(crate) fn level(&mut self, level: Level) -> &mut Self {
        match u64::try_from(level.number()) {
            Ok(number) => self.number("level", number),
            Err(_) => self.raw(format_args!(",\"level\":-1")),
        }
    }

    /// Writes a number as a hexadecimal string: not every JSON parser has numbers of 64 bits.
    pub(crate) fn hex(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(format_args!(",\"{name}\":\"{value:#x}\""))
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(format_args!(",\"{name}\":{value}"))
    }

    pub(crate) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.display(name, &value)
    }

    fn display(&mut self, name: &str, value: &dyn Display) -> &mut Self {
        self.raw(format_args!(",\"{name}\":\""));
        // `Stream` remembers the error.
        let _ = write!(Escaped(&mut self.0), "{value}");
        self.raw(format_args!("\""))
    }

    /// Writes a list of names.
    pub(crate) fn list(
        &mut self,
        name: &str,
        values: impl Iterator<Item = &'static str>,
    ) -> &mut Self {
        self.raw(format_args!(",\"{name}\":["));
        let mut separator = "";
        for value in values {
            self.raw(format_args!("{separator}\"{value}\""));
            separator = ",";
        }
        self.raw(format_args!("]"))
    }

    /// Writes text that need not be UTF-8.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.text(name, Lossy(value))
    }

    fn raw(&mut self, text: fmt::Arguments<'_>) -> &mut Self {
        let _ = self.0.write_fmt(text);
        self
    }
}

impl Drop for Json {
    fn drop(&mut self) {
        self.raw(format_args!("}}\n"));
    }
}

/// Writes the characters between the quotes of a string (RFC 8259, section 7).
struct Escaped<'a>(&'a mut Stream);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' => self.0.write_str("\\\"")?,
                '\\' => self.0.write_str("\\\\")?,
                // DEL and the C1 characters need not be escaped, but terminals act on them.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' => {
                    write!(self.0, "\\u{:04x}", u64::from(character))?
                }
                _ => self.0.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Bytes as text, with U+FFFD for bytes that are not UTF-8.
pub(crate) struct Lossy<'a>(pub(crate) &'a [u8]);

impl Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}
