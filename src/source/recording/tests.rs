//! WAV files of several writers, whole and damaged, and raw files.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::source::sink::frame_ring;
use crate::source::{Pieces, SinkSettings, SourceKind as _, TruthLabels, WhenFull};
use crate::stop::Stop;
use crate::units::MonoTime;

/// Returns all values of a recording, the times of the first and last frames of its steps, and the number of rejects.
fn played(stream: &RecordedStream, start_s: f64) -> (Vec<f32>, Vec<Option<i64>>, u64) {
    let settings =
        SinkSettings { spec: stream.spec.clone(), frames: 1 << 17, frames_per_block: 1, when_full: WhenFull::Drop };
    let (mut sink, mut reader) = frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default());
    let mut file = RecordingFile::open(stream, TruthLabels::default()).unwrap();
    file.restart(start_s).unwrap();
    let mut times = Vec::new();
    loop {
        match file.find().unwrap() {
            Found::End => break,
            Found::More => file.fill().unwrap(),
            Found::Frames { first_ns, last_ns, .. } => {
                times.extend([first_ns, last_ns]);
                assert!(file.give(MonoTime(0), &mut sink).is_continue());
            }
            Found::Rejected(_) => assert!(file.give(MonoTime(0), &mut sink).is_continue()),
        }
    }
    let mut values = Vec::new();
    let mut add = |pieces: Pieces<'_>| match pieces {
        Pieces::F32(a, b) => values.extend([a, b].concat()),
        Pieces::I16(a, b) => values.extend([a, b].concat().into_iter().map(f32::from)),
        Pieces::U8(a, b) => values.extend([a, b].concat().into_iter().map(f32::from)),
    };
    while reader.pop(usize::MAX, |_, _| false, |frames| add(frames.values)).is_some() {}
    (values, times, reader.stats.rejected())
}

fn wav(path: &Path) -> RecordedStream {
    RecordedStream::find(path).unwrap().unwrap()
}

fn write_wav(path: &Path, channels: u16, bits: u16, format: hound::SampleFormat, values: &[f64]) {
    let spec = hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format: format };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for value in values {
        match format {
            hound::SampleFormat::Float => writer.write_sample(*value as f32).unwrap(),
            hound::SampleFormat::Int => {
                let full = f64::from(1u32 << (bits - 1));
                writer.write_sample((value * full).clamp(-full, full - 1.0) as i32).unwrap();
            }
        }
    }
    writer.finalize().unwrap();
}

#[test]
fn every_depth_gives_numbers_of_the_same_range() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let values = [0.0, 0.5, -0.5, -1.0, 0.25, 0.125];
    let wanted: Vec<f32> = values.iter().map(|value| (value * 32_768.0) as f32).collect();
    for channels in [1, 2, 3] {
        for (bits, format, sample) in [
            (8, hound::SampleFormat::Int, SampleType::I16),
            (16, hound::SampleFormat::Int, SampleType::I16),
            (24, hound::SampleFormat::Int, SampleType::F32),
            (32, hound::SampleFormat::Int, SampleType::F32),
            (32, hound::SampleFormat::Float, SampleType::F32),
        ] {
            // With 3 channels, hound writes the extensible form.
            write_wav(&path, channels, bits, format, &values);
            let stream = wav(&path);
            let spec = &stream.spec;
            assert_eq!((spec.frame.values(), spec.sample, spec.rate_hz), (channels.into(), sample, Some(16_000.0)));
            assert_eq!(played(&stream, 0.0).0, wanted, "{bits} bits, {channels} channels");
        }
    }
}

#[test]
fn channels_are_selected_and_the_start_is_a_frame() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let values: Vec<f64> =
        (0..3200).flat_map(|frame| [f64::from(frame) / 32_768.0, -f64::from(frame) / 32_768.0]).collect();
    write_wav(&path, 2, 16, hound::SampleFormat::Int, &values);
    let right = RecordedStream::wav(&path, Some(&[1])).unwrap();
    let (values, times, _) = played(&right, 0.1);
    assert_eq!((values.len(), values[0], *values.last().unwrap()), (1600, -1600.0, -3199.0));
    assert_eq!(times[..3], [Some(100_000_000), Some(119_937_500), Some(120_000_000)], "blocks of 20 ms");
    assert!(RecordedStream::wav(&path, Some(&[2])).unwrap_err().to_string().contains("it has 2, counted from 0 to 1"));
    assert_eq!(played(&right, 0.3).0, [0.0; 0], "behind the end there is nothing");
}

/// A header of 44 bytes with these two lengths, and 100 samples.
fn with_lengths(riff: u32, data: u32) -> Vec<u8> {
    let mut bytes = wav::header(1, 16_000, Some(200)).to_vec();
    bytes[4..8].copy_from_slice(&riff.to_le_bytes());
    bytes[40..44].copy_from_slice(&data.to_le_bytes());
    bytes.extend((0..100i16).flat_map(i16::to_le_bytes));
    bytes
}

#[test]
fn a_header_that_a_pipe_left_incomplete_is_read_and_a_cut_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let all: Vec<f32> = (0..100).map(|value| value as f32).collect();
    let of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let stream = wav(&path);
        let (values, _, rejected) = played(&stream, 0.0);
        (values, rejected, stream.warnings)
    };
    // ffmpeg, arecord, sox, and a program that was killed.
    for (riff, data) in [(u32::MAX, u32::MAX), (0x8000_0024, 0x8000_0000), (0x7fff_f024, 0x7fff_f000), (0, 0), (36, 0)]
    {
        assert_eq!(of(&with_lengths(riff, data)), (all.clone(), 0, vec![]), "{riff:#x} {data:#x}");
    }
    let (values, _, warnings) = of(&with_lengths(2036, 32_000));
    assert_eq!((values, warnings.len()), (all.clone(), 1));
    assert!(warnings[0].contains("its header says 1 s of sound, and 0.00625 s are there"), "{warnings:?}");
    let mut half = with_lengths(236, 200);
    half.truncate(44 + 101);
    let (values, rejected, _) = of(&half);
    assert_eq!((values, rejected), (all[..50].to_vec(), 1), "half a sample is rejected");
    assert_eq!(of(&wav::header(1, 16_000, Some(0))).0, [0.0; 0], "no sound at all");
    // What follows the sound is not sound, and what comes before it is passed over; chunks have an even length.
    let mut listed = wav::header(1, 16_000, Some(200))[..36].to_vec();
    listed.extend(b"LIST\x05\0\0\0INFOx\0data\xc8\0\0\0");
    listed.extend((0..100i16).flat_map(i16::to_le_bytes));
    listed.extend(b"LIST\x04\0\0\0INFO");
    assert_eq!(of(&listed), (all, 0, vec![]));
}

#[test]
fn what_cannot_be_played_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        RecordedStream::wav(&path, None).unwrap_err().to_string()
    };
    let tagged = |tag: u16, bits: u16| {
        let mut bytes = with_lengths(236, 200);
        bytes[20..22].copy_from_slice(&tag.to_le_bytes());
        bytes[34..36].copy_from_slice(&bits.to_le_bytes());
        bytes
    };
    let mut big = with_lengths(236, 200);
    big[..4].copy_from_slice(b"RF64");
    for (bytes, words) in [
        (tagged(2, 4), "stored as ADPCM; convert it: sox"),
        (tagged(0x11, 4), "stored as ADPCM"),
        (tagged(6, 8), "stored as A-law"),
        (tagged(7, 8), "stored as \u{b5}-law"),
        (tagged(0x55, 0), "stored as MP3"),
        (tagged(1, 12), "samples have 12 bits"),
        (tagged(1, 24), "it says 2 bytes for 1 sample of 24 bits"),
        (big, "more than 4 GiB (RF64)"),
        (b"fLaC....".to_vec(), "it is FLAC; convert it: ffmpeg"),
        (b"a,b\n1,2\n".to_vec(), "it is not a WAV file"),
        (Vec::new(), "it is empty"),
        (b"RIFF\0\0\0\0WAVE".to_vec(), "it has no format"),
        (with_lengths(236, 200)[..36].to_vec(), "it has no sound"),
    ] {
        let refused = refusal(&bytes);
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn files_of_other_programs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let python = "import sys, wave, struct\nw = wave.open(sys.argv[1], 'wb')\nw.setparams((2, 2, 8000, 0, 'NONE', ''))\n\
                  w.writeframes(struct.pack('<6h', 1, -1, 2, -2, 3, -3))\nw.close()";
    let ended = Command::new("python3").args(["-c", python]).arg(at("python.wav")).status().unwrap();
    assert!(ended.success());
    let stream = wav(&at("python.wav"));
    assert_eq!((stream.spec.rate_hz, played(&stream, 0.0).0), (Some(8000.0), vec![1.0, -1.0, 2.0, -2.0, 3.0, -3.0]));
    // A tone of a second, in the forms that sox has; through a pipe, its header has no length.
    let mut loudest = Vec::new();
    for (name, form) in [
        ("16.wav", ["-b", "16", "-e", "signed-integer"]),
        ("24.wav", ["-b", "24", "-e", "signed-integer"]),
        ("f.wav", ["-b", "32", "-e", "floating-point"]),
        ("8.wav", ["-b", "8", "-e", "unsigned-integer"]),
    ] {
        for piped in [false, true] {
            let mut sox = Command::new("sox");
            sox.args(["-n", "-r", "16000", "-c", "1"]).args(form).args(["-t", "wav"]);
            if piped {
                sox.arg("-").stdout(File::create(at(name)).unwrap());
            } else {
                sox.arg(at(name));
            }
            assert!(sox.args(["synth", "1", "sine", "440", "vol", "0.5"]).status().unwrap().success());
            let (values, _, rejected) = played(&wav(&at(name)), 0.0);
            assert_eq!((values.len(), rejected), (16_000, 0), "{name}, piped: {piped}");
            loudest.push(values.iter().fold(0.0f32, |most, value| most.max(value.abs())));
        }
    }
    assert!(loudest.iter().all(|loud| (16_000.0..16_700.0).contains(loud)), "{loudest:?}");
}

#[test]
fn a_raw_file_has_times_if_its_rate_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.raw");
    std::fs::write(&path, (0..1000i16).flat_map(i16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let bytes: Bytes = toml::from_str("format = 's16le'\nchannels = 2\nrate_hz = 1000.0").unwrap();
    let spec = crate::source::ContentKind::spec(&bytes);
    let stream = RecordedStream::bytes(&path, &bytes, spec);
    let (values, times, rejected) = played(&stream, 0.0);
    assert_eq!((values.len(), rejected, stream.has_time), (1000, 0, true));
    assert_eq!(times[..3], [Some(0), Some(19_000_000), Some(20_000_000)]);
    let bytes: Bytes = toml::from_str("format = 's16le'\nchannels = 3").unwrap();
    let spec = crate::source::ContentKind::spec(&bytes);
    let (values, times, rejected) = played(&RecordedStream::bytes(&path, &bytes, spec), 0.0);
    assert_eq!((values.len(), times[0], rejected), (999, None, 1), "the last frame is not whole");
}

#[test]
fn a_file_for_another_source_must_have_its_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let source = |keys: &str| {
        toml::from_str::<crate::source::raw::Raw>(&format!("from = 'stdin'\nbytes = {{ {keys} }}")).unwrap()
    };
    let of = |keys: &str| source(keys).recorded(&path).map_err(|error| error.to_string());
    write_wav(&path, 2, 16, hound::SampleFormat::Int, &[0.5; 8]);
    assert_eq!(of("format = 's16le', channels = 2").unwrap().spec.rate_hz, Some(16_000.0));
    let same = of("format = 'f32le', channels = 2, rate_hz = 16000.0").unwrap();
    assert_eq!(same.spec.sample, SampleType::I16, "what the file has");
    assert!(of("format = 's16le'").unwrap_err().contains("it has frames of [2], and the source has [1]"));
    assert!(of("format = 's16le', channels = 2, rate_hz = 44100.0").unwrap_err().contains("it has 16000 Hz"));
    std::fs::write(&path, [1; 8]).unwrap();
    assert_eq!(
        played(&of("format = 'u8', channels = 2").unwrap(), 0.0).0,
        [1.0; 8],
        "raw samples, as the source has them"
    );
}

#[test]
fn a_manifest_is_untrusted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let refusal = |text: &str| {
        std::fs::write(&path, text).unwrap();
        RecordedStream::find(&path).unwrap_err().to_string()
    };
    let good = r#"{"edgewatt_recording":1,"complete":true,"ended":null,"edgewatt":"0","pipeline":"p","source":"s","config":"c",
        "config_hash":"h","stream":{"shape":[2],"sample":"f32","rate_hz":null,"names":[],"units":[],"has_time":false,
        "has_truth":false},"data":{"file":"x.raw","format":"raw","bytes":8,"sha256":null},"blocks":null,"frames":1,
        "longest_block":1,"first":null,"last":null,"gaps":{"counts":{},"first":[]},"rejected":{},"dropped":{},"labels":[]}"#;
    std::fs::write(folder.path().join("x.raw"), [0; 8]).unwrap();
    std::fs::write(&path, good).unwrap();
    assert_eq!(played(&RecordedStream::find(&path).unwrap().unwrap(), 0.0).0, [0.0, 0.0]);
    for (from, to, words) in [
        ("recording\":1", "recording\":2", "version 2; this edgewatt reads version 1"),
        ("x.raw", "../x.raw", "not the name of a file in the folder"),
        ("x.raw", "/etc/passwd", "not the name of a file"),
        ("x.raw", "..", "not the name of a file"),
        ("x.raw", "y.raw", "y.raw"),
        ("[2]", "[0]", "cannot have the shape [0]"),
        ("[2]", "[99999999999,99999999999]", "cannot have the shape"),
        ("\"f32\"", "\"f64\"", "there is no sample type"),
        ("\"rate_hz\":null", "\"rate_hz\":-1.0", "the rate must be"),
        ("\"names\":[]", "\"names\":[\"a\"]", "1 names for 2 channels"),
        ("\"format\":\"raw\"", "\"format\":\"zip\"", "does not read the format"),
        ("\"frames\":1", "\"frames\":-1", "not the manifest of a recording"),
    ] {
        let refused = refusal(&good.replace(from, to));
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(raw in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..60, cut in 0usize..300) {
        let mut damaged = with_lengths(236, 200);
        damaged.splice(at..(at + raw.len().min(8)).min(damaged.len()), raw.iter().copied().take(8));
        damaged.truncate(cut.max(12));
        for bytes in [raw, damaged] {
            let length = bytes.len() as u64;
            if let Ok(header) = wav::read(&mut std::io::Cursor::new(bytes), length) {
                prop_assert!(header.start + header.bytes <= length.max(header.start) && header.channels > 0);
            }
        }
    }
}
