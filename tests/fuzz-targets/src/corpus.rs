//! The corpus in ordinary tests: every file, and mutants of the files for a while.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{TARGETS, Target};

const MUTANTS_FOR: Duration = Duration::from_secs(3);

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn each(ask: impl Fn(&str, Target, &[(PathBuf, Vec<u8>)])) {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 10, "{name}: {} files", files.len());
        ask(name, target, &files);
    }
}

#[test]
fn every_file_of_the_corpus_finds_nothing() {
    each(|_, target, files| files.iter().for_each(|(_, data)| target(data)));
}

#[test]
fn mutants_of_the_corpus_find_nothing() {
    each(|name, target, files| {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let (begin, mut count) = (Instant::now(), 0_u64);
        while begin.elapsed() < MUTANTS_FOR {
            let mut data = files[dice.below(files.len())].1.clone();
            for _ in 0..=dice.below(4) {
                mutate(&mut data, files, &mut dice);
            }
            target(&data);
            count += 1;
        }
        assert!(count > 10, "{name}: only {count} mutants");
    });
}

fn mutate(data: &mut Vec<u8>, files: &[(PathBuf, Vec<u8>)], dice: &mut Dice) {
    if data.is_empty() {
        data.push(dice.next() as u8);
    }
    let at = dice.below(data.len());
    match dice.below(6) {
        0 => data[at] = dice.next() as u8,
        1 => data[at] ^= 1 << dice.below(8),
        2 => data.truncate(at),
        3 => drop(data.remove(at)),
        4 => data.insert(at, dice.next() as u8),
        _ => {
            let other = &files[dice.below(files.len())].1;
            data.truncate(at);
            data.extend(&other[other.len().min(at)..]);
        }
    }
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
