//! A bounded single-producer single-consumer ring of blocks: each is a small header with a run of values.
//!
//! Both thread boundaries use it: blocks of frames from acquire to infer, decisions from infer to publish. All memory is
//! allocated when the ring is made; pushing and popping never allocate, lock or enter the kernel. Leaves sleeping and
//! waking to the callers.

use rtrb::{Consumer, Producer, RingBuffer};

/// Makes a ring that holds up to `blocks` blocks with `values` values in all.
pub fn block_ring<H: Copy, T: Copy + Default>(blocks: usize, values: usize) -> (BlockTx<H, T>, BlockRx<H, T>) {
    let (headers_tx, headers_rx) = RingBuffer::new(blocks);
    let (values_tx, values_rx) = RingBuffer::new(values);
    (BlockTx { headers: headers_tx, values: values_tx }, BlockRx { headers: headers_rx, values: values_rx, taken: 0 })
}

/// The writing end.
pub struct BlockTx<H, T> {
    headers: Producer<(H, usize)>,
    values: Producer<T>,
}

impl<H: Copy, T: Copy + Default> BlockTx<H, T> {
    /// Appends a block; `false` when the ring has no room for it, and then nothing was written.
    pub fn push(&mut self, header: H, values: &[T]) -> bool {
        // A header is published after its values, so whoever sees the header finds the values there.
        if self.headers.is_full() {
            return false;
        }
        let Ok(mut chunk) = self.values.write_chunk(values.len()) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        let split = first.len();
        first.copy_from_slice(&values[..split]);
        second.copy_from_slice(&values[split..]);
        chunk.commit_all();
        self.headers.push((header, values.len())).is_ok()
    }

    /// Returns whether a block of `values` values would find no room.
    pub fn is_full(&self, values: usize) -> bool {
        // The reader frees a block's values before its header.
        self.headers.is_full() || self.values.slots() < values
    }

    /// Returns the number of values that wait to be read.
    pub fn values(&self) -> usize {
        self.values.buffer().capacity() - self.values.slots()
    }

    /// Returns whether half of the ring is in use, be it by blocks or by values.
    pub fn is_half_full(&self) -> bool {
        let half = |slots: usize, capacity: usize| slots * 2 <= capacity;
        half(self.headers.slots(), self.headers.buffer().capacity())
            || half(self.values.slots(), self.values.buffer().capacity())
    }

    /// Returns whether the reader is gone: nothing that is pushed will ever be read.
    pub fn is_abandoned(&self) -> bool {
        self.headers.is_abandoned()
    }
}

/// Blocks that are read together, or a part of one.
pub struct Run<'a, H, T> {
    pub first: &'a H,
    pub last: &'a H,
    /// Values of the last block that are left for the next call.
    pub left: usize,
    /// In two pieces if they wrap around the end of the ring.
    pub values: (&'a [T], &'a [T]),
}

impl<H, T> Run<'_, H, T> {
    /// Returns the number of values.
    pub fn count(&self) -> usize {
        self.values.0.len() + self.values.1.len()
    }
}

/// The reading end.
pub struct BlockRx<H, T> {
    headers: Consumer<(H, usize)>,
    values: Consumer<T>,
    /// Values of the oldest block that were read before.
    taken: usize,
}

impl<H: Copy, T: Copy> BlockRx<H, T> {
    /// Hands the oldest block to `read`; its values may lie in two pieces where the ring wraps.
    pub fn pop<R>(&mut self, read: impl FnOnce(H, &[T], &[T]) -> R) -> Option<R> {
        self.pop_run(usize::MAX, |_, _| false, |run| read(*run.first, run.values.0, run.values.1))
    }

    /// Hands up to `most` values to `read`: of the oldest block, and of those after it as long as `joins` says that one
    /// block goes with the next. What is left of the oldest block stays for the next call.
    ///
    /// `joins` gets the header and the number of values of each. A block is joined only if it fits as a whole.
    pub fn pop_run<R>(
        &mut self,
        most: usize,
        joins: impl Fn(&(H, usize), &(H, usize)) -> bool,
        read: impl FnOnce(Run<'_, H, T>) -> R,
    ) -> Option<R> {
        let blocks = self.headers.read_chunk(self.headers.slots()).ok()?;
        let (front, wrapped) = blocks.as_slices();
        let mut waiting = front.iter().chain(wrapped);
        let first = waiting.next()?;
        let rest = first.1 - self.taken;
        let (mut last, mut count, mut whole) = (first, rest.min(most), 0);
        let left = rest - count;
        if left == 0 {
            whole = 1;
            for next in waiting {
                if count + next.1 > most || !joins(last, next) {
                    break;
                }
                (last, count, whole) = (next, count + next.1, whole + 1);
            }
        }
        let chunk = self.values.read_chunk(count).ok()?;
        let result = read(Run { first: &first.0, last: &last.0, left, values: chunk.as_slices() });
        chunk.commit_all();
        blocks.commit(whole);
        self.taken = if whole == 0 { self.taken + count } else { 0 };
        Some(result)
    }

    /// Returns whether the next part is the rest of a block that was begun.
    pub fn is_within_block(&self) -> bool {
        self.taken > 0
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Returns the number of values that wait to be read.
    pub fn values(&self) -> usize {
        self.values.slots()
    }

    /// Returns whether the writer is gone: when the ring is empty too, the stream has ended.
    pub fn is_abandoned(&self) -> bool {
        self.headers.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        let (mut tx, mut rx) = block_ring::<u32, f32>(2, 6);
        assert!(tx.push(1, &[1.0, 2.0, 3.0]));
        assert!(tx.is_full(4) && !tx.is_full(3));
        assert!(!tx.push(9, &[1.0; 4]), "there is no room for so many");
        assert!(tx.push(2, &[4.0, 5.0, 6.0]));
        assert!(!tx.push(3, &[7.0, 8.0, 9.0]));
        assert_eq!(rx.pop(|h, a, b| (h, [a, b].concat())), Some((1, vec![1.0, 2.0, 3.0])));
        assert!(tx.push(3, &[7.0, 8.0, 9.0]));
        drop(tx);
        assert!(rx.is_abandoned());
        assert_eq!(rx.pop(|h, _, _| h), Some(2));
        assert_eq!(rx.pop(|h, a, b| (h, [a, b].concat())), Some((3, vec![7.0, 8.0, 9.0])));
        assert_eq!(rx.pop(|h, _, _| h), None);
    }

    fn part(rx: &mut BlockRx<u32, i16>, most: usize) -> Option<(u32, Vec<i16>)> {
        rx.pop_run(most, |_, _| false, |run| (*run.first, [run.values.0, run.values.1].concat()))
    }

    #[test]
    fn blocks_that_go_together_are_read_together() {
        let (mut tx, mut rx) = block_ring::<u32, i16>(4, 8);
        // So that the headers and the values wrap.
        assert!(tx.push(9, &[0; 5]) && tx.push(9, &[0; 2]));
        assert_eq!((part(&mut rx, 9), part(&mut rx, 9)), (Some((9, vec![0; 5])), Some((9, vec![0; 2]))));
        assert!(tx.push(1, &[1, 2]) && tx.push(2, &[3]) && tx.push(3, &[4, 5]) && tx.push(7, &[6]));
        let mut run = |most: usize| {
            let joins = |last: &(u32, usize), next: &(u32, usize)| last.0 + 1 == next.0;
            rx.pop_run(most, joins, |run| (*run.first, *run.last, [run.values.0, run.values.1].concat()))
        };
        assert_eq!(run(1), Some((1, 1, vec![1])), "a part of a block");
        assert_eq!(run(3), Some((1, 2, vec![2, 3])), "the rest of it and a whole one; the third does not fit");
        assert_eq!(run(9), Some((3, 3, vec![4, 5])), "7 does not go with 3");
        assert_eq!((run(9), run(9)), (Some((7, 7, vec![6])), None));
    }

    #[test]
    fn a_block_can_be_read_in_parts() {
        let (mut tx, mut rx) = block_ring::<u32, i16>(2, 8);
        assert!(tx.push(1, &[1, 2, 3, 4, 5]) && tx.push(2, &[]));
        assert_eq!(part(&mut rx, 2), Some((1, vec![1, 2])));
        assert!(rx.is_within_block() && !rx.is_empty());
        assert_eq!(rx.values(), 3);
        assert_eq!(part(&mut rx, 9), Some((1, vec![3, 4, 5])));
        assert!(!rx.is_within_block() && !rx.is_empty());
        assert_eq!(rx.pop(|h, a, b| (h, [a, b].concat())), Some((2, Vec::new())));
        assert!(rx.is_empty());
    }

    proptest! {
        #[test]
        fn blocks_come_out_as_they_went_in(pushes in prop::collection::vec(prop::option::of(0usize..9), 1..200)) {
            let (mut tx, mut rx) = block_ring::<usize, f32>(7, 30);
            let (mut sent, mut read, mut waiting) = (0usize, 0usize, 0usize);
            for push in pushes {
                if let Some(width) = push {
                    let values: Vec<f32> = (0..width).map(|i| (sent * 10 + i) as f32).collect();
                    let fits = sent - read < 7 && waiting + width <= 30;
                    prop_assert_eq!(tx.push(sent, &values), fits);
                    sent += usize::from(fits);
                    waiting += if fits { width } else { 0 };
                } else if let Some((header, values)) = rx.pop(|h, a, b| (h, [a, b].concat())) {
                    prop_assert_eq!(header, read);
                    waiting -= values.len();
                    let expected: Vec<f32> = (0..values.len()).map(|i| (read * 10 + i) as f32).collect();
                    prop_assert_eq!(values, expected);
                    read += 1;
                }
            }
        }
    }

    #[test]
    fn a_ring_that_is_not_full_takes_a_block_while_another_is_read() {
        let (mut tx, mut rx) = block_ring::<u32, f32>(4, 4 * 640);
        let reader = std::thread::spawn(move || {
            while !(rx.is_abandoned() && rx.is_empty()) {
                rx.pop(|_, first, second| std::hint::black_box(first.len() + second.len()));
            }
        });
        for n in 0..50_000 {
            while tx.is_full(640) {
                std::hint::spin_loop();
            }
            assert!(tx.push(n, &[0.0; 640]), "block {n}");
        }
        drop(tx);
        reader.join().unwrap();
    }
}
