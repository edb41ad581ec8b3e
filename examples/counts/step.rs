//! Counts what a thread does, instruction by instruction.
//!
//! ```text
//!   the trap flag is set ──► after each instruction: SIGTRAP ──► the handler looks at the next one, and counts it
//! ```
//! The flag belongs to the thread, so that others go on undisturbed; no right, no tool and no counter of the processor is
//! needed. An instruction costs some microseconds meanwhile.

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::asm;
use std::cell::Cell;
use std::sync::Once;

/// What a thread has done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Counts {
    /// Instructions; one that repeats itself (`rep movsb`) is one.
    pub instructions: u64,
    /// Those among them that lock: with the prefix, and exchanges with memory, which do so without it. Of the program's own
    /// code: whether the C library's allocator takes its lock depends on what else was allocated before, so that ten of a
    /// batch came and went with changes elsewhere. Allocations are counted by themselves.
    pub locked: u64,
    /// System calls.
    pub calls: u64,
    /// Of memory, changes of its length included.
    pub allocations: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.instructions += more.instructions;
        self.locked += more.locked;
        self.calls += more.calls;
        self.allocations += more.allocations;
    }
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { instructions: 0, locked: 0, calls: 0, allocations: 0 }) };
    /// Where the instruction stands that was counted last.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// The bit of the flags register that makes the processor stop after each instruction.
const TRAP_FLAG: i32 = 1 << 8;

/// What `work` does on this thread.
pub(crate) fn counted(work: impl FnOnce()) -> Counts {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(handle_traps);
    let nothing = stepped(|| ());
    let all = stepped(work);
    Counts { instructions: all.instructions - nothing.instructions, ..all }
}

#[inline(never)]
fn stepped(work: impl FnOnce()) -> Counts {
    COUNTS.set(Counts::default());
    // SAFETY: the flag has no effect but the signal, which is handled.
    unsafe { asm!("pushfq", "or qword ptr [rsp], {flag}", "popfq", flag = const TRAP_FLAG) };
    work();
    // SAFETY: as above.
    unsafe { asm!("pushfq", "and qword ptr [rsp], {mask}", "popfq", mask = const !TRAP_FLAG) };
    COUNTS.get()
}

fn handle_traps() {
    // SAFETY: all zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_trap as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler does what a handler may: it looks at the instruction, and at cells of its thread.
    let set = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0, "no handler for SIGTRAP: {}", std::io::Error::last_os_error());
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over the context of the thread that it has interrupted.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    let mut next = Instruction::at(at);
    next.locks &= is_own(at);
    // One that repeats itself stops after each round.
    if LAST.replace(at) == at && next.repeats {
        return;
    }
    let counts = COUNTS.get();
    COUNTS.set(Counts {
        instructions: counts.instructions + 1,
        locked: counts.locked + u64::from(next.locks),
        calls: counts.calls + u64::from(next.calls),
        ..counts
    });
}

unsafe extern "C" {
    /// Where the program begins, and where its code ends: the linker's own symbols.
    static __executable_start: u8;
    static etext: u8;
}

/// Whether the instruction here is the program's own, not one of a shared library.
fn is_own(at: usize) -> bool {
    // Only where they lie is looked at.
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    (start..end).contains(&at)
}

/// What matters of an instruction.
#[derive(Clone, Copy, Default)]
struct Instruction {
    locks: bool,
    repeats: bool,
    calls: bool,
}

impl Instruction {
    /// The one at this address.
    fn at(start: usize) -> Self {
        let mut found = Self::default();
        let mut at = start as *const u8;
        loop {
            // SAFETY: part of the instruction that the processor is about to carry out.
            let byte = unsafe { at.read() };
            let behind = at.wrapping_add(1);
            // SAFETY: after a prefix, and after the opcodes below that ask for it, the instruction goes on.
            let next = || unsafe { behind.read() };
            match byte {
                0xf0 => found.locks = true,
                0xf2 | 0xf3 => found.repeats = true,
                // Segments, the length of operands, REX.
                0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 => {}
                // `xchg`: the second byte says whether with memory.
                0x86 | 0x87 => return Self { locks: next() >> 6 != 0b11, repeats: false, calls: false },
                0x0f => return Self { calls: next() == 0x05, repeats: false, ..found },
                // What works on strings can repeat itself; elsewhere the prefix says something else.
                0xa4..=0xa7 | 0xaa..=0xaf => return found,
                _ => return Self { repeats: false, ..found },
            }
            at = behind;
        }
    }
}

/// The system's allocator, which counts for each thread.
struct Counting;

fn note_allocation() {
    // A thread that ends may allocate when its cells are gone.
    let _ = COUNTS.try_with(|cell| {
        let counts = cell.get();
        cell.set(Counts { allocations: counts.allocations + 1, ..counts });
    });
}

// SAFETY: all is the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note_allocation();
        // SAFETY: the caller keeps the trait's rules, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note_allocation();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
