//! The wall clock, for records and collection only: it never reaches an artifact or a key.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 in UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "records say when they were made, and collection goes by age; neither reaches an artifact"
)]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
