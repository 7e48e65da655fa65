//! A GET over plain HTTP from inside a namespace, and the samples in a metrics page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

const LIMIT: Duration = Duration::from_secs(5);

/// Gets `path` from the server at `at`: status code and body.
pub fn get(ns: &Netns, at: SocketAddr, path: &str) -> Result<(u16, String)> {
    ns.enter(|| get_here(at, path)).with_context(|| format!("cannot get http://{at}{path}"))
}

fn get_here(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // HTTP/1.0: the server closes after the body and never cuts it into chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("the answer has no status")?, body.to_owned()))
}

/// The one sample of `name` that has at least these labels, from a page in Prometheus' format.
pub fn sample(page: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    match samples(page, name, labels)[..] {
        [one] => Ok(one),
        [] => bail!("no sample {name} with {labels:?}"),
        ref more => bail!("{} samples {name} with {labels:?}", more.len()),
    }
}

/// All samples of `name` that have at least these labels.
pub fn samples(page: &str, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.filter_map(parse);
    parsed
        .filter(|(found, set, _)| {
            let has = |(k, v): &(&str, &str)| set.iter().any(|(key, value)| key == k && value == v);
            *found == name && labels.iter().all(has)
        })
        .map(|(_, _, value)| value)
        .collect()
}

type Sample<'a> = (&'a str, Vec<(String, String)>, f64);

/// `name{key="value",…} number …`
fn parse(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((key.trim_start_matches(',').to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    Some((name, labels, rest.split_whitespace().next()?.parse().ok()?))
}

/// A label's value up to its closing quote, and what comes after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP denied_packets Packets.\n# TYPE denied_packets counter\n\
        denied_packets_total{cluster=\"c1\",family=\"ipv4\"} 12\n\
        denied_packets_total{cluster=\"c2\",family=\"ipv4\"} 5\n\
        odd{text=\"a \\\"b\\\", c=\\\\ }\"} 1.5 1700000000\n\
        images_total 3\n# EOF\n";

    #[test]
    fn a_sample_is_found_by_some_of_its_labels() {
        let get = |name, labels: &[_]| sample(PAGE, name, labels).ok();
        assert_eq!(get("denied_packets_total", &[("cluster", "c1")]), Some(12.0));
        assert_eq!(get("denied_packets_total", &[("family", "ipv4")]), None);
        assert_eq!(get("denied_packets_total", &[("cluster", "c3")]), None);
        assert_eq!(get("odd", &[("text", "a \"b\", c=\\ }")]), Some(1.5));
        assert_eq!(get("images_total", &[]), Some(3.0));
        assert_eq!(samples(PAGE, "denied_packets_total", &[]), [12.0, 5.0]);
    }
}
