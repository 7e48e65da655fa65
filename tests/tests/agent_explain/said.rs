//! What `explain --questions` answers.

use std::net::IpAddr;
use std::time::Duration;

use enforcer_tests::exec;
use serde_json::Value;

use crate::fleet::Fleet;
use crate::questions::Asked;

/// A question with its answer.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) asked: Asked,
    pub(crate) side: String,
    pub(crate) verdict: String,
    pub(crate) reason: String,
    pub(crate) cluster: Option<String>,
    /// Of the frontend.
    pub(crate) kind: Option<String>,
    pub(crate) range: Option<String>,
    object: Option<String>,
    field: Option<String>,
}

/// Cases whose packets are judged and counted alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) verdict: String,
    pub(crate) reason: String,
    /// Who counts them, where there is no doubt.
    pub(crate) cluster: Option<String>,
    /// Whether gated pods send them, which other programs judge besides.
    pub(crate) gated: bool,
}

impl Case {
    pub(crate) fn group(&self, fleet: &Fleet) -> Group {
        let certain = !fleet.is_contested(self.asked.to);
        Group {
            verdict: self.verdict.clone(),
            reason: self.reason.clone(),
            cluster: self.cluster.clone().filter(|_| certain),
            gated: fleet.sender(&self.asked).is_some(),
        }
    }

    /// Object and field of an entry in a list, where that decides.
    pub(crate) fn entry(&self) -> Option<(String, String)> {
        let is_listed = self.reason == "listed";
        Some((self.object.clone()?, self.field.clone()?)).filter(|_| is_listed)
    }
}

/// Asks, in as few processes as there are kinds of questions.
pub(crate) fn ask(fleet: &Fleet, asked: &[Asked]) -> Vec<Case> {
    type Kind<'a> = (&'a [&'a str], fn(&Asked) -> bool);
    let kinds: [Kind<'_>; 3] = [
        (&[], |it| !it.egress && !it.uplink),
        (&["--side", "uplink"], |it| it.uplink),
        (&["--egress"], |it| it.egress),
    ];
    let mut cases: Vec<Option<Case>> = asked.iter().map(|_| None).collect();
    for (options, is_of_kind) in kinds {
        let of_kind: Vec<usize> = (0..asked.len()).filter(|at| is_of_kind(&asked[*at])).collect();
        let lines = of_kind.iter().map(|at| {
            let Asked { source, to, udp, .. } = asked[*at];
            format!("{source} -> {to}{}\n", if udp { "/udp" } else { "" })
        });
        let arguments = [&["explain", "--questions", "-", "--output", "json"], options].concat();
        let command = fleet.installation.debugging(&arguments);
        let output =
            exec::output(command, &lines.collect::<String>(), Duration::from_secs(60)).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        // Some of so many are denied.
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert_eq!(text.lines().count(), of_kind.len());
        for ((at, line), number) in of_kind.iter().zip(text.lines()).zip(1..) {
            let answer: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&answer["line"], &answer["error"]), (&number.into(), &Value::Null));
            cases[*at] = Some(case(asked[*at], &answer["answer"]));
        }
    }
    cases.into_iter().map(Option::unwrap).collect()
}

fn case(asked: Asked, answer: &Value) -> Case {
    let [said] = &answer["verdicts"].as_array().unwrap()[..] else {
        panic!("one place has one verdict: {answer:#}")
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    assert_eq!(said["source"].as_str().unwrap().parse::<IpAddr>().unwrap(), asked.source);
    Case {
        asked,
        side: text(&answer["side"]).unwrap(),
        verdict: text(&said["verdict"]).unwrap(),
        reason: text(&said["reason"]).unwrap(),
        cluster: text(&said["cluster"]),
        kind: text(&said["frontend"]["kind"]),
        range: text(&said["range"]),
        object: text(&said["object"]),
        field: text(&said["field"]),
    }
}
