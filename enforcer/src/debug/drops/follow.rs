//! `enforcer debug drops --follow`: a table that is drawn anew in a terminal, lines elsewhere.
//!
//! Input: events as they come, and signals: one that the terminal has another size, or one that ends it.
//! Output: the terminal's other screen, as wide and high as it is at the moment; the first screen is back,
//! as it was, however this ends.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::{
    super::{DebugError, Outcome, Output, json_line, screen::Screen, sight::Sight, write},
    Options, ask, failed, is_meant, left, lines, ring, sum, table,
};
use crate::observe::{drops::Dropped, socket::Told};

/// Events that a terminal shows, if it is high enough.
const SHOWN: usize = 20;

/// How often a table is drawn anew, and a ring without an agent looked at.
const FRAME: Duration = Duration::from_millis(500);

/// To the other screen, without a cursor.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
/// And back.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
/// Home; everything that was there is cleared.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// What there is to react to.
enum News {
    /// An event, or that there are no more.
    Told(Result<Told, DebugError>),
    /// The terminal has another size.
    Resized,
    /// Enough.
    Interrupted,
}

/// Answers until interrupted, or until nobody reads any more.
pub(in crate::debug) fn follow(
    sight: &Sight,
    options: &Options,
    output: Output,
) -> Result<Outcome, DebugError> {
    let (sender, receiver) = mpsc::channel();
    // Before there are other threads, which would get the signals.
    hear(sender.clone())?;
    listen(sight, sender)?;
    let mut shown = Shown::new(output)?;
    loop {
        match receiver.recv_timeout(FRAME) {
            Ok(News::Told(told)) => {
                if !shown.take(told?, options)? {
                    return Ok(Outcome::Fine);
                }
            }
            Ok(News::Resized) => shown.drawn = None,
            Ok(News::Interrupted) => return Ok(Outcome::Fine),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(ended(sight)),
        }
        if !shown.draw()? {
            return Ok(Outcome::Fine);
        }
    }
}

/// Turns signals into news.
fn hear(sender: Sender<News>) -> Result<(), DebugError> {
    let heard = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH];
    let signals: SigSet = heard.into_iter().collect();
    signals.thread_block().map_err(|error| DebugError::Start(error.into()))?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let news = match signal == Signal::SIGWINCH {
                true => News::Resized,
                false => News::Interrupted,
            };
            if sender.send(news).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Turns what the agent tells, or the ring holds, into news.
fn listen(sight: &Sight, sender: Sender<News>) -> Result<(), DebugError> {
    match ask(sight, true)? {
        Some(stream) => {
            stream.set_read_timeout(None).map_err(|error| failed(sight, error))?;
            let (lines, over) = (lines(sight, stream), ended(sight));
            std::thread::spawn(move || {
                let mut all = lines.into_iter().chain([Err(over)]);
                all.try_for_each(|told| sender.send(News::Told(told)))
            });
        }
        None => {
            let mut ring = ring(sight)?;
            let owners = sight.known()?.owners();
            std::thread::spawn(move || {
                loop {
                    for dropped in left(&mut ring, &owners) {
                        if sender.send(News::Told(Ok(Told::Drop(dropped)))).is_err() {
                            return;
                        }
                    }
                    std::thread::sleep(FRAME);
                }
            });
        }
    }
    Ok(())
}

fn ended(sight: &Sight) -> DebugError {
    failed(sight, io::ErrorKind::UnexpectedEof.into())
}

/// One line of the answer in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Drop(&'a Dropped),
    /// Events that this command did not read fast enough.
    Missed(u64),
}

/// The terminal's other screen, for as long as this lives.
struct Canvas;

impl Canvas {
    fn enter() -> Result<Self, DebugError> {
        write(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        // Where that cannot be written there is no terminal any more.
        let _ = write(LEAVE);
    }
}

/// What a follower has seen so far.
struct Shown {
    output: Output,
    /// Where a table is drawn anew; `None` where lines are written.
    canvas: Option<Canvas>,
    last: VecDeque<Arc<Dropped>>,
    events: u64,
    suppressed: u64,
    missed: u64,
    drawn: Option<Instant>,
}

impl Shown {
    fn new(output: Output) -> Result<Self, DebugError> {
        let is_drawn = output == Output::Text && Screen::is_terminal();
        let (last, drawn) = (VecDeque::new(), None);
        let canvas = if is_drawn { Some(Canvas::enter()?) } else { None };
        Ok(Self { output, canvas, last, events: 0, suppressed: 0, missed: 0, drawn })
    }

    /// Says whether anybody still reads.
    fn take(&mut self, told: Told, options: &Options) -> Result<bool, DebugError> {
        let line = match told {
            Told::Kept => return Ok(true),
            Told::Missed(missed) => {
                self.missed += missed;
                match self.output {
                    Output::Text => format!("{missed} events were missed\n"),
                    Output::Json => json_line(&Line::Missed(missed))?,
                }
            }
            Told::Drop(dropped) if !is_meant(&dropped, options) => return Ok(true),
            Told::Drop(dropped) => {
                self.events += 1;
                self.suppressed += dropped.suppressed;
                let line = match self.output {
                    Output::Text => line(&dropped),
                    Output::Json => json_line(&Line::Drop(&dropped))?,
                };
                if self.last.len() == SHOWN {
                    self.last.pop_front();
                }
                self.last.push_back(dropped);
                line
            }
        };
        if self.canvas.is_some() { Ok(true) } else { write(&line) }
    }

    /// Draws the table anew where it is time to. Says whether anybody still reads.
    fn draw(&mut self) -> Result<bool, DebugError> {
        if self.canvas.is_none() || self.drawn.is_some_and(|drawn| drawn.elapsed() < FRAME) {
            return Ok(true);
        }
        self.drawn = Some(Instant::now());
        let screen = Screen::of_stdout();
        let mut foot = sum(self.events, self.suppressed) + "; Ctrl-C ends this\n";
        if self.missed > 0 {
            foot.push_str(&format!("{} events were missed\n", self.missed));
        }
        // The last events that leave room for the lines below them and the cursor.
        let room = screen.height().saturating_sub(foot.lines().count() + 2);
        let mut body = String::new();
        for first in 0..=self.last.len() {
            body = table(&screen, self.last.iter().skip(first), time_of_day);
            if body.lines().count() <= room {
                break;
            }
        }
        write(&format!("{CLEAR}{body}\n{foot}"))
    }
}

/// The time of an RFC 3339 timestamp: whoever looks on knows the date.
fn time_of_day(at: &str) -> &str {
    at.split_once('T').map_or(at, |(_, time)| time)
}

fn line(dropped: &Dropped) -> String {
    let Dropped {
        at, interface, protocol, cluster, direction, reason, audited, suppressed, ..
    } = dropped;
    let (from, to) = (dropped.from(), dropped.to());
    let cluster = cluster.as_deref().unwrap_or("-");
    let fate = if *audited { "would be denied" } else { "denied" };
    let mut line = format!(
        "{at} {interface} {direction} {from} -> {to}/{protocol} cluster {cluster} {fate} {reason}"
    );
    if *suppressed > 0 {
        line.push_str(&format!(" (and {suppressed} before it that are not shown)"));
    }
    line.push('\n');
    line
}
