//! The table: observations in, aligned rows out.
//!
//! Observations that agree share a row, which names all that it covers and says how many they are;
//! where one differs from the others, each has its own.

use std::fmt::Display;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Duration;

use enforcer_tests::seed::Frontend;
use enforcer_tests::survey::{Access, Answer};
use enforcer_tests::talk::Outcome;

/// What one client got at one frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) frontend: Frontend,
    pub(crate) expected: Access,
    pub(crate) observed: Outcome,
}

impl From<&Answer<'_>> for Observation {
    fn from(answer: &Answer<'_>) -> Observation {
        let Answer { question, observed } = *answer;
        Observation { frontend: question.frontend, expected: question.expected, observed }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) client: String,
    pub(crate) frontend: String,
    pub(crate) expected: String,
    pub(crate) observed: String,
    pub(crate) as_expected: bool,
    /// Connections that it covers.
    pub(crate) connections: usize,
}

/// Whether observations that agree share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Folding {
    Folded,
    EachByItself,
}

impl Row {
    pub(crate) fn of(client: &str, observations: &[Observation], folding: Folding) -> Vec<Row> {
        let same = |one: &Observation, other: &Observation| {
            one.expected == other.expected && one.observed == other.observed
        };
        let agree = observations.windows(2).all(|two| same(&two[0], &two[1]));
        let group = if agree && folding == Folding::Folded { observations.len() } else { 1 };
        let groups = observations.chunks(group.max(1));
        groups.filter_map(|group| Some(Row::one(client, group, group.first()?))).collect()
    }

    /// The same row with the name of the cluster at the frontends.
    pub(crate) fn at(cluster: &str, row: Row) -> Row {
        Row { frontend: format!("{cluster}: {}", row.frontend), ..row }
    }

    /// One for observations of which all are like the first.
    fn one(client: &str, all: &[Observation], first: &Observation) -> Row {
        Row {
            client: client.to_owned(),
            frontend: covered(all),
            expected: first.expected.to_string(),
            observed: times(all.len(), first.observed),
            as_expected: first.expected.is(first.observed),
            connections: all.len(),
        }
    }
}

/// `3 × what`, or what alone.
pub(crate) fn times(count: usize, what: impl Display) -> String {
    if count == 1 { what.to_string() } else { format!("{count} × {what}") }
}

/// All frontends of these observations: `VIP, nodePort (+ konnectivity) v4 v6`.
fn covered(all: &[Observation]) -> String {
    let (mut ways, mut servers, mut families) = (Vec::new(), Vec::new(), Vec::new());
    for Observation { frontend: Frontend { label, address, guarded: _, protocol: _ }, .. } in all {
        let (way, server) = match label.split_once(", ") {
            Some((way, server)) => (way, Some(server)),
            None => (*label, None),
        };
        push_new(&mut ways, way);
        push_new(&mut servers, server);
        push_new(&mut families, if address.is_ipv4() { "v4" } else { "v6" });
    }
    let besides = if servers.contains(&None) { "+ " } else { "" };
    let servers: Vec<&str> = servers.into_iter().flatten().collect();
    let servers = match servers[..] {
        [] => String::new(),
        _ => format!(" ({besides}{})", servers.join(", ")),
    };
    format!("{}{servers} {}", ways.join(", "), families.join(" "))
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Prints rows as they come, and counts them.
#[derive(Debug)]
pub(crate) struct Table {
    out: Stdout,
    colour: bool,
    as_expected: usize,
    not: usize,
    connections: usize,
}

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";

impl Table {
    pub(crate) fn new() -> Table {
        let out = io::stdout();
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Table { out, colour, as_expected: 0, not: 0, connections: 0 }
    }

    /// Text above the table.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    pub(crate) fn head(&mut self) -> io::Result<()> {
        let names = line("step", "client", "frontends", "expected", "observed");
        writeln!(self.out, "\n{}", self.paint(BOLD, &names))
    }

    /// The title of a step, with a note, and what it shows, above its rows.
    pub(crate) fn step(
        &mut self,
        number: usize,
        title: &str,
        note: &str,
        shows: &str,
    ) -> io::Result<()> {
        let title = self.paint(BOLD, &format!("{number:<5}{title}"));
        writeln!(self.out, "\n{title}{note}\n{:5}{shows}", "")
    }

    pub(crate) fn row(&mut self, step: usize, row: &Row) -> io::Result<()> {
        let Row { client, frontend, expected, observed, as_expected, connections } = row;
        self.connections += connections;
        let (count, colour, mark) = match as_expected {
            true => (&mut self.as_expected, GREEN, ""),
            false => (&mut self.not, RED, "  <== differs"),
        };
        *count += 1;
        let observed = self.paint(colour, &format!("{observed}{mark}"));
        writeln!(self.out, "{}", line(&step.to_string(), client, frontend, expected, &observed))
    }

    /// The closing line; true if every row was as expected.
    pub(crate) fn close(mut self, took: Duration) -> io::Result<bool> {
        let Table { out: _, colour: _, as_expected, not, connections } = self;
        let colour = if not == 0 { GREEN } else { RED };
        let rows = self.paint(colour, &format!("{as_expected} rows as expected, {not} not"));
        let took = took.as_secs_f64();
        writeln!(self.out, "\n{rows}; {connections} connections, {took:.1} s")?;
        Ok(not == 0)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// At most 100 columns, with what is usually observed.
fn line(step: &str, client: &str, frontend: &str, expected: &str, observed: &str) -> String {
    format!("{step:<5}{client:<11}{frontend:<55}{expected:<10}{observed}")
}

#[cfg(test)]
mod tests {
    use enforcer_tests::nat::Protocol;

    use super::*;

    fn observations(observed: [Outcome; 4]) -> Vec<Observation> {
        let frontends = [
            ("VIP", "192.0.2.100:31001"),
            ("VIP, konnectivity", "192.0.2.100:31101"),
            ("bypass nodePort", "192.0.2.11:31001"),
            ("bypass nodePort", "[2001:db8:2::11]:31001"),
        ];
        let one = |((label, address), observed): ((&'static str, &str), Outcome)| Observation {
            frontend: Frontend {
                label,
                address: address.parse().unwrap(),
                guarded: true,
                protocol: Protocol::Tcp,
            },
            expected: Access::Closed,
            observed,
        };
        frontends.into_iter().zip(observed).map(one).collect()
    }

    #[test]
    fn observations_that_agree_share_a_row_that_names_them_all() {
        let all = observations([Outcome::TimedOut; 4]);
        let rows = Row::of("unlisted", &all, Folding::Folded);
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(row.frontend, "VIP, bypass nodePort (+ konnectivity) v4 v6");
        assert_eq!((row.expected.as_str(), row.observed.as_str()), ("closed", "4 × no answer"));
        assert!(row.as_expected && row.connections == 4);
        assert_eq!(Row::of("unlisted", &all, Folding::EachByItself).len(), 4);
        assert_eq!(Row::of("unlisted", &[], Folding::Folded), []);
    }

    #[test]
    fn where_one_differs_each_has_its_own_row_and_only_that_one_is_marked() {
        let mut observed = [Outcome::TimedOut; 4];
        observed[1] = Outcome::Answered;
        let rows = Row::of("unlisted", &observations(observed), Folding::Folded);
        let as_expected: Vec<bool> = rows.iter().map(|row| row.as_expected).collect();
        assert_eq!(as_expected, [true, false, true, true]);
        assert_eq!(rows[1].frontend, "VIP (konnectivity) v4");
        assert_eq!(rows[3].frontend, "bypass nodePort v6");
        assert_eq!(rows[1].observed, "answered");
    }

    #[test]
    fn a_reset_is_not_the_silence_that_is_expected() {
        let rows = Row::of("x", &observations([Outcome::Refused; 4]), Folding::Folded);
        assert!(matches!(&rows[..], [row] if !row.as_expected), "{rows:?}");
    }
}
