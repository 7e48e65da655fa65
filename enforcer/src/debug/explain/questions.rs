//! Many questions in one process: the part of `explain` behind `--questions`.
//!
//! Input: lines of questions, read to the end before any is asked. Output: one table, or a JSON object a
//! line in the order of the questions. Invariant: all answers are of one image in force.

use std::{
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use super::{Asker, DebugError, ExplainError, Explanation, Options, outcome};
use crate::{
    chain::chain,
    debug::{
        Envelope, Output, SHAPE, json_line,
        screen::{Screen, plain, toned},
        sight::Sight,
        words, write,
    },
};

/// How often all is asked anew because what is in force changed meanwhile.
const ATTEMPTS: usize = 5;

/// One line of the answer in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Counted from 1.
    line: usize,
    question: &'a str,
    /// Why there is no answer.
    error: Option<String>,
    answer: Option<Explanation>,
}

/// Answers all questions.
pub(in crate::debug) fn answer(
    look: impl Fn() -> Result<Sight, DebugError>,
    options: &Options,
    from: &Path,
    output: Output,
) -> Result<ExitCode, DebugError> {
    let text = read(from)?;
    let questions: Vec<(usize, &str)> = questions(&text).collect();
    if questions.is_empty() {
        return Err(ExplainError::NoQuestions(from.to_owned()).into());
    }
    let lines = ask(look, options, &questions)?;
    match output {
        Output::Json => tell_lines(&lines)?,
        Output::Text => tell_table(&lines)?,
    }
    let unanswered = lines.iter().any(|line| line.answer.is_none());
    let answers = lines.iter().filter_map(|line| line.answer.as_ref());
    Ok(if unanswered { ExitCode::FAILURE } else { outcome(answers).code() })
}

fn read(from: &Path) -> Result<String, ExplainError> {
    let text = if from == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(from)
    };
    text.map_err(|source| ExplainError::Questions { path: from.to_owned(), source })
}

/// The lines that ask something, with their numbers.
fn questions(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let asked = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    (1..).zip(asked).filter(|(_, question)| !question.is_empty())
}

/// Source and target of a question; `common` is the target of those without.
fn parts<'a>(question: &'a str, common: Option<&'a str>) -> Result<[&'a str; 2], ExplainError> {
    let words = question.split_whitespace().filter(|word| *word != "->" && *word != "→");
    match (words.collect::<Vec<_>>().as_slice(), common) {
        ([source, target], _) => Ok([*source, *target]),
        ([source], Some(target)) => Ok([*source, target]),
        _ => Err(ExplainError::Line),
    }
}

fn ask<'a>(
    look: impl Fn() -> Result<Sight, DebugError>,
    options: &Options,
    questions: &[(usize, &'a str)],
) -> Result<Vec<Line<'a>>, DebugError> {
    for _ in 0..ATTEMPTS {
        let sight = look()?;
        let known = sight.known()?;
        let asker = Asker::of(&sight, &known)?;
        let one = |&(line, question): &(usize, &'a str)| {
            let answer = parts(question, options.source.as_deref())
                .map_err(DebugError::from)
                .and_then(|[source, target]| asker.explain(source, target, options));
            match answer {
                Ok(answer) => Line { line, question, error: None, answer: Some(answer) },
                Err(error) => Line { line, question, error: Some(chain(&error)), answer: None },
            }
        };
        let lines = questions.iter().map(one).collect();
        let now = sight.kernel.as_ref().ok().and_then(|kernel| kernel.image());
        if now == sight.image {
            return Ok(lines);
        }
    }
    Err(ExplainError::Changed.into())
}

fn tell_lines(lines: &[Line<'_>]) -> Result<(), DebugError> {
    let mut text = String::new();
    for view in lines {
        text.push_str(&json_line(&Envelope { version: SHAPE, command: "explain", view })?);
    }
    write(&text).map(drop)
}

fn tell_table(lines: &[Line<'_>]) -> Result<(), DebugError> {
    let screen = Screen::of_stdout();
    let answers = || lines.iter().filter_map(|line| line.answer.as_ref());
    let said = answers().flat_map(|answer| &answer.verdicts);
    let header = ["SOURCE", "DESTINATION", "FRONTEND", "CLUSTER", "VERDICT", "REASON", "WHY"];
    let rows = said.map(|it| {
        [
            plain(it.source.clone()),
            plain(format!("{}/{}", it.destination, it.protocol)),
            plain(it.frontend.as_ref().map_or("-", |frontend| frontend.kind)),
            plain(it.cluster.clone().unwrap_or_else(|| "-".to_owned())),
            toned(it.verdict, it.tone()),
            plain(it.reason),
            plain(it.why.clone()),
        ]
    });
    let mut text = screen.table(header, rows);
    for Line { line, question, error, answer } in lines {
        if let Some(error) = error {
            text.push_str(&format!("line {line}, {question}: {error}\n"));
        } else if answer.as_ref().is_some_and(|answer| answer.verdicts.is_empty()) {
            let none = "no frontend of this cluster is of the source's family";
            text.push_str(&format!("line {line}, {question}: {none}\n"));
        }
    }
    text.push_str(&format!("\n{}\n", words::count(lines.len(), "question", "questions")));
    if let Some(first) = answers().next() {
        if !first.is_in_force {
            text.push_str("no program hangs on any interface here: nothing is enforced\n");
        }
        if let Some(caveat) = &first.caveat {
            text.push_str(&format!("{caveat}\n"));
        }
    }
    write(&text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_lines_with_a_source_and_a_target_of_their_own_or_of_all() {
        let text = "192.0.2.1 c1\n\n# a remark\n 192.0.2.2 -> 192.0.2.9:443/udp # why\n192.0.2.3\n";
        let asked: Vec<_> = questions(text).collect();
        assert_eq!(asked.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(parts(asked[0].1, Some("c2")).unwrap(), ["192.0.2.1", "c1"]);
        assert_eq!(parts(asked[1].1, None).unwrap(), ["192.0.2.2", "192.0.2.9:443/udp"]);
        assert_eq!(parts(asked[2].1, Some("c2")).unwrap(), ["192.0.2.3", "c2"]);
        for wrong in ["192.0.2.3", "a b c", "->"] {
            assert!(matches!(parts(wrong, None), Err(ExplainError::Line)), "{wrong}");
        }
    }
}
