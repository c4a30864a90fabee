//! Indents the output of programs.

use core::fmt::{self, Write};

use heapless::Vec;
use tablewalk_rt::print;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, OwnedFd};

/// Text that prints control characters as escapes, so that no program can start a new line, as with a
/// carriage return, or overwrite the lines of another.
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

/// Prints lines with two spaces before each.
pub(crate) struct IndentedLines {
    line: Vec<u8, 256>,
    /// Whether the beginning of the current line was printed.
    begun: bool,
}

impl IndentedLines {
    pub(crate) const fn new() -> Self {
        Self {
            line: Vec::new(),
            begun: false,
        }
    }

    /// Copies the bytes of one read. Returns their number, 0 at the end.
    pub(crate) fn copy(&mut self, from: &OwnedFd) -> Result<usize, Errno> {
        let mut bytes = [0; 512];
        let read = file::read(from, &mut bytes)?;
        for &byte in bytes.iter().take(read) {
            if byte == b'\n' {
                // Some programs end lines with CR LF.
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

    /// Prints the complete characters of the current line, followed by `end`, with one write, because each
    /// write is a line of the kernel log.
    fn print(&mut self, end: &str) {
        let indentation = if self.begun { "" } else { "  " };
        let whole = match core::str::from_utf8(&self.line) {
            Ok(_) => self.line.len(),
            // The rest of the character comes with the next bytes.
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

    /// Ends the current line, if any.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() || self.begun {
            self.print("\n");
        }
        self.line.clear();
        self.begun = false;
    }
}
