//! Writes what has changed on the screen as escape sequences, for ratatui. Any terminal of the last decades knows these.
//!
//! Why not a crate: decision 0010.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};

use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};

use crate::sys::tty;

/// The screen of a terminal.
pub(crate) struct Screen {
    terminal: File,
    /// Written with one call for each picture, so that no half of one is seen.
    pending: String,
}

impl Screen {
    pub(crate) fn new(terminal: File) -> Self {
        Self { terminal, pending: String::new() }
    }
}

/// Returns the sequence for a colour of the text, which is one of the sixteen that every terminal has.
fn foreground(colour: Color) -> u8 {
    match colour {
        Color::Red => 31,
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Cyan => 36,
        Color::DarkGray => 90,
        _ => 39,
    }
}

/// Returns the sequence that sets a style from nothing.
fn style(colour: Color, modifier: Modifier) -> String {
    let mut sequence = format!("\x1b[0;{}", foreground(colour));
    for (bit, code) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)] {
        if modifier.contains(bit) {
            // Writing to memory does not fail.
            let _ = write!(sequence, ";{code}");
        }
    }
    sequence.push('m');
    sequence
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut at = None;
        let mut now = None;
        for (x, y, cell) in content {
            if at != Some((x, y)) {
                let _ = write!(self.pending, "\x1b[{};{}H", y.saturating_add(1), x.saturating_add(1));
            }
            if now != Some((cell.fg, cell.modifier)) {
                self.pending.push_str(&style(cell.fg, cell.modifier));
                now = Some((cell.fg, cell.modifier));
            }
            self.pending.push_str(cell.symbol());
            // After a wide character the terminal's cursor is further on: say the place again.
            at = cell.symbol().is_ascii().then(|| (x.saturating_add(1), y));
        }
        if now.is_some() {
            self.pending.push_str("\x1b[0m");
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.pending.push_str("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.pending.push_str("\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        let _ = write!(self.pending, "\x1b[{};{}H", y.saturating_add(1), x.saturating_add(1));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.pending.push_str("\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, clear_type: ClearType) -> io::Result<()> {
        self.pending.push_str(match clear_type {
            ClearType::All => "\x1b[2J",
            ClearType::AfterCursor => "\x1b[J",
            ClearType::BeforeCursor => "\x1b[1J",
            ClearType::CurrentLine => "\x1b[2K",
            ClearType::UntilNewLine => "\x1b[K",
        });
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        let (width, height) = tty::size(&self.terminal)?;
        Ok(Size { width, height })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.terminal.write_all(self.pending.as_bytes());
        self.pending.clear();
        written
    }
}
