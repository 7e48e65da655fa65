//! The gate opens and shuts under traffic; what the policy no longer grants is cut.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use enforcer_tests::gated::Gated;
use enforcer_tests::netns::Netns;
use enforcer_tests::talk::{Conversation, Exchange, Outcome, connect};
use enforcer_tests::topology::Cni;

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);
const TOGGLES: usize = 100;

/// One attempt.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    began: Instant,
    ended: Instant,
    outcome: Outcome,
}

/// Attempts one after the other, by those who want to know.
struct Stream {
    to: SocketAddr,
    attempts: Mutex<Vec<Attempt>>,
}

impl Stream {
    fn to(to: SocketAddr) -> Stream {
        Stream { to, attempts: Mutex::default() }
    }

    fn keep_trying(&self, ns: &Netns, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let began = Instant::now();
            // As patient as a busy machine is slow: what is denied is answered, see `--reject`.
            let outcome = connect(ns, None, self.to, LIMIT);
            let attempt = Attempt { began, ended: Instant::now(), outcome };
            self.attempts.lock().unwrap().push(attempt);
            // Fewer than what is answered at most.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for an attempt that began after this and has ended.
    fn await_attempt(&self, since: Instant) {
        let end = Instant::now() + LIMIT;
        while self.attempts.lock().unwrap().last().is_none_or(|last| last.began < since) {
            assert!(Instant::now() < end, "no attempt at {} within {LIMIT:?}", self.to);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// How those ended that lie wholly in one of these times, and whether all did so.
    fn judge(&self, times: &[(Instant, Instant)], expected: Outcome) -> usize {
        let attempts = self.attempts.lock().unwrap();
        let inside = attempts.iter().filter(|attempt| {
            times.iter().any(|(from, to)| attempt.began >= *from && attempt.ended <= *to)
        });
        let inside: Vec<&Attempt> = inside.collect();
        let wrong = inside.iter().filter(|attempt| attempt.outcome != expected);
        let wrong: Vec<_> = wrong.collect();
        assert!(
            wrong.is_empty(),
            "{}: {expected} expected, of {}: {wrong:?}",
            self.to,
            inside.len()
        );
        inside.len()
    }
}

#[test]
fn the_gate_toggled_a_hundred_times_under_traffic_gives_no_wrong_verdict() {
    let mut gated = Gated::small(Cni::Routed).unwrap();
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let installation = installation.arguments(&["--reject", "reset"]);
    let agent = installation.start().unwrap();
    let pod = gated.api_server().ns.clone();
    let granted = [false, true].map(|v6| Stream::to(gated.address("etcd", v6)));
    let refused = [false, true].map(|v6| Stream::to(gated.address("etcd of c2", v6)));
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    // Times in which nothing changed, while the gate was on and off.
    let mut times = [Vec::new(), Vec::new()];
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        for stream in granted.iter().chain(&refused) {
            let (pod, stop) = (&pod, &stop);
            scope.spawn(move || stream.keep_trying(pod, stop));
        }
        let toggled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for toggle in 0..=TOGGLES {
                let is_on = toggle % 2 == 0;
                if toggle > 0 {
                    gated.stage.cluster.gate = Some(is_on);
                    took.push(agent.enforces(|| gated.stage.publish()).unwrap());
                }
                let since = Instant::now();
                for stream in granted.iter().chain(&refused) {
                    stream.await_attempt(since);
                }
                times[usize::from(is_on)].push((since, Instant::now()));
            }
        }));
        stop.store(true, Ordering::Release);
        if let Err(panic) = toggled {
            std::panic::resume_unwind(panic);
        }
    });
    let end = Instant::now();
    let [off, on] = times;
    let mut judged = 0;
    for stream in &granted {
        judged += stream.judge(&[(begin, end)], Outcome::Answered);
    }
    for stream in &refused {
        let (shut, open) =
            (stream.judge(&on, Outcome::Refused), stream.judge(&off, Outcome::Answered));
        assert!(shut > TOGGLES / 2 && open >= TOGGLES / 2, "{shut} {open}");
        judged += shut + open;
    }
    took.sort();
    println!(
        "{TOGGLES} toggles in {:?}, written to enforced p50 {:?}, max {:?}; {judged} attempts judged",
        end - begin,
        took[TOGGLES / 2],
        took[TOGGLES - 1],
    );
}

#[test]
fn connections_to_what_is_not_granted_any_more_are_cut() {
    for cni in [Cni::Bridge, Cni::Routed] {
        let mut gated = Gated::small(cni).unwrap();
        gated.stage.cluster.gate = None;
        gated.publish().unwrap();
        let installation = gated.stage.installation().unwrap().interfaces("auto");
        let agent = installation.start().unwrap();
        let open = |gated: &Gated, label| {
            [false, true].map(|v6| {
                let to = gated.address(label, v6);
                let mut talk = Conversation::open(&gated.api_server().ns, None, to, LIMIT).unwrap();
                assert_eq!(talk.exchange(100, LIMIT), Exchange::Completed);
                talk
            })
        };
        let client = gated.stage.network.host("listed").ns.clone();
        let mut watch = Conversation::open(&client, None, gated.api_address(false), LIMIT).unwrap();
        let mut foreign = open(&gated, "etcd of c2");
        let mut own = open(&gated, "etcd");
        // The gate goes on: another cluster's etcd is gone, its own stays.
        gated.stage.cluster.gate = Some(true);
        agent.enforces(|| gated.stage.publish()).unwrap();
        for talk in &mut foreign {
            assert_eq!(talk.exchange(100, SHORT), Exchange::Stalled, "{cni:?}");
        }
        for talk in &mut own {
            assert_eq!(talk.exchange(100, LIMIT), Exchange::Completed, "{cni:?}");
        }
        // Its own etcd is granted no more.
        let etcd = gated.services.remove(0);
        assert_eq!((etcd.name.as_str(), etcd.namespace.as_str()), ("etcd", "cluster-c1"));
        agent.enforces(|| gated.publish()).unwrap();
        for talk in &mut own {
            assert_eq!(talk.exchange(100, SHORT), Exchange::Stalled, "{cni:?}");
        }
        let pod = gated.api_server().ns.clone();
        for v6 in [false, true] {
            assert_eq!(connect(&pod, None, gated.address("etcd", v6), SHORT), Outcome::TimedOut);
        }
        assert_eq!(watch.exchange(100, LIMIT), Exchange::Completed);
        // The gate goes off: at once, and with nothing left to be undone.
        gated.stage.cluster.gate = Some(false);
        agent.enforces(|| gated.stage.publish()).unwrap();
        for talk in foreign.iter_mut().chain(&mut own) {
            assert_eq!(talk.exchange(100, LIMIT), Exchange::Completed, "{cni:?}");
        }
    }
}
