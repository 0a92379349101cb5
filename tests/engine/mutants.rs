//! Damaged model files through `edgewatt check`: each is refused with an error message or found to work still, and
//! never does the program itself crash, hang or panic.
//!
//! `MUTANTS=10000 cargo test --release --test engine mutants::` tries that many; what a test run tries is a sample.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use edgewatt_support::daemon::Setup;
use edgewatt_support::dice::Dice;
use edgewatt_support::{root, runtime_library};

const SAMPLE: usize = 120;
const SEED: u64 = 0x005e_ed0f_ed9e;

/// What storage, transfers and people do to a file.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) -> &'static str {
    let place = dice.roll(bytes.len());
    let span = place..(place + 1 + dice.roll(64)).min(bytes.len());
    match dice.roll(6) {
        0 => {
            for _ in 0..=dice.roll(8) {
                let place = dice.roll(bytes.len());
                bytes[place] ^= 1 << dice.roll(8);
            }
            "bits flipped"
        }
        1 => {
            bytes.truncate(place);
            "cut"
        }
        2 => {
            bytes[span].fill(0);
            "zeroed"
        }
        3 => {
            bytes[span].fill(0xff);
            "filled"
        }
        4 => {
            let from = dice.roll(bytes.len() - span.len());
            bytes.copy_within(from..from + span.len(), span.start);
            "moved"
        }
        _ => {
            // Where a flatbuffer keeps its tables, not its weights.
            let tail = bytes.len() - bytes.len().min(4096);
            let place = tail + dice.roll(bytes.len() - tail);
            bytes[place] = dice.roll(256) as u8;
            "one byte of the tables"
        }
    }
}

#[test]
fn a_damaged_model_is_an_error_message() {
    runtime_library();
    let count = std::env::var("MUTANTS").map_or(SAMPLE, |count| count.parse().unwrap());
    // The last one has metadata and carries a file.
    let models = [
        "models/shoulder_int8.tflite",
        "models/shoulder_fp32.tflite",
        "models/shoulder_pruned_int8.tflite",
        "tests/models/labelled.tflite",
    ];
    let models = models.map(|name| std::fs::read(root().join(name)).unwrap());
    let next = Mutex::new((Dice(SEED), 0));
    let outcomes = Mutex::new(BTreeMap::<(&str, i32), usize>::new());
    let worker = || {
        let original = Setup::demo(1);
        let path = original.dir.path().join("mutant.tflite");
        let setup = original.with(&model_path(), &path.display().to_string());
        loop {
            let (mutant, kind, number) = {
                let (dice, number) = &mut *next.lock().unwrap();
                if *number == count {
                    return;
                }
                *number += 1;
                let mut bytes = models[dice.roll(models.len())].clone();
                let kind = mutate(&mut bytes, dice);
                (bytes, kind, *number)
            };
            std::fs::write(&path, &mutant).unwrap();
            let ended = setup.check();
            let code = ended.status.code().unwrap_or_else(|| panic!("{number}, {kind}: {}", ended.status));
            match code {
                0 => {}
                78 => ended.says(&["pipelines.shoulder"]),
                other => panic!("{number}, {kind}: exit code {other}\n{}", ended.stderr),
            }
            *outcomes.lock().unwrap().entry((kind, code)).or_default() += 1;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    println!("{outcomes:?}");
    assert_eq!(outcomes.values().sum::<usize>(), count);
    assert!(outcomes.keys().any(|(_, code)| *code == 78), "nothing was damaged: {outcomes:?}");
}

fn model_path() -> String {
    let path: PathBuf = root().join("models/shoulder_int8.tflite");
    path.display().to_string()
}
