//! Lines of a program on their way to the console.

use core::fmt::{self, Write};

use heapless::Vec;
use tablewalk_rt::print;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, OwnedFd};

/// Text in which control characters are spelled out, so that no program begins a line of its own, as
/// with a carriage return, or wipes out another's.
struct Visible<'a>(&'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_char(character)?,
                '\0'..'\x20' | '\x7f'..='\u{9f}' => write!(f, "\\x{:02x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Lines, each of which is printed after two spaces.
pub(crate) struct IndentedLines {
    line: Vec<u8, 256>,
    /// Whether the beginning of the line has been printed.
    begun: bool,
}

impl IndentedLines {
    pub(crate) const fn new() -> Self {
        Self {
            line: Vec::new(),
            begun: false,
        }
    }

    /// Passes on what one read returns; the number of bytes, 0 at the end.
    pub(crate) fn copy(&mut self, from: &OwnedFd) -> Result<usize, Errno> {
        let mut bytes = [0; 512];
        let read = file::read(from, &mut bytes)?;
        for &byte in bytes.iter().take(read) {
            if byte == b'\n' {
                // Some end lines in both characters.
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                self.finish();
            } else if self.line.push(byte).is_err() {
                self.print("");
                let _emptied = self.line.push(byte);
            }
        }
        Ok(read)
    }

    /// Prints what there is of a line, as far as it is whole characters, and `end` with it: what is
    /// written at once stays one line in the kernel log.
    fn print(&mut self, end: &str) {
        let indentation = if self.begun { "" } else { "  " };
        let whole = match core::str::from_utf8(&self.line) {
            Ok(_) => self.line.len(),
            // The rest of a character comes with the next bytes.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => 0,
        };
        let (text, rest) = self.line.split_at_checked(whole).unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok(text) if whole > 0 || self.line.is_empty() => {
                print!("{indentation}{}{end}", Visible(text))
            }
            _ => print!("{indentation}# not UTF-8{end}"),
        }
        let rest = Vec::from_slice(if whole == 0 { &[] } else { rest });
        self.line = rest.unwrap_or_default();
        self.begun = true;
    }

    /// Ends a line, if there is one.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() || self.begun {
            self.print("\n");
        }
        self.line.clear();
        self.begun = false;
    }
}
