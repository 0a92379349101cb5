//! The questions of `edgewatt init`, on a terminal: only what cannot be known, each with an answer that an empty line takes.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::propose::source::{Found, kinds};
use crate::propose::{Open, Stream};

/// Asks on a terminal.
pub(super) struct Asker<'a> {
    input: Box<dyn BufRead + 'a>,
    output: Box<dyn Write + 'a>,
}

impl<'a> Asker<'a> {
    /// Returns `None` if it must be quiet, or if there is no terminal.
    pub(super) fn of_terminal(is_quiet: bool) -> Option<Asker<'static>> {
        if is_quiet || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        Some(Asker { input: Box::new(io::stdin().lock()), output: Box::new(io::stdout()) })
    }

    #[cfg(test)]
    fn new(input: impl BufRead + 'a, output: impl Write + 'a) -> Self {
        Self { input: Box::new(input), output: Box::new(output) }
    }

    /// Asks until the answer is empty, or `read` takes it.
    fn ask<T>(&mut self, question: &str, read: impl Fn(&str) -> Result<T, String>) -> io::Result<Option<T>> {
        loop {
            write!(self.output, "{question} ")?;
            self.output.flush()?;
            let mut line = String::new();
            // The end of the input is an empty answer.
            if self.input.read_line(&mut line)? == 0 || line.trim().is_empty() {
                return Ok(None);
            }
            match read(line.trim()) {
                Ok(answer) => return Ok(Some(answer)),
                Err(why) => writeln!(self.output, "  {why}")?,
            }
        }
    }

    /// Asks for the source; `None`: the first that was found, or none.
    pub(super) fn source(&mut self, stream: &Stream, fitting: &[&Found]) -> io::Result<Option<String>> {
        fitting.iter().try_for_each(|found| writeln!(self.output, "found: {} ({})", found.what, found.kind))?;
        let empty =
            fitting.first().map_or_else(|| "fill it in later".to_owned(), |found| format!("take {}", found.kind));
        let kinds: Vec<&str> = kinds().collect();
        let question = format!(
            "Where do {} come from? {}; or KIND=WHERE, as in serial=/dev/ttyUSB0 [{empty}]:",
            stream.in_words(),
            kinds.join(", ")
        );
        self.ask(&question, |answer| {
            let kind = answer.split('=').next().unwrap_or(answer).trim();
            if kinds.contains(&kind) { Ok(answer.to_owned()) } else { Err(format!("there is no source {kind}")) }
        })
    }

    /// Asks where a source reads, if that is open; `None`: it stays open.
    pub(super) fn place(&mut self, kind: &str, open: &[Open]) -> io::Result<Option<String>> {
        let places = ["port", "path", "topic", "card", "command", "listen"];
        let Some(first) = open.iter().find(|open| places.iter().any(|place| open.key.ends_with(place))) else {
            return Ok(None);
        };
        self.ask(&format!("{kind}: {}? [fill it in later]:", first.what), |answer| Ok(answer.to_owned()))
    }

    /// Asks for the names of the channels; `None`: those that are proposed.
    pub(super) fn channels(&mut self, proposed: &[String]) -> io::Result<Option<Vec<String>>> {
        let (count, example) = (proposed.len(), proposed.join(","));
        let question = format!("The names of the {count} channels, in the order of the training? [{example}]:");
        self.ask(&question, |answer| {
            let names: Vec<String> = answer.split(',').map(|name| name.trim().to_owned()).collect();
            match names.len() == count && names.iter().all(|name| !name.is_empty()) {
                true => Ok(names),
                false => Err(format!("write {count} names, separated by commas")),
            }
        })
    }

    /// Asks for the rate; `None`: it is not known.
    pub(super) fn rate(&mut self) -> io::Result<Option<f64>> {
        self.ask("Samples in a second? [not known]:", super::rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_asked_again_and_an_empty_one_takes_what_is_proposed() {
        let mut said = Vec::new();
        let mut asker = Asker::new(&b"ax,ay\nax, ay, az\n\nfast\n50\n"[..], &mut said);
        let proposed = ["ch1", "ch2", "ch3"].map(str::to_owned);
        assert_eq!(asker.channels(&proposed).unwrap().unwrap(), ["ax", "ay", "az"]);
        assert_eq!(asker.channels(&proposed).unwrap(), None);
        assert_eq!(asker.rate().unwrap(), Some(50.0));
        assert_eq!(asker.rate().unwrap(), None, "the end of the input");
        drop(asker);
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("write 3 names") && said.contains("write a number"), "{said}");
    }

    #[test]
    fn a_source_must_be_one_that_exists() {
        let mut said = Vec::new();
        let found = Found { kind: "alsa".into(), keys: Vec::new(), what: "sound card 0".into() };
        let stream = Stream::Sound { rate_hz: 16000.0 };
        let mut asker = Asker::new(&b"tape\nserial=/dev/ttyUSB0\n\n"[..], &mut said);
        assert_eq!(asker.source(&stream, &[&found]).unwrap().unwrap(), "serial=/dev/ttyUSB0");
        assert_eq!(asker.source(&stream, &[&found]).unwrap(), None);
        drop(asker);
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("there is no source tape") && said.contains("[take alsa]"), "{said}");
    }
}
