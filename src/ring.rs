//! A bounded single-producer single-consumer ring of frames: a small header and a fixed number of `f32` beside it.
//!
//! Both thread boundaries use it: samples from acquire to infer, decisions from infer to publish. All memory is
//! taken when the ring is made; pushing and popping never allocate, lock or enter the kernel. Who sleeps and who
//! wakes whom is the caller's business.

use rtrb::{Consumer, Producer, RingBuffer};

/// Makes a ring of `capacity` frames of `width` values each.
pub fn frame_ring<H: Copy>(capacity: usize, width: usize) -> (FrameTx<H>, FrameRx<H>) {
    let (headers_tx, headers_rx) = RingBuffer::new(capacity);
    let (values_tx, values_rx) = RingBuffer::new(capacity * width);
    (
        FrameTx { headers: headers_tx, values: values_tx, width },
        FrameRx { headers: headers_rx, values: values_rx, width },
    )
}

/// The writing end.
pub struct FrameTx<H> {
    headers: Producer<H>,
    values: Producer<f32>,
    width: usize,
}

impl<H: Copy> FrameTx<H> {
    /// Appends a frame; `false` when the ring is full or `values` is not `width` long, and then nothing was written.
    pub fn push(&mut self, header: H, values: &[f32]) -> bool {
        // A header is published after its values, so whoever sees the header finds the values there.
        if values.len() != self.width || self.headers.is_full() {
            return false;
        }
        let Ok(mut chunk) = self.values.write_chunk(self.width) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        let split = first.len();
        first.copy_from_slice(&values[..split]);
        second.copy_from_slice(&values[split..]);
        chunk.commit_all();
        self.headers.push(header).is_ok()
    }

    pub fn is_full(&self) -> bool {
        // The reader takes a header before its values, and keeps the room of those until it is through with them.
        self.headers.is_full() || self.values.slots() < self.width
    }

    /// The reader is gone: nothing that is pushed will ever be read.
    pub fn is_abandoned(&self) -> bool {
        self.headers.is_abandoned()
    }
}

/// The reading end.
pub struct FrameRx<H> {
    headers: Consumer<H>,
    values: Consumer<f32>,
    width: usize,
}

impl<H: Copy> FrameRx<H> {
    /// Hands the oldest frame to `read`, whose values may lie in two pieces where the ring wraps.
    pub fn pop<R>(&mut self, read: impl FnOnce(H, &[f32], &[f32]) -> R) -> Option<R> {
        let header = self.headers.pop().ok()?;
        let chunk = self.values.read_chunk(self.width).ok()?;
        let (first, second) = chunk.as_slices();
        let result = read(header, first, second);
        chunk.commit_all();
        Some(result)
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Frames waiting to be read.
    pub fn len(&self) -> usize {
        self.headers.slots()
    }

    /// The writer is gone: when the ring is empty too, the stream has ended.
    pub fn is_abandoned(&self) -> bool {
        self.headers.is_abandoned()
    }

    /// Values in each frame.
    pub fn width(&self) -> usize {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        let (mut tx, mut rx) = frame_ring::<u32>(2, 3);
        assert!(tx.push(1, &[1.0, 2.0, 3.0]));
        assert!(!tx.push(9, &[1.0]), "a frame of another width is refused");
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

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(width in 0usize..9, pushes in prop::collection::vec(any::<bool>(), 1..200)) {
            let (mut tx, mut rx) = frame_ring::<usize>(7, width);
            let (mut sent, mut read) = (0usize, 0usize);
            for push in pushes {
                if push {
                    let values: Vec<f32> = (0..width).map(|i| (sent * 10 + i) as f32).collect();
                    let fits = sent - read < 7;
                    prop_assert_eq!(tx.push(sent, &values), fits);
                    sent += usize::from(fits);
                } else if let Some((header, values)) = rx.pop(|h, a, b| (h, [a, b].concat())) {
                    prop_assert_eq!(header, read);
                    let expected: Vec<f32> = (0..width).map(|i| (read * 10 + i) as f32).collect();
                    prop_assert_eq!(values, expected);
                    read += 1;
                }
            }
        }
    }

    #[test]
    fn a_ring_that_is_not_full_takes_a_frame_while_another_is_read() {
        let (mut tx, mut rx) = frame_ring::<u32>(4, 640);
        let reader = std::thread::spawn(move || {
            while !(rx.is_abandoned() && rx.is_empty()) {
                rx.pop(|_, first, second| std::hint::black_box(first.len() + second.len()));
            }
        });
        for n in 0..50_000 {
            while tx.is_full() {
                std::hint::spin_loop();
            }
            assert!(tx.push(n, &[0.0; 640]), "frame {n}");
        }
        drop(tx);
        reader.join().unwrap();
    }
}
