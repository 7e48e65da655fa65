//! Reads one file without catching it half-written.
//!
//! Input: a path. Output: a text and whether it has settled: nobody was writing the file, as far as
//! events tell, and it did not change in the moment after it was written and while it was read.
//! Invariant: never blocks on what is no regular file, never reads more than [`LIMIT`].

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{listing::Stamp, watch::Watch};

/// A file that has not changed for this long has settled. The kernel stamps writes with a clock that
/// ticks every 10 ms at worst: only where the last write is longer ago does the next one show in stamps, which
/// count where events do not come.
pub(super) const SETTLED: Duration = Duration::from_millis(20);

/// Bytes of the largest file that is read.
pub(super) const LIMIT: u64 = 64 << 20;

/// What reading a file gave.
pub(super) enum Reading {
    /// A text that nobody was writing.
    Settled {
        /// The text.
        text: String,
        /// Its version.
        stamp: Stamp,
    },
    /// A text that was overwritten right after it was read.
    Unsettled {
        /// The text.
        text: String,
    },
    /// Someone is writing it.
    Busy {
        /// Try again after this long.
        again: Duration,
    },
    /// It cannot be read.
    Failed {
        /// Why.
        reason: String,
        /// The version that it is useless to try again.
        stamp: Option<Stamp>,
    },
}

/// Reads the file at `path`, a path without symlinks, once it has not changed for `settled`. An empty one has
/// settled only after `refill`:
/// a file that is truncated is empty before any event says that someone is writing it, and its writer
/// can be held up right there by a busy machine or disk.
pub(super) fn read(path: &Path, watch: &mut Watch, settled: Duration, refill: Duration) -> Reading {
    match try_read(path, watch, settled, refill) {
        Ok(reading) => reading,
        // Removed or replaced since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Reading::Busy { again: SETTLED },
        Err(error) => Reading::Failed { reason: error.to_string(), stamp: None },
    }
}

fn try_read(
    path: &Path,
    watch: &mut Watch,
    settled: Duration,
    refill: Duration,
) -> io::Result<Reading> {
    if let Some(again) = watch.writing(path) {
        return Ok(Reading::Busy { again });
    }
    // Without O_NONBLOCK, opening a pipe that has taken the file's place would block.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let first = stamp_of(&file)?;
    let age = age(&first);
    if first.length() == 0 && age < refill {
        return Ok(Reading::Busy { again: refill - age });
    }
    if let Some(left) = settled.checked_sub(age) {
        thread::sleep(left);
    }
    let before = stamp_of(&file)?;
    let settled = before.has_content_of(&first);
    let bytes = bytes_of(&file, before.length())?;
    // In this order: a writer that was done before the stamp is taken shows in the stamp, and one
    // that was not shows in the events.
    if let Some(again) = watch.writing(path) {
        return Ok(Reading::Busy { again });
    }
    let stamp = stamp_of(&file)?;
    let whole = |bytes: &Vec<u8>| u64::try_from(bytes.len()) == Ok(before.length());
    if !stamp.has_content_of(&before) || bytes.as_ref().is_some_and(|bytes| !whole(bytes)) {
        return Ok(Reading::Busy { again: SETTLED });
    }
    Ok(judge(bytes, stamp, settled))
}

/// The content of a file of this length; `None` where that is more than [`LIMIT`].
fn bytes_of(mut file: &File, length: u64) -> io::Result<Option<Vec<u8>>> {
    if length > LIMIT {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.by_ref().take(length + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn judge(bytes: Option<Vec<u8>>, stamp: Stamp, settled: bool) -> Reading {
    match bytes.map(String::from_utf8) {
        Some(Ok(text)) if settled => Reading::Settled { text, stamp },
        Some(Ok(text)) => Reading::Unsettled { text },
        Some(Err(_)) | None if !settled => Reading::Busy { again: SETTLED },
        Some(Err(error)) => {
            let reason = format!("not UTF-8 text: {}", error.utf8_error());
            Reading::Failed { reason, stamp: Some(stamp) }
        }
        None => {
            let reason = format!("larger than {LIMIT} bytes");
            Reading::Failed { reason, stamp: Some(stamp) }
        }
    }
}

fn stamp_of(file: &File) -> io::Result<Stamp> {
    Ok(Stamp::of(&file.metadata()?))
}

/// Time since the last change; none where the clock says that it is still to come.
fn age(stamp: &Stamp) -> Duration {
    let (seconds, nanoseconds) = stamp.changed();
    let changed = u64::try_from(seconds)
        .ok()
        .zip(u32::try_from(nanoseconds).ok())
        .map(|(seconds, nanoseconds)| UNIX_EPOCH + Duration::new(seconds, nanoseconds));
    let age = changed.map(|changed| SystemTime::now().duration_since(changed));
    age.and_then(Result::ok).unwrap_or_default()
}
