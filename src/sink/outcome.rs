//! What a sink answers, and how closures say it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest text of a [`Reason`] in bytes; what is longer is cut off.
pub const REASON_LEN_MAX: usize = 1024;

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The same for all entries.
    All(Verdict),
    /// One verdict for each entry, in the batch's order. As many as the batch has entries: with any
    /// other number all of it is retried.
    Each(Vec<Verdict>),
}

impl Outcome {
    /// All entries are delivered.
    #[must_use]
    pub const fn ack() -> Self {
        Self::All(Verdict::Ack)
    }

    /// All entries are to be offered again.
    pub fn retry(why: impl Into<Reason>) -> Self {
        Self::All(Verdict::Retry(why.into()))
    }

    /// All entries are to be parked.
    pub fn park(why: impl Into<Reason>) -> Self {
        Self::All(Verdict::Park(why.into()))
    }
}

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Delivered.
    Ack,
    /// Not delivered, to be offered again.
    Retry(Reason),
    /// Not deliverable: into the park log.
    Park(Reason),
}

/// Why an entry was not delivered: a text of up to 1 KiB, and when to try again, if the sink says.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason {
    text: Arc<str>,
    after: Option<Duration>,
}

impl Reason {
    /// A reason; the text is cut off after 1 KiB.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: Self::cut(text).into(), after: None }
    }

    /// As much of a text as is kept. (`str::floor_char_boundary` is newer than our oldest compiler.)
    pub(crate) fn cut(text: &str) -> &str {
        let mut len = text.len().min(REASON_LEN_MAX);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        &text[..len]
    }

    /// Try again after this time, whatever [`Retry`](crate::Retry) says.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { after: Some(delay), ..self }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When to try again, if the sink has said so.
    #[must_use]
    pub const fn delay(&self) -> Option<Duration> {
        self.after
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)?;
        self.after.map_or(Ok(()), |after| write!(f, " after {after:?}"))
    }
}

/// Why a closure did not deliver. Any error becomes one with `?` and means: try again.
///
/// ```
/// use std::time::Duration;
/// use ringwal::{Batch, SinkError, blocking_fn};
///
/// let sink = blocking_fn(|batch: &Batch<String>| {
///     let id: u64 = batch[0].value.parse().map_err(SinkError::park)?;    // will never parse
///     if id == 0 {
///         return Err(SinkError::retry_after(Duration::from_secs(60), "come back in a minute"));
///     }
///     std::fs::write("/dev/null", &batch[0].value)?;                      // may work next time
///     Ok(())
/// });
/// # fn check<T, S: ringwal::Sink<T>>(_: S) {}
/// # check(sink);
/// ```
pub struct SinkError {
    error: Box<dyn Error + Send + Sync>,
    park: bool,
    after: Option<Duration>,
}

impl SinkError {
    /// Try again, after the delay of [`Retry`](crate::Retry).
    pub fn retry(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), park: false, after: None }
    }

    /// Try again after `delay`.
    pub fn retry_after(delay: Duration, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), park: false, after: Some(delay) }
    }

    /// Do not try again: into the park log.
    pub fn park(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), park: true, after: None }
    }

    /// As the verdict on an entry, for sinks that answer one for each.
    #[must_use]
    pub fn into_verdict(self) -> Verdict {
        let mut text = self.error.to_string();
        let mut source = self.error.source();
        while let Some(cause) = source.filter(|_| text.len() < REASON_LEN_MAX) {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let reason = Reason { after: self.after, ..Reason::new(&text) };
        if self.park { Verdict::Park(reason) } else { Verdict::Retry(reason) }
    }
}

// `SinkError` is no `Error` itself, as otherwise this would collide with `From<T> for T`.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for SinkError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, park, after } = self;
        f.debug_struct("SinkError").field("error", error).field("park", park).field("after", after).finish()
    }
}

/// What a closure may answer when all went well, as far as it did.
pub trait IntoOutcome: 'static {
    /// Whether the answer may differ from entry to entry.
    const EACH: bool;

    /// The answer.
    fn into_outcome(self) -> Outcome;
}

/// All delivered.
impl IntoOutcome for () {
    const EACH: bool = false;

    fn into_outcome(self) -> Outcome {
        Outcome::ack()
    }
}

/// One for all.
impl IntoOutcome for Verdict {
    const EACH: bool = false;

    fn into_outcome(self) -> Outcome {
        Outcome::All(self)
    }
}

/// One for each.
impl IntoOutcome for Vec<Verdict> {
    const EACH: bool = true;

    fn into_outcome(self) -> Outcome {
        Outcome::Each(self)
    }
}

impl IntoOutcome for Outcome {
    const EACH: bool = true;

    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<O: IntoOutcome> IntoOutcome for Result<O, SinkError> {
    const EACH: bool = O::EACH;

    fn into_outcome(self) -> Outcome {
        match self {
            Ok(answer) => answer.into_outcome(),
            Err(error) => Outcome::All(error.into_verdict()),
        }
    }
}
