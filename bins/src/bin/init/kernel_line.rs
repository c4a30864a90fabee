//! Checks the original kernel command line for two mistakes that change the words that init gets.

use tablewalk_uapi::file::{self, O_RDONLY};

use crate::command_line::CommandLineError;

/// Maximum length: `COMMAND_LINE_SIZE` of arm64 is 2048, and a bootconfig can add as much.
const LONGEST: usize = 4096;

/// Checks the kernel command line. Without `/proc` it cannot be read, and passes.
pub(crate) fn check() -> Result<(), CommandLineError<'static>> {
    let mut bytes = [0; LONGEST];
    let mut length = 0;
    if let Ok(fd) = file::open(c"/proc/cmdline", O_RDONLY) {
        while let Ok(read @ 1..) = file::read(&fd, bytes.get_mut(length..).unwrap_or_default()) {
            length += read;
        }
    }
    look_through(bytes.get(..length).unwrap_or_default())
}

/// Parses as `next_arg()` of lib/cmdline.c does: quotes keep spaces together, and quotes at both ends of a
/// word are removed.
fn look_through(line: &[u8]) -> Result<(), CommandLineError<'static>> {
    let mut in_quotes = false;
    let words = line.split(|&byte| {
        in_quotes ^= byte == b'"';
        byte.is_ascii_whitespace() && !in_quotes
    });
    let (mut separators, mut quoted) = (0, false);
    for word in words {
        if is_separator(word) {
            separators += 1;
        } else if separators == 0 {
            quoted |= word.split(u8::is_ascii_whitespace).any(is_separator);
        }
    }
    match separators {
        0 if quoted => Err(CommandLineError::Quoted),
        0 | 1 => Ok(()),
        _ => Err(CommandLineError::SecondSeparator),
    }
}

fn is_separator(word: &[u8]) -> bool {
    let word = word.strip_prefix(b"\"").unwrap_or(word);
    word.strip_suffix(b"\"").unwrap_or(word) == b"--"
}
