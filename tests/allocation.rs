//! The per-window path allocates nothing, from the sample's arrival to the decision's hand-over; nor does a meter's reading.
//!
//! A binary of its own, since it replaces the global allocator.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use edgewatt_support::{demo, root};

/// Counts the allocations of the thread that asks; the runtime's own C++ heap is not ours to count.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// For 32-bit Arm there is no LiteRT.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn litert_invokes_without_an_allocation_of_ours() {
    use edgewatt::config::Accelerator;
    use edgewatt::engine::{Engine, LitertEngine};

    let library = root().join("runtime").join(std::env::consts::ARCH).join("libLiteRt.so");
    let path = root().join("models/shoulder_int8.tflite");
    let bytes = std::fs::read(&path).unwrap();
    let mut engine = LitertEngine::new(&library, &path, &bytes, &[Accelerator::Cpu], 1).unwrap();
    let features = vec![0.5; engine.inputs()[0].len()];
    let mut scores = vec![0.0; engine.outputs()[0].len()];
    let count = allocations(|| {
        for _ in 0..100 {
            engine.set_input(0, &features).unwrap();
            engine.invoke().unwrap();
            engine.output(0, 0, &mut scores).unwrap();
        }
    });
    assert_eq!(count, 0, "allocations in 100 invocations");
}

#[test]
fn the_whole_recording_passes_without_an_allocation() {
    assert_eq!(allocations(|| drop(Box::new(1))), 1, "the counter counts");

    let config = demo::config(&[("speed = 1.0", "speed = \"max\"")]);
    let mut rig = demo::pipeline(&config);
    let samples = demo::recording(&config, &rig.labels);
    let mut decisions = 0;
    let count = allocations(|| {
        for chunk in samples.chunks(50) {
            rig.feed(chunk);
            rig.infer.drain();
            while rig.decisions.pop(|_, _, _| ()).is_some() {
                decisions += 1;
            }
        }
    });
    assert_eq!(decisions, 491);
    assert_eq!(count, 0, "allocations in {decisions} windows");
}

#[test]
fn a_meter_that_works_is_read_without_an_allocation() {
    use std::time::Duration;

    use edgewatt::meter::hwmon::{Hwmon, Selector};
    use edgewatt::meter::rapl::Rapl;
    use edgewatt::meter::{Meter, Scope, sampler};
    use edgewatt::stop::Stop;
    use edgewatt_support::counters::{Counter, Mover, Tree};

    let tree = Tree::new(&[
        ("class/hwmon/hwmon0/name", "ina219\n"),
        ("class/hwmon/hwmon0/power1_input", "2500000\n"),
        ("class/hwmon/hwmon0/in1_input", "5000\n"),
        ("class/hwmon/hwmon0/curr1_input", "500\n"),
    ]);
    tree.zone("intel-rapl:0", "package-0", 0);
    tree.zone("intel-rapl:0:0", "dram", 0);
    let counter = |id: &str| Counter::new(&tree.path(&format!("class/powercap/{id}/energy_uj")), 5.0, 0, None);
    let _mover = Mover::start(vec![counter("intel-rapl:0"), counter("intel-rapl:0:0")]);
    let period = Duration::from_millis(1);
    let selector = Selector { chip: "ina219".to_owned(), device: None, channel: None, label: None };
    let mut meters: Vec<Box<dyn Meter>> = vec![
        Box::new(Rapl::new("package", tree.root(), None)),
        Box::new(Hwmon::new("board", tree.root(), selector, Scope::Board, period)),
    ];
    let (stop, meters_count) = (Stop::new().unwrap(), meters.len());
    let (mut readings, mut found) = (0, 0);
    sampler::run(&mut meters, period, &stop, |_, reading| {
        reading.unwrap();
        readings += 1;
        // The first reading of each opens its files.
        if readings == meters_count {
            found = ALLOCATIONS.get();
        }
        if readings == 200 {
            stop.request();
        }
    })
    .unwrap();
    assert_eq!(ALLOCATIONS.get() - found, 0, "allocations in {readings} readings");
}
