//! How soon an edit reaches the packets of a continuous stream.
//!
//! Input: a stream and the moment of the write. Output: the time to the first packet that is judged
//! anew, as the stream's own counts show it.

use std::time::{Duration, Instant};

use crate::pairs::PairStream;

/// How often the stream is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// From the write to the first packet that was let through; `before` had come through until then.
///
/// # Panics
/// After `limit`: the edit is not enforced.
pub fn first_arrival(
    stream: &PairStream,
    before: u64,
    written: Instant,
    limit: Duration,
) -> Duration {
    while stream.progress().1 == before {
        assert!(written.elapsed() < limit, "the edit is not enforced");
        std::thread::sleep(LOOK);
    }
    written.elapsed()
}

/// From the write to the last packet that was let through, known by 100 ms without another one
/// while hundreds were sent.
///
/// # Panics
/// After `limit`: the edit is not enforced.
pub fn last_arrival(stream: &PairStream, written: Instant, limit: Duration) -> Duration {
    let (mut sent, mut arrived) = stream.progress();
    let mut last = Instant::now();
    loop {
        let now = stream.progress();
        if now.1 != arrived {
            (sent, arrived, last) = (now.0, now.1, Instant::now());
        } else if last.elapsed() > Duration::from_millis(100) && now.0 > sent + 300 {
            return last.saturating_duration_since(written);
        }
        assert!(written.elapsed() < limit, "the edit is not enforced");
        std::thread::sleep(LOOK);
    }
}
