use super::super::scan::Element;
use super::super::tests::accelerometer;
use super::*;
use crate::sys::iio::devices;

const PERIOD: i64 = 10_000_000;

#[test]
fn times_go_forward_and_a_clock_that_was_set_is_seen() {
    let mut times = Times::new(100.0);
    let mut next = |raw| times.next(raw, false);
    assert_eq!(next(1000), (Some(1000), 0));
    // Jitter is left as it is.
    assert_eq!(next(1000 + PERIOD / 2), (Some(1000 + PERIOD / 2), 0));
    // A batch with one time, and the next one a little too early.
    let batch = 1000 + 2 * PERIOD;
    let got: Vec<i64> = (0..4).map(|_| next(batch).0.unwrap()).collect();
    assert_eq!(got, [batch, batch + PERIOD, batch + 2 * PERIOD, batch + 3 * PERIOD]);
    assert_eq!(next(batch + 2 * PERIOD), (Some(batch + 3 * PERIOD + 1), 0));
    // A jump is left to the window's rule, and a time that goes back shows as it is.
    assert_eq!(next(batch + 100 * PERIOD), (Some(batch + 100 * PERIOD), 0));
    assert_eq!(next(5), (Some(5), 0));
    assert_eq!(next(i64::MAX), (Some(i64::MAX), 0));
    assert_eq!(next(i64::MIN), (Some(i64::MIN), 0));
    // A period that is not a whole number is rounded.
    let mut times = Times::new(600.0);
    times.next(0, false);
    assert_eq!(times.next(0, false), (Some(1_666_667), 0));
}

#[test]
fn samples_are_lost_only_where_the_kernel_s_buffer_was_full() {
    let mut times = Times::new(100.0);
    times.next(0, false);
    assert_eq!(times.next(5 * PERIOD, true).1, 4);
    assert_eq!(times.next(6 * PERIOD + PERIOD / 3, true).1, 0, "jitter");
    times.was_full = true;
    assert_eq!(times.next(16 * PERIOD, false).1, 9, "after the reading that found it full");
    assert_eq!(times.next(26 * PERIOD, false).1, 0);
}

fn quaternion(names: &[&str], elements: &[(&str, u32, &str)]) -> Result<Record, String> {
    let tree = accelerometer();
    let device = &devices(tree.root())[0];
    for (file, text) in [("in_rot_quaternion_raw", "1 2 3 4"), ("in_rot_scale", "0.5"), ("in_rot_offset", "1")] {
        std::fs::write(device.folder.join(file), text).unwrap();
    }
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let plan = Plan::new(device, &names, true).unwrap();
    let element = |(channel, index, kind): &(&str, u32, &str)| Element {
        channel: (*channel).to_owned(),
        index: *index,
        kind: kind.parse().unwrap(),
    };
    Record::new(&ScanLayout::new(elements.iter().map(element).collect()), plan, names.len())
}

#[test]
fn each_number_of_a_channel_is_a_value() {
    let elements = [("rot_quaternion", 1, "be:s12/16X4>>4"), ("accel_x", 0, "le:u8/8>>0"), (TIME, 2, "le:s64/64>>0")];
    let mut record = quaternion(&["rot_quaternion[3]", "rot_quaternion[0]", "accel_x"], &elements).unwrap();
    assert_eq!(record.bytes, 24);
    let mut bytes = [0xff; 24];
    bytes[0] = 200;
    // 0x7ff and 0x800 of 12 bits, above 4 bits of rubbish.
    bytes[8..10].copy_from_slice(&[0x7f, 0xf9]);
    bytes[14..16].copy_from_slice(&[0x80, 0x0f]);
    bytes[16..].copy_from_slice(&77i64.to_le_bytes());
    assert_eq!(record.decode(&bytes), Some(77));
    assert_eq!(record.frame, [(-2048.0 + 1.0) * 0.5, (2047.0 + 1.0) * 0.5, 100.0]);

    let refused = |names: &[&str]| quaternion(names, &elements).err().unwrap();
    assert_eq!(
        refused(&["rot_quaternion"]),
        "rot_quaternion has 4 numbers: write rot_quaternion[0] to rot_quaternion[3]"
    );
    assert_eq!(refused(&["rot_quaternion[4]"]), "rot_quaternion[4] does not exist: rot_quaternion has 4 numbers");
    assert_eq!(refused(&["accel_z"]), "its buffer is on without accel_z");
}
