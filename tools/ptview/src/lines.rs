//! JSON objects out of what a console said.
//!
//! A serial log has more in it than the lines of `pt`: those of the kernel, carriage returns, the
//! indentation of KTAP, time stamps before each line, and lines that the kernel interrupted in the
//! middle to print one of its own.

use std::io::{self, BufRead, Read};

use serde::de::IgnoredAny;

use crate::error::LineError;

/// How every object of `pt` begins.
const BEGIN: &str = "{\"type\":\"";
/// Most bytes of a line: one of `pt` has some thousand.
const MOST_LINE: u64 = 1 << 20;
/// Most bytes of a time stamp of the kernel after its `[`: `12345.123456]`, with blanks before.
const STAMP: usize = 24;
/// Most lines of the kernel inside one of `pt`.
const INTERRUPTIONS: usize = 64;

/// An object, and where it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// The number of its line, from 1.
    pub line: u64,
    /// The JSON text.
    pub text: String,
}

/// The objects of a text.
#[derive(Debug)]
pub struct Objects<R> {
    reader: R,
    line: u64,
}

impl<R: BufRead> Objects<R> {
    /// The objects of what `reader` has.
    pub const fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    /// The next one.
    ///
    /// # Errors
    ///
    /// Of the reader; and [`LineError`] with the number of a line that should be an object.
    pub fn next_object(&mut self) -> io::Result<Result<Option<Object>, (u64, LineError)>> {
        while let Some(line) = self.next_line()? {
            let Some(start) = begin(&line) else {
                continue;
            };
            let number = self.line;
            let text = line.get(start..).unwrap_or_default().to_owned();
            return Ok(match self.complete(text)? {
                Ok(text) => Ok(Some(Object { line: number, text })),
                Err(error) => Err((number, error)),
            });
        }
        Ok(Ok(None))
    }

    /// A line without its end, and without what colours it; what is not UTF-8 is replaced.
    fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let mut part = self.reader.by_ref().take(MOST_LINE);
        let read = part.read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if read as u64 == MOST_LINE && !bytes.ends_with(b"\n") {
            let what = format!("line {} has more than {MOST_LINE} bytes: no log", self.line);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(Some(plain(text.trim_end_matches(['\n', '\r']))))
    }

    /// The object at the beginning of `text`, without what the kernel has printed into it.
    fn complete(&mut self, mut text: String) -> io::Result<Result<String, LineError>> {
        for _ in 0..INTERRUPTIONS {
            let error = match object_end(&text) {
                Ok(end) => return Ok(cut(text, end)),
                Err(error) => error,
            };
            let Some(stamp) = kernel_stamp(&text) else {
                return Ok(Err(json_error(&error, &text)));
            };
            text.truncate(stamp);
            match self.next_line()? {
                // Another line of the kernel is cut off in the next turn.
                Some(line) => text.push_str(&line),
                None => return Ok(Err(json_error(&error, &text))),
            }
        }
        Ok(Err(LineError::Behind { text }))
    }
}

/// A line without the sequences for terminals (ECMA-48): ESC, `[`, numbers, and a letter; ESC, `]`, a text, and BEL
/// or ESC `\\`; ESC, others from blank to `/`, and one more. None are in JSON, where ESC is escaped.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = match part.chars().next() {
            Some('[') => {
                part.find(|character| ('@'..='~').contains(&character) && character != '[')
            }
            // Without BEL its end is another sequence.
            Some(']') => part.find('\x07'),
            _ => part.find(|character| !(' '..='/').contains(&character)),
        };
        let rest = end.and_then(|end| part.get(end..)).map(|rest| {
            let mut characters = rest.chars();
            characters.next();
            characters.as_str()
        });
        plain.push_str(rest.unwrap_or_default());
    }
    plain
}

/// Where in a line an object of ours begins; the kernel may have interrupted it at once. A line of another
/// program may begin with a brace, too.
fn begin(line: &str) -> Option<usize> {
    let start = line.trim_start();
    let interrupted = kernel_stamp(start).and_then(|stamp| start.get(..stamp));
    if interrupted.is_some_and(|part| !part.is_empty() && BEGIN.starts_with(part)) {
        return Some(line.len() - start.len());
    }
    line.find(BEGIN)
}

/// Where the object at the beginning of `text` ends.
fn object_end(text: &str) -> Result<usize, serde_json::Error> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Err(error)) => Err(error),
        _ => Ok(values.byte_offset()),
    }
}

/// The first `end` bytes of `text`, if nothing is behind them but a line of the kernel.
fn cut(mut text: String, end: usize) -> Result<String, LineError> {
    let rest = text.get(end..).unwrap_or_default().trim();
    if !rest.is_empty() && kernel_stamp(rest) != Some(0) {
        let text = shortened(rest);
        return Err(LineError::Behind { text });
    }
    text.truncate(end);
    Ok(text)
}

/// Where a line of the kernel begins: `[    1.234567]`.
fn kernel_stamp(text: &str) -> Option<usize> {
    text.match_indices('[').map(|(at, _)| at).find(|&at| {
        let inside = text.as_bytes().get(at + 1..).unwrap_or_default();
        let inside = inside.get(..STAMP).unwrap_or(inside);
        let mut parts = inside.splitn(2, |&byte| byte == b']');
        let (Some(time), Some(_)) = (parts.next(), parts.next()) else {
            return false;
        };
        let mut parts = time.trim_ascii_start().splitn(2, |&byte| byte == b'.');
        let (Some(seconds), Some(fraction)) = (parts.next(), parts.next()) else {
            return false;
        };
        let digits = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
        digits(seconds) && digits(fraction) && fraction.len() == 6
    })
}

/// As an error of the line; serde_json counts lines and columns of what it was given.
pub(crate) fn json_error(error: &serde_json::Error, text: &str) -> LineError {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    LineError::Json {
        message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
        column: error.column(),
        text: shortened(text),
    }
}

/// The beginning of a text that may be long.
fn shortened(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MOST).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &str) -> Result<Vec<(u64, String)>, (u64, LineError)> {
        let mut objects = Objects::new(log.as_bytes());
        let mut found = Vec::new();
        while let Some(object) = objects.next_object().unwrap()? {
            found.push((object.line, object.text));
        }
        Ok(found)
    }

    const ONE: &str = r#"{"type":"end","changed":0}"#;

    #[test]
    fn objects_are_found_in_the_noise_of_a_console() {
        let log = format!(
            "[    0.000000] Booting {{\r\nKTAP version 1\r\n  {ONE}\r\n\r\n\
             2026-11-24 21:00:01.123 {ONE}\r\n# [1] {{braces}} of others\n\t{ONE}   \n"
        );
        let found = texts(&log).unwrap();
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 5, 7]);
        assert!(found.iter().all(|(_, text)| text == ONE));
    }

    #[test]
    fn what_the_kernel_prints_into_an_object_is_taken_out() {
        for log in [
            "  {\"type\":\"end\",[    5.123456] random: crng init done\r\n\"changed\":0}\r\n",
            "{\"type\":\"end\",\"chan[    5.000001] a\n[    5.000002][    T1] b\nged\":0}\n",
            "{\"type\":\"end\",\"changed\":0}[    5.000001] a\n",
            "{\"ty[  125.000001] a\npe\":\"end\",\"chan[    5.000002] b\nged\":0}\n",
        ] {
            assert_eq!(texts(log).unwrap(), [(1, ONE.to_owned())], "{log}");
        }
    }

    #[test]
    fn lines_of_other_programs_are_passed_over() {
        let log =
            format!("{{\"level\":\"info\",[1]}}\n{{ shell function }}\n{{\n{{\"ty\n{ONE}\n{{");
        assert_eq!(texts(&log).unwrap(), [(5, ONE.to_owned())]);
    }

    #[test]
    fn colours_are_no_part_of_an_object() {
        let log = format!(
            "\x1b[1;32m{ONE}\x1b[0m\r\n{{\"type\":\"end\",\x1b[33m[    5.000001] a\x1b[0m\n\x1b[m\"changed\":0}}\n"
        );
        let found = texts(&log).unwrap();
        assert_eq!(found, [(1, ONE.to_owned()), (2, ONE.to_owned())]);
        let log = format!(
            "{ONE}\x1b(B\x1b[m\n\x1b]0;a title\x07{ONE}\x1b]0;another {{\x1b\\\n{ONE}\x1bM\n"
        );
        let found = texts(&log).unwrap();
        assert_eq!(found, [1, 2, 3].map(|line| (line, ONE.to_owned())));
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut objects = Objects::new(io::BufReader::new(io::repeat(b'{')));
        let error = objects.next_object().unwrap_err();
        assert!(error.to_string().contains("line 1 has more"), "{error}");
    }

    #[test]
    fn the_search_for_a_stamp_looks_at_each_byte_a_few_times() {
        let brackets = "[".repeat(900_000);
        let log = format!("{{\"type\":\"{brackets}\n");
        // Nanoseconds on a CPU, whatever else the machine does (Documentation/scheduler/sched-stats.rst).
        let spent = || -> u64 {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let before = spent();
        assert!(texts(&log).is_err());
        let spent = spent() - before;
        assert!(spent < 4_000_000_000, "{spent}");
    }

    #[test]
    fn a_name_that_looks_like_the_kernel_stays() {
        let log = r#"{"type":"range","name":"[    5.123456] x"}"#;
        assert_eq!(texts(log).unwrap(), [(1, log.to_owned())]);
    }

    #[test]
    fn what_is_no_object_is_told_with_its_line_and_text() {
        for (log, line, words) in [
            (
                "noise\n{\"type\":\"end\",\"changed\":}\n",
                2,
                "\"changed\":}",
            ),
            ("{\"type\":\"end\",\"changed\":0", 1, "EOF"),
            (
                "{\"type\":\"end\"} {\"type\":\"end\"}",
                1,
                "behind an object",
            ),
            (
                "a {\"type\":\"end\",[    1.000000] x",
                1,
                "`{\"type\":\"end\",`",
            ),
        ] {
            let (number, error) = texts(log).unwrap_err();
            assert_eq!(number, line, "{log}");
            assert!(error.to_string().contains(words), "{log}: {error}");
        }
    }
}
