//! Where a setting was read, so that what is wrong with it can be found.

use std::fmt;
use std::path::PathBuf;

/// Where a setting stands that was not made by code.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// On this line of a text, counted from 1.
    Line(usize),
    /// On this line of a file.
    File(PathBuf, usize),
    /// In this variable of the environment.
    Variable(String),
    /// In a text that another program read with serde.
    Embedded,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Embedded => f.write_str("the settings"),
        }
    }
}
