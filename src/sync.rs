//! Atomics, locks and cells, from `std` and `parking_lot` or, under `--cfg loom`, from loom: same names, so
//! that the models in `loom-tests/` run the code that ships. Nothing else in `src/` names `std::sync::atomic`.

#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, atomic};

/// What no model looks at (statistics, the number of a thread): `std`'s own, under loom too.
pub(crate) mod plain {
    #[cfg(loom)]
    pub(crate) use std::sync::atomic::Ordering;
    pub(crate) use std::sync::atomic::{AtomicU32, compiler_fence};
}

#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

/// A condition that a thread waits for under a [`Mutex`].
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

#[cfg(not(loom))]
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
pub(crate) use self::modelled::{Condvar, Mutex, MutexGuard};

/// loom's lock and condition behind the names and signatures of the ones that ship.
#[cfg(loom)]
mod modelled {
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    /// A lock; a panic under it ends the model anyway, so it knows no poison.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// The inside of the `Option` leaves it only while a `Condvar` waits.
    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
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
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Default for Condvar {
        fn default() -> Self {
            Self(loom::sync::Condvar::new())
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
}
