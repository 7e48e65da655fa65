//! `enforcer debug` on a real pseudo-terminal, as a terminal emulator shows it. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod compared;
mod terminal;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;

use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::scene::Scene;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use compared::compare;
use terminal::Terminal;

const FOLLOW: [&str; 2] = ["drops", "--follow"];

/// Denied SYNs of client `unlisted`, from this port on.
fn knock(scene: &Scene, first: u16, packets: u16) {
    let unlisted = scene.stage.network.host("unlisted");
    let to = scene.stage.frontend("VIP", false);
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    for number in first..first + packets {
        let from = SocketAddr::new(unlisted.addresses.v4.into(), number);
        let packet = Packet::tcp(from, to).flags(flags::SYN);
        port.send(&packet.frame(unlisted.mac, unlisted.gateway_mac)).unwrap();
    }
}

#[test]
fn a_table_refreshes_fits_the_window_as_it_is_and_leaves_the_screen_as_it_was() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    let mut terminal = Terminal::run(scene.installation.debugging(&FOLLOW), 130, 24);
    terminal.wait("0 denied packets shown");
    let screen = terminal.screen();
    assert!(screen.alternate_screen() && screen.hide_cursor());
    knock(&scene, 40_001, 3);
    terminal.wait("3 denied packets shown");
    compare("follow-130-columns", &terminal.screen().contents());
    assert!(terminal.is_coloured("not_listed"));

    // Narrower: each line of the table still fits, in more lines. Lower: the newest events are seen.
    terminal.resize(80, 24);
    let in_more_lines = |screen: &vt100::Screen| screen.contents().lines().count() > 8;
    terminal.wait_until(|screen| in_more_lines(screen) && fits(screen));
    compare("follow-80-columns", &terminal.screen().contents());
    terminal.resize(130, 9);
    knock(&scene, 40_004, 9);
    terminal.wait("12 denied packets shown");
    terminal.wait_until(|screen| screen.contents().contains("40012") && fits(screen));
    compare("follow-9-lines", &terminal.screen().contents());

    // Ctrl-C, as a terminal makes a signal of it.
    terminal.press(b"\x03");
    assert_eq!(terminal.ended(), Some(0));
    let screen = terminal.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
    assert_eq!(screen.contents(), Terminal::BEFORE, "the screen is as it was");
}

/// No line goes on in the next one, and all of the table is there.
fn fits(screen: &vt100::Screen) -> bool {
    let (lines, _) = screen.size();
    let contents = screen.contents();
    contents.starts_with("TIME")
        && contents.contains("denied packets shown")
        && (0..lines).all(|line| !screen.row_wrapped(line))
}

#[test]
fn whatever_ends_it_the_screen_is_back() {
    let scene = Scene::new().unwrap();
    let mut agent = Some(scene.start().unwrap());
    for (signal, code) in [(Some(Signal::SIGTERM), 0), (Some(Signal::SIGHUP), 0), (None, 1)] {
        let mut terminal = Terminal::run(scene.installation.debugging(&FOLLOW), 100, 24);
        terminal.wait("0 denied packets shown");
        match signal {
            Some(signal) => terminal.signal(signal),
            None => drop(agent.take().unwrap().kill().unwrap()),
        }
        assert_eq!(terminal.ended(), Some(code), "{signal:?}");
        let screen = terminal.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "{signal:?}");
        let contents = screen.contents();
        let said = contents.strip_prefix(Terminal::BEFORE).unwrap().trim();
        match signal {
            Some(_) => assert_eq!(said, ""),
            None => assert!(said.starts_with("enforcer: the agent at "), "{said}"),
        }
    }
}

#[test]
fn a_pipe_gets_a_line_for_each_without_colours_and_an_interrupt_ends_it_well() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    for (arguments, starts) in [(&FOLLOW[..], "20"), (&["drops", "-f", "--output", "json"], "{")] {
        let mut command = scene.installation.debugging(arguments);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        knock(&scene, 41_001, 1);
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with(starts), "{line}");
        assert!(!line.contains('\u{1b}') && line.contains("not_listed"), "{line:?}");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        // What came meanwhile, and no more.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        assert!(rest.iter().all(|line| line.starts_with(starts)), "{rest:?}");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn other_answers_are_coloured_and_fit_on_a_terminal_only() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    let mut terminal = Terminal::run(scene.installation.debugging(&["status"]), 80, 60);
    assert_eq!(terminal.ended(), Some(0));
    assert!(terminal.is_coloured("guarded"));
    let screen = terminal.screen();
    assert!(!screen.alternate_screen());
    assert!((0..60).all(|line| !screen.row_wrapped(line)), "{}", screen.contents());
    let mut plain = scene.installation.debugging(&["status"]);
    plain.env("NO_COLOR", "1");
    let mut terminal = Terminal::run(plain, 80, 60);
    assert_eq!(terminal.ended(), Some(0));
    assert!(!terminal.is_coloured("guarded"));
    // On a terminal too, JSON is JSON.
    let json = scene.installation.debugging(&["status", "--output", "json"]);
    let mut terminal = Terminal::run(json, 300, 400);
    assert_eq!(terminal.ended(), Some(0));
    let contents = terminal.screen().contents();
    let text = contents.strip_prefix(Terminal::BEFORE).unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(json["is_enforced"], true);
}
