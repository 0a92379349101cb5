use super::cards::tests::tree;
use super::*;
use crate::source::{Presence, Source};

fn alsa(keys: &str) -> Result<Alsa, String> {
    let mut source: Source = toml::from_str(&format!("alsa = {{ {keys} }}")).map_err(|error| error.to_string())?;
    let mut checker = Checker::new(Path::new(""));
    source.check(&Key::new(&["source"]), &mut checker);
    let Source::Alsa(alsa) = source else { panic!("{source:?}") };
    let shown = |problem: &crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(alsa)).map_err(|problems| problems.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_stream_is_known_before_the_start() {
    let source = alsa("card = \"Device\", rate_hz = 16000").unwrap();
    let spec = source.spec();
    assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[1][..], SampleType::I16, Some(16_000.0)));
    assert_eq!((source.frames_per_block(), source.buffer().1), (80, WhenFull::Drop));
    assert!(source.has_time() && source.endless().is_some());
    let keys = "card = \"hw:CARD=Mics\", rate_hz = 48000, channels = 8, select = [6, 0], format = \"s32le\"";
    let source = alsa(keys).unwrap();
    assert_eq!(source.spec().frame.dims(), [2]);
    let wanted = source.capture(false).wanted;
    assert_eq!((wanted.period_frames, wanted.buffer_frames), (960, 24_000));
}

#[test]
fn what_cannot_be_is_refused_with_what_is_right() {
    for (keys, part) in [
        ("card = \"default\"", "source.alsa.card: `default` is another card on each machine"),
        ("card = \"1\"", "the card with the number 1 can be another one after each start"),
        ("card = \"USB Mic\"", "`USB Mic` is not an id of a sound card"),
        ("card = \"\"", "write the id of a sound card"),
        ("card = \"Device\", channels = 2, select = [2]", "select: name one or more channels from 0 to 1"),
        ("card = \"Device\", period_s = 0.2", "buffer_s: the buffer must hold 4 periods, 0.8 s, or more"),
        ("card = \"Device\", gain_db = 200.0", "gain_db: 200 is out of range"),
    ] {
        let error = alsa(&format!("{keys}, rate_hz = 16000")).unwrap_err();
        assert!(error.contains(part), "{keys}: {error}");
    }
}

#[test]
fn only_one_pipeline_can_have_a_card_unless_it_is_shared() {
    let source = |card: &str| Source::Alsa(alsa(&format!("card = \"{card}\", rate_hz = 16000")).unwrap());
    let shares = |a, b| source(a).shares_with(&source(b));
    assert!(shares("Device", "plughw:CARD=Device") && shares("hw:Device,1", "hw:CARD=Device,DEV=1"));
    assert!(!shares("Device", "hw:CARD=Device,DEV=1") && !shares("dsnoop:CARD=Device", "dsnoop:CARD=Device"));
}

#[test]
fn a_survey_finds_the_card_or_says_which_there_are() {
    let root = tree();
    let (sysfs, dev) = (root.path().join("sys"), root.path().join("dev"));
    let survey = |card: &str| {
        alsa(&format!("card = \"{card}\", rate_hz = 16000")).unwrap().survey(&Machine { sysfs: &sysfs, dev: &dev })
    };
    let found = survey("Device");
    assert_eq!(found.presence, Presence::Ready, "{found:?}");
    assert_eq!(found.says, "hw:CARD=Device, Device (USB PnP Sound Device)");
    assert_eq!(found.node.unwrap().path, dev.join("snd/pcmC1D0c"));
    let absent = survey("Device_1").warning().unwrap();
    assert!(absent.starts_with("there is no sound card \"Device_1\"; cards that record: Device (USB PnP"), "{absent}");
    assert!(absent.contains("the source waits for it") && absent.ends_with("card = \"Device\""), "{absent}");
    let other = survey("wm8960soundcard");
    assert_eq!(other.presence, Presence::Broken);
    assert_eq!(other.fix.as_deref(), Some("write card = \"hw:CARD=wm8960soundcard,DEV=1\""));
    assert_eq!(survey("hw:CARD=wm8960soundcard,DEV=1").presence, Presence::Ready);
}
