//! Atomics, locks, channels and threads, from `std` and `parking_lot` or, in a checker, from there: same names,
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

/// A condition that a thread waits for under a [`Mutex`].
#[cfg(not(any(loom, shuttle)))]
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

#[cfg(not(any(loom, shuttle)))]
impl Condvar {
    /// Lets go of the lock and waits; tells whether the time was up first. No wake-up without a cause.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Option<std::time::Duration>) -> bool {
        match timeout {
            Some(timeout) => self.0.wait_for(guard, timeout).timed_out(),
            None => {
                self.0.wait(guard);
                false
            }
        }
    }

    /// Wakes the one thread that waits.
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

#[cfg(loom)]
pub(crate) use self::modelled::ArrayQueue;
#[cfg(not(loom))]
pub(crate) use crossbeam_queue::ArrayQueue;

#[cfg(any(loom, shuttle))]
pub(crate) use self::modelled::{Condvar, Mutex, MutexGuard};

/// The checker's lock and condition behind the names and signatures of the ones that ship.
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

    /// The inside of the `Option` leaves it only while a `Condvar` waits.
    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
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
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    /// A condition; a model has no time, so a timeout never comes.
    #[derive(Debug)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Default for Condvar {
        fn default() -> Self {
            Self(sync::Condvar::new())
        }
    }

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Option<Duration>) -> bool {
            let inner = guard.0.take().unwrap();
            guard.0 = Some(self.0.wait(inner).unwrap());
            false
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
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
