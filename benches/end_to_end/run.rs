//! Rounds of parts: every round runs every part once, so that a slow minute of the machine hits them all.

use crate::measure::Scale;
use crate::table::Table;

/// In a document: what follows it is a program's output.
const MARK: &str = "<!-- measured -->\n";

/// A measurement, by the name under which it may be asked for.
pub(crate) type Part = (&'static str, fn(Scale, &mut Table));

/// What the command line asks for.
pub(crate) struct Wish {
    pub(crate) scale: Scale,
    parts: Vec<String>,
    /// Where to write each figure of each round.
    csv: Option<String>,
    /// The document that takes the output.
    into: Option<String>,
}

impl Wish {
    /// Reads the command line; ends the program when it names a part that is not there.
    pub(crate) fn read(known: &[Part]) -> Self {
        let mut wish = Self { scale: Scale::FULL, parts: Vec::new(), csv: None, into: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rounds" => {
                    let rounds = args.next().and_then(|rounds| rounds.parse().ok());
                    wish.scale.rounds = rounds.expect("--rounds takes a number");
                }
                "--csv" => wish.csv = Some(args.next().expect("--csv takes the name of a file")),
                "--into" => wish.into = Some(args.next().expect("--into takes the name of a document")),
                // The second is what criterion's benchmarks know.
                "--quick" | "--test" => wish.scale = Scale::QUICK,
                // Cargo's own.
                "--bench" => {}
                name => wish.parts.push(name.to_owned()),
            }
        }
        if let Some(unknown) = wish.parts.iter().find(|name| known.iter().all(|(part, _)| part != name)) {
            let parts: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            eprintln!("no part {unknown:?}; there are {}", parts.join(", "));
            std::process::exit(2);
        }
        wish
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    pub(crate) fn run(&self, known: &[Part]) -> Table {
        let mut table = Table::default();
        for round in 1..=self.scale.rounds {
            for (name, part) in known.iter().filter(|(name, _)| self.wants(name)) {
                eprintln!("round {round} of {}: {name}", self.scale.rounds);
                part(self.scale, &mut table);
            }
        }
        if let Some(file) = &self.csv {
            std::fs::write(file, table.csv()).unwrap_or_else(|error| panic!("{file} cannot be written: {error}"));
            eprintln!("each figure of each round: {file}");
        }
        table
    }

    /// Prints it, and puts it into the document in place of what was measured before.
    pub(crate) fn publish(&self, output: &str) {
        print!("{output}");
        if let Some(file) = &self.into {
            let old = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"));
            let (text, _) = old.split_once(MARK).unwrap_or_else(|| panic!("{file} has no line {MARK:?}"));
            let new = format!("{text}{MARK}\n{output}");
            std::fs::write(file, new).unwrap_or_else(|error| panic!("{file} cannot be written: {error}"));
        }
    }
}
