//! Something that is tried at each commit where it pays, and more and more seldom where it does not.

/// Commits that go by at most between a try in vain and the next one.
const SKIPPED_MAX: u32 = 256;

/// Whether the next commit is one to try it at.
#[derive(Debug, Default)]
pub(super) struct Tries {
    skip: u32,
    /// How many commits go by after the next try in vain.
    skip_next: u32,
}

impl Tries {
    pub(super) const fn is_trying(&self) -> bool {
        self.skip == 0
    }

    /// A commit: whether it is tried at this one.
    pub(super) fn next(&mut self) -> bool {
        let tries = self.is_trying();
        self.skip = self.skip.saturating_sub(1);
        tries
    }

    /// How the last try went. In vain: so many commits go by without another one, twice as many each time.
    pub(super) fn tried(&mut self, pays: bool) {
        self.skip_next = if pays { 0 } else { (self.skip_next * 2).clamp(1, SKIPPED_MAX) };
        self.skip = self.skip_next;
    }
}
