//! The pool of chunks: filled again only when the last window is gone, and free again then.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use ringwal::wal::block::Pool;

use crate::common::model;

/// A chunk goes to the disk and to delivery at once. Whoever finds it free writes to it.
#[test]
fn a_chunk_is_filled_again_when_all_reads_of_it_are_over() {
    model(3, || {
        let pool = Pool::new(1, 4096).unwrap();
        // Stands for the chunk's bytes, which loom does not watch.
        let bytes = Arc::new(UnsafeCell::new(1_u32));
        let block = pool.take().unwrap().freeze();
        let readers = [block.clone(), block].map(|block| {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                // SAFETY: loom watches it.
                bytes.with(|bytes| assert_eq!(unsafe { *bytes }, 1));
                drop(block);
            })
        });
        if let Some(chunk) = pool.take() {
            // SAFETY: loom watches it.
            bytes.with_mut(|bytes| unsafe { *bytes = 2 });
            drop(chunk);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!((pool.free(), pool.pinned()), (1, 0));
    });
}

/// Two frames of one chunk are pinned by one thread, as by the flush core, and let go by others.
#[test]
fn a_pinned_chunk_is_counted_once_and_until_the_end() {
    model(3, || {
        let pool = Pool::new(1, 4096).unwrap();
        let mut chunk = pool.take().unwrap();
        let first = chunk.freeze_front(512).pin();
        assert_eq!(pool.pinned(), 1);
        let delivery = thread::spawn(move || drop((first.clone(), first)));
        let second = chunk.freeze().pin();
        let third = second.clone();
        let again = thread::spawn(move || drop(second));
        assert_eq!(pool.free(), 0);
        drop(third);
        delivery.join().unwrap();
        again.join().unwrap();
        assert_eq!((pool.pinned(), pool.free()), (0, 1));
    });
}
