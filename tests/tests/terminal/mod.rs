//! A pseudo-terminal with a program on it, and an emulator that knows what is on the screen.
#![allow(dead_code, reason = "a test's module; each test uses its part of it")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vt100::{Color, Parser, Screen};

const LIMIT: Duration = Duration::from_secs(20);

/// A program on a terminal; ends with it.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    parser: Parser,
}

impl Terminal {
    /// What is on the screen before the program starts.
    pub(crate) const BEFORE: &'static str = "# what was typed before";

    /// Runs a command as a shell on a terminal does: as leader of a session of its own, whose terminal this
    /// is.
    pub(crate) fn run(mut command: Command, columns: u16, lines: u16) -> Terminal {
        let pair = openpty(&size(columns, lines), None).unwrap();
        let own = |fd: &OwnedFd| fd.try_clone().unwrap();
        command.stdin(own(&pair.slave)).stdout(own(&pair.slave)).stderr(pair.slave);
        command.env("TERM", "xterm-256color");
        if command.get_envs().all(|(name, _)| name != "NO_COLOR") {
            command.env_remove("NO_COLOR");
        }
        let become_leader = || {
            nix::unistd::setsid()?;
            // SAFETY: plain system call; standard input is the terminal.
            match unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec this makes two system calls and allocates nothing.
        unsafe { command.pre_exec(become_leader) };
        let child = command.spawn().unwrap();
        // The program alone holds the other end, so that its end is seen.
        drop(command);
        let master = File::from(pair.master);
        let (sender, output) = channel();
        let mut reading = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error: nobody has the other end any more.
            while let Ok(read @ 1..) = reading.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut parser = Parser::new(lines, columns, 0);
        parser.process(format!("{}\r\n", Self::BEFORE).as_bytes());
        Terminal { child, master, output, parser }
    }

    /// What the screen shows now.
    pub(crate) fn screen(&self) -> &Screen {
        self.parser.screen()
    }

    /// Waits until these words are on the screen.
    pub(crate) fn wait(&mut self, words: &str) {
        self.wait_until(|screen| screen.contents().contains(words));
    }

    /// Waits until the screen is so, at most 20 s.
    pub(crate) fn wait_until(&mut self, is_so: impl Fn(&Screen) -> bool) {
        let end = Instant::now() + LIMIT;
        // Between two writes a screen may be half drawn, so that it has to stay so.
        let mut since = None;
        loop {
            match self.output.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(_) if is_so(self.screen()) && since.is_some() => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the program ended: {}", self.screen().contents())
                }
            }
            since = is_so(self.screen()).then(Instant::now);
            assert!(Instant::now() < end, "{}", self.screen().contents());
        }
    }

    /// Gives the window another size, of which the kernel tells the program.
    pub(crate) fn resize(&mut self, columns: u16, lines: u16) {
        self.parser.screen_mut().set_size(lines, columns);
        let size = size(columns, lines);
        // SAFETY: the call reads a `winsize`, which lives until it returns.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0);
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for the program's end, at most 20 s, and for all that it wrote; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while let Ok(bytes) =
            self.output.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.parser.process(&bytes);
        }
        assert!(Instant::now() < end, "it goes on: {}", self.screen().contents());
        self.child.wait().unwrap().code()
    }

    /// Whether the first of these words on the screen are in another colour than the usual one.
    pub(crate) fn is_coloured(&self, words: &str) -> bool {
        let (lines, columns) = self.screen().size();
        let rows: Vec<String> = self.screen().rows(0, columns).collect();
        let found = (0..lines).zip(&rows).find_map(|(line, row)| Some((line, row.find(words)?)));
        let (line, column) = found.unwrap_or_else(|| panic!("{words}: {rows:#?}"));
        let cell = self.screen().cell(line, column as u16).unwrap();
        cell.fgcolor() != Color::Default
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
