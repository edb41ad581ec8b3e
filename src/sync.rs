//! Atomics, locks, channels and threads, from `std`, `parking_lot` and (the futex) `io/` or, in a checker, from there: same names,
//! so that what is checked is the code that ships. Nothing else in `src/` names `std::sync::atomic`.
//!
//! | built with | atomics, locks | channels, threads | what runs on it |
//! |---|---|---|---|
//! | nothing | `std`, `parking_lot` | `std` | what ships |
//! | `--cfg loom` | loom | `std`: no model goes there | `loom-tests/`: one structure, every interleaving |
//! | `--cfg shuttle` | shuttle | shuttle | `tests/shuttle/`: the whole queue, thousands of schedules |

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{Arc, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, atomic};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Arc, atomic};

#[cfg(not(shuttle))]
pub(crate) use std::{sync::mpsc, thread, thread_local};

#[cfg(shuttle)]
pub(crate) use shuttle::{sync::mpsc, thread, thread_local};

/// What no model looks at (statistics, the number of a thread): `std`'s own, in a checker too.
pub(crate) mod plain {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};
}

#[cfg(not(any(loom, shuttle)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use crate::io::futex::{Deadline, Futex};

#[cfg(loom)]
pub(crate) use self::modelled::ArrayQueue;
#[cfg(not(loom))]
pub(crate) use crossbeam_queue::ArrayQueue;

#[cfg(any(loom, shuttle))]
pub(crate) use self::modelled::{Deadline, Futex, Mutex, MutexGuard};

/// The checker's lock and futex behind the names and signatures of the ones that ship.
#[cfg(any(loom, shuttle))]
mod modelled {
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    #[cfg(loom)]
    pub(crate) use self::bounded::ArrayQueue;
    #[cfg(loom)]
    use loom::sync;
    #[cfg(shuttle)]
    use shuttle::sync;

    /// A lock; a panic under it ends the model anyway, so it knows no poison.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(sync::MutexGuard<'a, T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(self.0.lock().unwrap())
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(MutexGuard)
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap()
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }

    /// A model has no time, so a deadline never comes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Deadline;

    impl Deadline {
        pub(crate) fn after(_timeout: Option<Duration>) -> Self {
            Self
        }

        pub(crate) fn is_over(self) -> bool {
            false
        }
    }

    /// What the kernel does with a futex, by a lock and a condition: it compares and sleeps under the lock.
    #[derive(Debug)]
    pub(crate) struct Futex(sync::atomic::AtomicU32, sync::Mutex<()>, sync::Condvar);

    impl Default for Futex {
        fn default() -> Self {
            Self(sync::atomic::AtomicU32::new(0), sync::Mutex::new(()), sync::Condvar::new())
        }
    }

    impl Futex {
        pub(crate) fn word(&self) -> u32 {
            self.0.load(sync::atomic::Ordering::Acquire)
        }

        pub(crate) fn wait(&self, word: u32, _deadline: Deadline) {
            let held = self.1.lock().unwrap();
            if self.0.load(sync::atomic::Ordering::Relaxed) == word {
                drop(self.2.wait(held).unwrap());
            }
        }

        pub(crate) fn wake_all(&self) {
            self.0.fetch_add(1, sync::atomic::Ordering::Release);
            drop(self.1.lock().unwrap());
            self.2.notify_all();
        }
    }

    /// loom does not see into crossbeam's queue. Whoever takes something out of this one sees, as there, what
    /// was done before it was put in.
    #[cfg(loom)]
    mod bounded {
        use std::collections::VecDeque;

        use super::Mutex;

        #[derive(Debug)]
        pub(crate) struct ArrayQueue<T> {
            held: Mutex<VecDeque<T>>,
            len_max: usize,
        }

        impl<T> ArrayQueue<T> {
            pub(crate) fn new(len_max: usize) -> Self {
                Self { held: Mutex::new(VecDeque::new()), len_max }
            }

            pub(crate) fn push(&self, value: T) -> Result<(), T> {
                let mut held = self.held.lock();
                if held.len() == self.len_max {
                    return Err(value);
                }
                held.push_back(value);
                Ok(())
            }

            pub(crate) fn pop(&self) -> Option<T> {
                self.held.lock().pop_front()
            }

            pub(crate) fn len(&self) -> usize {
                self.held.lock().len()
            }

            pub(crate) fn is_empty(&self) -> bool {
                self.len() == 0
            }

            pub(crate) fn is_full(&self) -> bool {
                self.len() == self.len_max
            }
        }
    }
}
