//! Programs that people use as sources, as Debian has them: sox, ffmpeg and espeak-ng. What a subscriber received is
//! compared with what the same program, or another one, wrote into a file.

use super::exec::{once, output, values};

/// The source exec with that command, held back so that a program that is faster than the pipeline loses nothing.
fn exec(command: &[&str], bytes: &str) -> String {
    format!("exec = {{ command = {command:?}, buffer = {{ when_full = \"wait\" }}, bytes = {{ {bytes} }} }}")
}

/// What the pipeline got of the command, in windows of so many frames.
fn received(command: &[&str], bytes: &str, window: usize) -> Vec<f64> {
    let (ended, wire) = once(&exec(command, bytes), window);
    ended.expect(0);
    values(&wire)
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// As the daemon publishes it: as a 32-bit number.
fn published(value: f64) -> f64 {
    (value as f32).into()
}

#[track_caller]
fn assert_same(received: &[f64], expected: &[f64], what: &str) {
    let wrong = received.iter().zip(expected).position(|(a, b)| published(*a) != published(*b));
    assert_eq!(
        (received.len(), wrong),
        (expected.len(), None),
        "{what}: {:?}",
        wrong.map(|at| (received[at], expected[at]))
    );
}

#[test]
fn sound_of_sox_in_each_format() {
    let sox = |format: &[&'static str]| {
        let begin = ["sox", "-D", "-n", "-t", "raw", "-r", "8000", "-c", "2"];
        [&begin[..], format, &["-", "synth", "0.5", "sine", "440", "sine", "300-3000", "vol", "0.8"]].concat()
    };
    type Case<'a> = (&'a [&'static str], &'static str, fn(&[u8]) -> Vec<f64>);
    let cases: [Case<'_>; 4] = [
        (&["-e", "signed-integer", "-b", "16"], "s16le", |raw| numbers(raw, |b| i16::from_le_bytes(b).into())),
        (&["-e", "signed-integer", "-b", "32"], "s32le", |raw| numbers(raw, |b| i32::from_le_bytes(b).into())),
        (&["-e", "floating-point", "-b", "32"], "f32le", |raw| numbers(raw, |b| f32::from_le_bytes(b).into())),
        (&["-e", "unsigned-integer", "-b", "8"], "u8", |raw| numbers(raw, |[b]| b.into())),
    ];
    for (format, name, decode) in cases {
        let command = sox(format);
        let expected = decode(&output(command[0], &command[1..]));
        assert_eq!(expected.len(), 8000);
        assert!(expected.iter().any(|value| *value != expected[0]), "{name}: it is not silence");
        let keys = format!("format = \"{name}\", channels = 2, rate_hz = 8000.0");
        assert_same(&received(&command, &keys, 200), &expected, name);
        let right: Vec<f64> = expected.iter().skip(1).step_by(2).copied().collect();
        assert_same(&received(&command, &format!("{keys}, select = [1]"), 200), &right, "the second channel");
    }
}

#[test]
fn sound_of_ffmpeg_is_what_sox_reads_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sine.wav");
    let file = file.to_str().unwrap();
    let sine =
        ["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=16000:duration=0.5"];
    output("ffmpeg", &[&sine[..], &["-c:a", "pcm_s16le", file]].concat());
    let expected = numbers(&output("sox", &[file, "-t", "raw", "-"]), |b| i16::from_le_bytes(b).into());
    assert_eq!(expected.len(), 8000);
    let command = [&["ffmpeg"], &sine[..], &["-f", "s16le", "-ac", "1", "-"]].concat();
    assert_same(&received(&command, "format = \"s16le\", rate_hz = 16000.0", 160), &expected, "ffmpeg");
}

#[test]
fn speech_of_espeak_through_a_shell_and_through_ffmpeg() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("speech.wav");
    let file = file.to_str().unwrap();
    output("espeak-ng", &["-w", file, "okay"]);
    let speech = |samples: &[u8]| numbers(samples, |b| i16::from_le_bytes(b).into());
    let expected = speech(&output("sox", &[file, "-t", "raw", "-"]));
    assert!(expected.len() > 5000);
    let bytes = "format = \"s16le\", rate_hz = 22050.0";
    let whole_windows = |window: usize| &expected[..expected.len() / window * window];
    // Its header says that it has no end, which sox is told to ignore.
    let by_sox = "exec espeak-ng --stdout okay | sox --ignore-length -t wav - -t raw -";
    assert_same(&received(&["sh", "-c", by_sox], bytes, 100), whole_windows(100), "by sox");
    let by_ffmpeg = "espeak-ng --stdout okay | ffmpeg -nostdin -loglevel error -ignore_length 1 -i - -f s16le -";
    let all = received(&["sh", "-c", by_ffmpeg], bytes, 100);
    assert_same(&all, whole_windows(100), "by ffmpeg");
}

/// ffmpeg's test picture, ten of them, in a pixel format.
fn pictures(format: &'static str, end: &[&'static str]) -> Vec<&'static str> {
    let source =
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=32x18:rate=5:duration=2"];
    [&source[..], &["-pix_fmt", format], end].concat()
}

const RAW_VIDEO: [&str; 3] = ["-f", "rawvideo", "-"];

/// The pixels of files in the formats PPM or PGM, one after the other.
fn pixels(mut files: &[u8], magic: &str, channels: usize) -> Vec<f64> {
    let header = format!("{magic}\n32 18\n255\n");
    let mut pixels = Vec::new();
    while !files.is_empty() {
        let (begin, rest) = files.split_at(header.len());
        assert_eq!(String::from_utf8_lossy(begin), header);
        let (picture, rest) = rest.split_at(32 * 18 * channels);
        pixels.extend(picture.iter().map(|byte| f64::from(*byte)));
        files = rest;
    }
    pixels
}

#[test]
fn pictures_of_ffmpeg_are_those_of_its_files() {
    for (format, channels, magic, codec) in [("rgb24", 3, "P6", "ppm"), ("gray", 1, "P5", "pgm")] {
        let files = pictures(format, &["-f", "image2pipe", "-c:v", codec, "-"]);
        let expected = pixels(&output(files[0], &files[1..]), magic, channels);
        assert_eq!(expected.len(), 10 * 32 * 18 * channels);
        let keys = format!("format = \"{format}\", width = 32, height = 18, rate_hz = 5.0");
        assert_same(&received(&pictures(format, &RAW_VIDEO), &keys, 1), &expected, format);
    }
}

#[test]
fn pictures_in_yuv420p_have_the_colours_that_ffmpeg_finds_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pictures.yuv");
    let file = file.to_str().unwrap();
    // The same bytes mean other colours in another matrix and range.
    for (matrix, colours, range, levels) in [
        ("bt601", "smpte170m", "limited", "tv"),
        ("bt709", "bt709", "limited", "tv"),
        ("bt601", "smpte170m", "full", "pc"),
    ] {
        let scale = format!("scale=out_color_matrix={matrix}:out_range={levels},format=yuv420p");
        let source = ["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=32x18:rate=5:duration=2"];
        let command = [&["ffmpeg"], &source[..], &["-vf", &scale], &RAW_VIDEO].concat();
        std::fs::write(file, output(command[0], &command[1..])).unwrap();
        let back = format!("scale=in_color_matrix={matrix}:in_range={levels}:flags=neighbor+accurate_rnd,format=rgb24");
        let read =
            ["-nostdin", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "32x18", "-i", file];
        let expected: Vec<f64> =
            output("ffmpeg", &[&read[..], &["-vf", &back], &RAW_VIDEO].concat()).into_iter().map(f64::from).collect();
        assert_eq!(expected.len(), 10 * 32 * 18 * 3);
        let keys = format!(
            "format = \"yuv420p\", width = 32, height = 18, rate_hz = 5.0, matrix = \"{matrix}\", range = \"{range}\""
        );
        let received = received(&command, &keys, 1);
        assert_eq!(received.len(), expected.len(), "{colours}");
        let far: Vec<_> = received.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 3.0).collect();
        assert!(
            far.is_empty(),
            "{matrix} {range}: {} of {} values differ: {:?}",
            far.len(),
            expected.len(),
            &far[..9.min(far.len())]
        );
    }
}
