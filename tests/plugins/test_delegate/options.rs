//! What the delegate is asked to do: its options, and the life from which they hold.

use std::ffi::{OsString, c_int};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::partition::OPERATORS;

/// How the delegate behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Ok,
    /// Creates no delegate.
    Refuse,
    /// Claims no operator.
    Nothing,
    /// Puts the right scores in the wrong places.
    Wrong,
    /// Gives an error status.
    Fail,
    Slow,
    Hang,
    Abort,
    Segfault,
    /// Ends the process with status 7.
    Exit,
    Leak,
}

const MODES: [(&str, Mode); 11] = [
    ("ok", Mode::Ok),
    ("refuse", Mode::Refuse),
    ("nothing", Mode::Nothing),
    ("wrong", Mode::Wrong),
    ("fail", Mode::Fail),
    ("slow", Mode::Slow),
    ("hang", Mode::Hang),
    ("abort", Mode::Abort),
    ("segfault", Mode::Segfault),
    ("exit", Mode::Exit),
    ("leak", Mode::Leak),
];

/// When [`Mode::Fail`] and those after it strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Create,
    /// The delegate is given the graph.
    Prepare,
    Invoke,
}

const STAGES: [(&str, Stage); 3] = [("create", Stage::Create), ("prepare", Stage::Prepare), ("invoke", Stage::Invoke)];

/// The plugin's options, one a key.
#[derive(Debug)]
pub(crate) struct Options {
    /// Only these operators are claimed; the rest stays on the CPU.
    pub operators: Vec<c_int>,
    pub mode: Mode,
    pub at: Stage,
    /// At invoke, wrong answers included: only every so many inferences. The first that the delegate runs is 1.
    pub every: u64,
    pub slow: Duration,
    /// Allocated, written to and lost each time.
    pub leak_bytes: usize,
    /// The file of a simulated machine's activity, in which each inference is noted. An inference then takes `busy`.
    pub activity: Option<PathBuf>,
    pub busy: Duration,
    /// How much longer or shorter than `busy` an inference is at most.
    pub spread_percent: u32,
    /// A file that grows by a byte for each delegate that is created. Beside it, `LIVES.processes` grows by a line for
    /// each process that creates any.
    pub lives: Option<PathBuf>,
    /// The delegate, counted by `lives`, from which on the mode holds; those before it are ok.
    pub from_life: u64,
    /// The same for processes.
    pub from_process: u64,
}

impl Options {
    pub(crate) fn parse<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut options = Self {
            operators: OPERATORS.iter().map(|(_, builtin)| *builtin).collect(),
            mode: Mode::Ok,
            at: Stage::Invoke,
            every: 1,
            slow: Duration::from_millis(50),
            leak_bytes: 16 << 20,
            activity: None,
            busy: Duration::from_millis(10),
            spread_percent: 0,
            lives: None,
            from_life: 1,
            from_process: 1,
        };
        for (key, value) in pairs {
            options.set(key, value).map_err(|reason| format!("option `{key}`: {reason}"))?;
        }
        if options.lives.is_none() && (options.from_life, options.from_process) != (1, 1) {
            return Err("`from_life` and `from_process` need `lives`, a file to count in".into());
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "operators" => {
                let builtin = |name: &str| one_of(name.trim(), &OPERATORS);
                self.operators = value.split(',').map(builtin).collect::<Result<_, _>>()?;
            }
            "mode" => self.mode = one_of(value, &MODES)?,
            "at" => self.at = one_of(value, &STAGES)?,
            "every" => self.every = number(value)?,
            "slow_ms" => self.slow = Duration::from_millis(number(value)?),
            "leak_mib" => self.leak_bytes = number::<usize>(value)? << 20,
            "activity" => self.activity = Some(value.into()),
            "busy_us" => self.busy = Duration::from_micros(number(value)?),
            "spread_percent" => self.spread_percent = number(value)?,
            "lives" => self.lives = Some(value.into()),
            "from_life" => self.from_life = number(value)?,
            "from_process" => self.from_process = number(value)?,
            _ => return Err("there is none of this name".into()),
        }
        Ok(())
    }

    /// Counts this delegate where it is to be counted; whether its mode holds.
    pub(crate) fn begin_life(&self) -> Result<bool, String> {
        let Some(lives) = &self.lives else { return Ok(true) };
        let in_file = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        let life = append(lives, "+").map_err(|e| in_file(lives, e))?.len();
        let mut processes = OsString::from(lives);
        processes.push(".processes");
        let processes = PathBuf::from(processes);
        let process = count_process(&processes).map_err(|e| in_file(&processes, e))?;
        Ok(life as u64 >= self.from_life && process as u64 >= self.from_process)
    }
}

/// This process's place among those in the file; it is added when it is not there. A static could not know: the
/// library may be unloaded and loaded again.
fn count_process(path: &Path) -> Result<usize, std::io::Error> {
    let own = std::process::id().to_string();
    let place = |text: &str| text.lines().position(|line| line == own);
    let known = fs::read_to_string(path).ok().and_then(|text| place(&text));
    let before = match known {
        Some(before) => before,
        None => append(path, &format!("{own}\n"))?.lines().count() - 1,
    };
    Ok(before + 1)
}

/// What the file holds with `text` at its end.
fn append(path: &Path, text: &str) -> Result<String, std::io::Error> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())?;
    fs::read_to_string(path)
}

fn one_of<T: Copy>(name: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let choice = choices.iter().find(|(choice, _)| *choice == name);
    choice.map(|(_, value)| *value).ok_or_else(|| format!("`{name}` is none of {}", names()))
}

/// A whole number from 1.
fn number<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number != T::default());
    number.ok_or_else(|| format!("`{text}` is no whole number from 1"))
}
