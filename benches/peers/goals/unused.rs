//! What the features of the library cost pushes while nobody uses them: the same pushes in a build with all and in one
//! with none of them, each in a process of its own.

use std::process::Command;

use crate::measure::Scale;
use crate::table::Table;

/// As `push_alone` prints them.
pub(crate) const PUSHES: [&str; 2] = ["pinned", "shared"];

pub(crate) fn name(push: &str, features: &str) -> String {
    format!("push / 8 B / {push} / lazy / build with {features} of the features")
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    // In a directory of its own: another set of features is another build of everything.
    let plain = ["--no-default-features", "--target-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/plain")];
    let (all, none) = (push_alone(scale, &[]), push_alone(scale, &plain));
    for ((push, all), none) in PUSHES.into_iter().zip(all).zip(none) {
        table.add_beside(name(push, "all"), "ns", all, &name(push, "none"));
        table.add(name(push, "none"), "ns", none);
    }
}

/// Builds it where that is not done yet, and runs it: nanoseconds of each kind of push.
fn push_alone(scale: Scale, arguments: &[&str]) -> [f64; 2] {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "--locked", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .args(["--bench", "push_alone"])
        .args(arguments)
        .args(["--", &scale.entries.to_string()])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "push_alone: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let figure = |push: &str| text.lines().find_map(|line| line.strip_prefix(push)?.trim().parse().ok());
    PUSHES.map(|push| figure(push).unwrap_or_else(|| panic!("no figure of {push} in {text:?}")))
}
