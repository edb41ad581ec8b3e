//! How the program ends: one line that says what, where, and what to do, and an exit code.
//!
//! | code    | means                                                                              |
//! |---------|------------------------------------------------------------------------------------|
//! | 0       | done: the input was read to its end and every line is delivered; nothing is damaged |
//! | 1       | it failed, or damage was found; the last line on standard error says what           |
//! | 2       | it was asked for what cannot be: wrong arguments, no such queue, an unreadable one  |
//! | 3       | the input was read to its end, but lines are left in the log, parked or not kept    |
//! | 4       | `salvage` is done and its target complete, but something is lost or may be delivered again |
//! | 130 143 | stopped in order by SIGINT or SIGTERM; the next run goes on from here               |
//! | 141     | standard output was closed; said by nothing but this code                           |

use std::fmt;

/// Why the program ends without success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

/// What most functions here give.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Exit code of a run that was read to its end and has not delivered all.
pub(crate) const LEFT: u8 = 3;
/// Exit code of a salvage that is complete but for what it reports.
pub(crate) const NOT_ALL: u8 = 4;
/// Exit code of a run whose standard output was closed: what a shell shows for SIGPIPE.
pub(crate) const BROKEN_PIPE: u8 = 141;

impl Failure {
    /// It was tried and failed.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// It was not tried, as it cannot be.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// Ends with this code and says nothing.
    pub(crate) const fn quiet(code: u8) -> Self {
        Self { code, text: String::new() }
    }

    /// An error of writing to standard output.
    pub(crate) fn stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::quiet(BROKEN_PIPE);
        }
        Self::new(format!("cannot write to standard output: {error}; see where it goes to"))
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// Whether there is nothing to say.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the cause had to say.
        let mut rest = self.text.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(rest.next().unwrap_or_default())?;
        rest.try_for_each(|line| write!(f, " {line}"))
    }
}
