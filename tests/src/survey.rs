//! Who gets through where: many connections asked at once.
//!
//! A denied client is answered by silence, so that each question about it takes its whole patience;
//! asked one after the other they would take minutes.

use std::fmt;
use std::thread;
use std::time::Duration;

use crate::nat::Protocol;
use crate::netns::Netns;
use crate::seed::Frontend;
use crate::talk::{Outcome, ask_udp, connect};

/// What is expected of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It answers.
    Open,
    /// A connection is made, but data is not answered.
    Handshake,
    /// Nothing comes back.
    Closed,
}

impl Access {
    /// Open for those whom `admitted` names.
    pub fn of(client: &str, admitted: &[&str]) -> Access {
        if admitted.contains(&client) { Access::Open } else { Access::Closed }
    }

    /// Whether that is what was observed.
    pub fn is(self, observed: Outcome) -> bool {
        match self {
            Access::Open => observed == Outcome::Answered,
            Access::Handshake => observed == Outcome::Silent,
            Access::Closed => observed == Outcome::TimedOut,
        }
    }

    /// Silence has to be waited for; an answer may take as long as a busy machine needs.
    fn patience(self) -> Duration {
        match self {
            Access::Open => Duration::from_secs(5),
            Access::Handshake => Duration::from_secs(1),
            Access::Closed => SILENCE,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Access::Open => "open",
            Access::Handshake => "handshake",
            Access::Closed => "closed",
        })
    }
}

/// No answer within this time is none: less than TCP's first retransmission, so that a denied
/// connection is one packet.
pub const SILENCE: Duration = Duration::from_millis(300);

/// One connection to be made, and what is expected of it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub client: &'a str,
    /// Where that client lives.
    pub from: &'a Netns,
    /// Where it knocks.
    pub frontend: Frontend,
    /// What is expected.
    pub expected: Access,
}

/// What came of a question.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The question.
    pub question: Question<'a>,
    /// What came of it.
    pub observed: Outcome,
}

impl Answer<'_> {
    /// Whether it is the expected one.
    pub fn is_as_expected(&self) -> bool {
        self.question.expected.is(self.observed)
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { question: Question { client, from: _, frontend, expected }, observed } = self;
        let Frontend { label, address, guarded: _, protocol: _ } = frontend;
        write!(f, "{client} at {label} {address}: expected {expected}, observed {observed}")
    }
}

/// Asks all questions at once; the answers are in their order.
pub fn ask<'a>(questions: &[Question<'a>]) -> Vec<Answer<'a>> {
    let one = |question: Question<'a>| {
        let Question { client: _, from, frontend, expected } = question;
        let (to, patience) = (frontend.address, expected.patience());
        let observed = match frontend.protocol {
            Protocol::Tcp => connect(from, None, to, patience),
            Protocol::Udp => ask_udp(from, None, to, patience),
        };
        Answer { question, observed }
    };
    thread::scope(|scope| {
        let asked: Vec<_> =
            questions.iter().map(|question| scope.spawn(move || one(*question))).collect();
        let answer = |thread: thread::ScopedJoinHandle<'_, Answer<'a>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        asked.into_iter().map(answer).collect()
    })
}

/// Asks all questions at once and says which answers are not as expected: a test wants none.
pub fn surprises(questions: &[Question<'_>]) -> Vec<String> {
    let answers = ask(questions);
    answers.iter().filter(|answer| !answer.is_as_expected()).map(Answer::to_string).collect()
}
