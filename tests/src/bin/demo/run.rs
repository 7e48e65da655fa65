//! Sets the scene, makes the steps, asks the clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use enforcer_tests::addresses::Dual;
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::entrances::Entrances;
use enforcer_tests::manifests::Manifests;
use enforcer_tests::stage::{MANIFEST, NODE, Stage};
use enforcer_tests::survey::{Access, Answer, Question, SILENCE, ask};
use enforcer_tests::talk::{Conversation, Exchange, Outcome, becomes};
use enforcer_tests::topology::Plan;

use crate::steps::{Act, At, CLIENTS, COLLEAGUE, Held, STEPS, Step};
use crate::table::{Folding, Observation, Row, Table, times};

const TITLE: &str = "\
The API server access enforcer: who reaches a user cluster's API server is decided in the kernel.
Network namespaces are clients, a seed node with kube-proxy's NAT, Envoy and the API server; the
real agent watches the YAML of deploy/demo. Every row is what real connections met.";

/// An edit is enforced within this time, or the rows of its step will differ.
const ENFORCED: Duration = Duration::from_secs(5);
/// Room for TCP, which sends again at growing intervals after a stall.
const GOES_ON: Duration = Duration::from_secs(8);

/// Runs the demo; true if every row was as expected.
pub(crate) fn run(folding: Folding) -> Result<bool> {
    let start = Instant::now();
    let mut table = Table::new();
    table.text(TITLE)?;
    let mut scene = Scene::set(folding)?;
    table.text(&scene.introduction())?;
    table.head()?;
    for (number, step) in (1..).zip(STEPS) {
        scene.make(number, step, &mut table)?;
    }
    let log = scene.installation.log();
    // Before the time is taken: it is part of it.
    drop(scene);
    let as_expected = table.close(start.elapsed())?;
    if !as_expected {
        eprintln!("\nthe agent said:\n{log}");
    }
    Ok(as_expected)
}

/// The network, the agent and what clients hold open.
struct Scene {
    held: Vec<Conversation>,
    agent: Option<Agent>,
    installation: Installation,
    entrances: Entrances,
    stage: Stage,
    folding: Folding,
}

impl Scene {
    fn set(folding: Folding) -> Result<Scene> {
        let (name, v4, v6) = COLLEAGUE;
        let plan = Plan::customary().client(name, Dual::of(v4, v6)).pod(NODE, "proxy");
        let mut stage = Stage::on(plan)?;
        let entrances = Entrances::open(&mut stage)?;
        stage.manifests.remove(MANIFEST)?;
        copy(&files(), &stage.manifests)?;
        let installation = stage.installation()?.interfaces("auto");
        Ok(Scene { held: Vec::new(), agent: None, installation, entrances, stage, folding })
    }

    /// Who is who.
    fn introduction(&self) -> String {
        let line = |name: &str, v4: String, v6: String| format!("\n  {name:<16}{v4:<24}{v6}");
        let clients = CLIENTS.iter().map(|client| {
            let Dual { v4, v6 } = self.stage.network.host(client).addresses;
            line(client, v4.to_string(), v6.to_string())
        });
        let ways = ["VIP", "nodePort", "bypass nodePort"].map(|way| {
            let [v4, v6] = [false, true].map(|v6| self.stage.frontend(way, v6).to_string());
            line(way, v4, v6)
        });
        let more = "\n  (and konnectivity's port at each; healthz at the first two)";
        clients.chain(ways).chain([more.to_owned()]).collect()
    }

    fn make(&mut self, number: usize, step: &Step, table: &mut Table) -> Result<()> {
        let Step { title, shows, acts, turns, admitted, at, held } = step;
        if *held == Held::Stall {
            self.open_connections()?;
        }
        let mut note = String::new();
        for act in *acts {
            note += &self.act(*act, *turns, admitted)?;
        }
        table.step(number, title, &note, shows)?;
        let mut rows = self.connection_rows(*held);
        rows.extend(match at {
            At::Customary => self.rows(admitted),
            At::AllOthers => self.rows_of_others(admitted),
        });
        for row in &rows {
            table.row(number, row)?;
        }
        Ok(())
    }

    /// Does it; says how long an edit took to show, empty for the rest.
    fn act(&mut self, act: Act, turns: Option<&str>, admitted: &[&str]) -> Result<String> {
        match act {
            Act::Start => self.agent = Some(self.installation.start()?),
            Act::Copy(folder) => {
                let start = Instant::now();
                copy(&files().join("steps").join(folder), &self.stage.manifests)?;
                let client = turns.context("a step that copies turns a verdict")?;
                return Ok(match self.turned(client, admitted, start) {
                    Some(took) => format!(", in force after {} ms", took.as_millis()),
                    None => format!(", not in force after {ENFORCED:?}"),
                });
            }
            Act::Terminate => {
                let status = self.running()?.terminate()?.status;
                if status.code() != Some(0) {
                    bail!("the agent ended with {status} on SIGTERM\n{}", self.installation.log());
                }
            }
            Act::Kill => drop(self.running()?.kill()?),
            Act::Clean => self.installation.clean()?,
        }
        Ok(String::new())
    }

    fn running(&mut self) -> Result<Agent> {
        self.agent.take().context("no agent runs")
    }

    /// Waits until the client's verdict is another one; how long that took, None if it never was.
    fn turned(&self, client: &str, admitted: &[&str], start: Instant) -> Option<Duration> {
        let expected = match Access::of(client, admitted) {
            Access::Open => Outcome::Answered,
            Access::Handshake => Outcome::Silent,
            Access::Closed => Outcome::TimedOut,
        };
        let since = start.elapsed();
        let ns = &self.stage.network.host(client).ns;
        let turned = becomes(ns, self.stage.frontend("VIP", false), expected, ENFORCED);
        turned.ok().map(|took| took + since)
    }

    /// All clients at all frontends.
    fn rows(&self, admitted: &[&str]) -> Vec<Row> {
        let answers = ask(&self.stage.questions_of(&CLIENTS, admitted));
        let (guarded, open): (Vec<&Answer<'_>>, Vec<&Answer<'_>>) =
            answers.iter().partition(|answer| answer.question.frontend.guarded);
        let seen = |answers: &[&Answer<'_>], client: Option<&str>| -> Vec<Observation> {
            let wanted =
                answers.iter().filter(|a| client.is_none_or(|name| a.question.client == name));
            wanted.map(|answer| Observation::from(*answer)).collect()
        };
        let of = |answers: &[&Answer<'_>], client| {
            Row::of(client, &seen(answers, Some(client)), self.folding)
        };
        let mut rows: Vec<Row> = CLIENTS.iter().flat_map(|client| of(&guarded, client)).collect();
        match &Row::of("everybody", &seen(&open, None), self.folding)[..] {
            [one] => rows.push(one.clone()),
            _ => rows.extend(CLIENTS.iter().flat_map(|client| of(&open, client))),
        }
        rows
    }

    /// Those whom their address alone tells apart, at every way in besides the customary of `c1`: a
    /// row for each way, and one for what is open to everybody.
    fn rows_of_others(&self, admitted: &[&str]) -> Vec<Row> {
        let customary = self.stage.frontends();
        let others = || self.entrances.list.iter().filter(|it| !customary.contains(&it.frontend));
        let mut rows = Vec::new();
        let mut health = Vec::new();
        for client in ["listed", "unlisted"] {
            let from = &self.stage.network.host(client).ns;
            let questions: Vec<Question<'_>> = others()
                .map(|way| {
                    let frontend = way.frontend;
                    let guarded = Access::of(client, admitted);
                    let expected = if frontend.guarded { guarded } else { Access::Open };
                    Question { client, from, frontend, expected }
                })
                .collect();
            let mut ways: Vec<((&str, &str), Vec<Observation>)> = Vec::new();
            for (way, answer) in others().zip(&ask(&questions)) {
                let observation = Observation::from(answer);
                if !way.frontend.guarded {
                    health.push(observation);
                    continue;
                }
                let label = way.frontend.label;
                let way = (way.cluster, label.split_once(", ").map_or(label, |(way, _)| way));
                match ways.iter_mut().find(|(known, _)| *known == way) {
                    Some((_, observations)) => observations.push(observation),
                    None => ways.push((way, vec![observation])),
                }
            }
            rows.extend(ways.iter().flat_map(|((cluster, _), observations)| {
                let named = |row| Row::at(cluster, row);
                Row::of(client, observations, self.folding).into_iter().map(named)
            }));
        }
        rows.extend(Row::of("everybody", &health, self.folding));
        rows
    }

    fn open_connections(&mut self) -> Result<()> {
        let ns = &self.stage.network.host("listed").ns;
        for (way, v6) in HELD {
            let to = self.stage.frontend(way, v6);
            match Conversation::open(ns, None, to, ENFORCED) {
                Ok(connection) => self.held.push(connection),
                Err(outcome) => bail!("client listed cannot connect to {way} {to}: {outcome}"),
            }
        }
        for connection in &mut self.held {
            if connection.exchange(1_000, ENFORCED) != Exchange::Completed {
                bail!("the connections of client listed do not work before the step");
            }
        }
        Ok(())
    }

    fn connection_rows(&mut self, held: Held) -> Vec<Row> {
        let (expected, patience) = match held {
            Held::No => return Vec::new(),
            Held::Stall => (Exchange::Stalled, SILENCE),
            Held::GoOn => (Exchange::Completed, GOES_ON),
        };
        let exchanged = self.held.iter_mut().map(|connection| connection.exchange(1_000, patience));
        let observed: Vec<Exchange> = exchanged.collect();
        let row = |frontend: String, observed: Exchange, count: usize| Row {
            client: "listed".to_owned(),
            frontend: format!("open connection: {frontend}"),
            expected: word(expected, "stalls", "goes on").to_owned(),
            observed: times(count, word(observed, "stalled", "went on")),
            as_expected: observed == expected,
            connections: count,
        };
        let names = HELD.map(|(way, v6)| format!("{way} {}", if v6 { "v6" } else { "v4" }));
        match observed[..] {
            [first, ref rest @ ..] if rest.iter().all(|other| *other == first) => {
                vec![row(names.join(", "), first, observed.len())]
            }
            _ => names.into_iter().zip(observed).map(|(name, one)| row(name, one, 1)).collect(),
        }
    }
}

/// Through which frontends client `listed` holds connections open.
const HELD: [(&str, bool); 2] = [("VIP", false), ("bypass nodePort", true)];

fn word(exchange: Exchange, stalled: &'static str, completed: &'static str) -> &'static str {
    match exchange {
        Exchange::Stalled => stalled,
        Exchange::Completed => completed,
        Exchange::Broken => "broken",
    }
}

/// The folder of the demo's YAML.
fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo")
}

/// Copies the YAML files of a folder, each whole by one rename, in the order of their names: with what
/// the last one says, all of them are in force.
fn copy(from: &Path, into: &Manifests) -> Result<()> {
    let list = || fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect();
    let list: std::io::Result<Vec<PathBuf>> = list();
    let mut paths = list.with_context(|| format!("cannot list {}", from.display()))?;
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    for path in paths {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        into.put_text(name, &text)?;
    }
    Ok(())
}
