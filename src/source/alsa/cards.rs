//! The sound cards that the kernel shows: their ids, what of them records, and who uses it.

use std::path::{Path, PathBuf};

use crate::sys::Machine;
use crate::sys::folder::{names, text};

/// The udev rule for the device files of sound cards.
pub(crate) const RULE: &str = "SUBSYSTEM==\"sound\", GROUP=\"audio\", MODE=\"0660\"";
/// How the names of PCMs begin that stand for a card, and whether only one program can have it.
const OF_CARDS: [(&str, bool); 4] = [("hw:", true), ("plughw:", true), ("dsnoop:", false), ("sysdefault:", false)];

/// A sound card that can record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub number: u32,
    /// As the configuration names it. It stays the same when the number changes.
    pub id: String,
    /// What a USB device says it is.
    pub product: Option<String>,
    /// The numbers of its devices that record.
    pub devices: Vec<u32>,
}

impl Card {
    /// Returns the file of a device that records, below the folder of device files.
    pub(crate) fn node(&self, dev: &Path, device: u32) -> PathBuf {
        dev.join(format!("snd/pcmC{}D{device}c", self.number))
    }

    /// Returns the id, and what the card is.
    pub(crate) fn describe(&self) -> String {
        self.product.as_ref().map_or_else(|| self.id.clone(), |product| format!("{} ({product})", self.id))
    }
}

/// Returns the cards that can record.
pub(crate) fn recording(machine: &Machine<'_>) -> Vec<Card> {
    let folder = machine.sysfs.join("class/sound");
    let mut cards: Vec<Card> = Vec::new();
    for name in names(&folder) {
        let numbers = name.strip_prefix("pcmC").and_then(|name| name.strip_suffix('c')).and_then(|n| n.split_once('D'));
        let Some((Ok(number), Ok(device))) = numbers.map(|(card, device)| (card.parse::<u32>(), device.parse::<u32>()))
        else {
            continue;
        };
        if let Some(card) = cards.iter_mut().find(|card| card.number == number) {
            card.devices.push(device);
            continue;
        }
        let card = folder.join(format!("card{number}"));
        let id = text(&card.join("id")).unwrap_or_else(|| number.to_string());
        // The card belongs to an interface of the device.
        let product = text(&card.join("device/../product"));
        cards.push(Card { number, id, product, devices: vec![device] });
    }
    cards
}

/// Returns the name of the PCM that `card` stands for: an id of a card, or the name itself.
pub(super) fn pcm_name(card: &str) -> String {
    if card.contains(':') { card.to_owned() } else { format!("hw:CARD={card}") }
}

/// The card that a PCM belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The id, or the number, of the card.
    pub card: String,
    pub device: u32,
    /// Only one program can have it.
    pub exclusive: bool,
}

impl Named {
    /// Returns the card of a PCM, such as `hw:CARD=Device,DEV=0` or `plughw:1,0`; `None` if the name does not say it.
    pub(super) fn parse(pcm: &str) -> Option<Self> {
        let of_card = |(prefix, exclusive)| pcm.strip_prefix(prefix).map(|arguments| (arguments, exclusive));
        let (arguments, exclusive) = OF_CARDS.into_iter().find_map(of_card)?;
        let mut named = Self { card: String::new(), device: 0, exclusive };
        for (index, argument) in arguments.split(',').enumerate() {
            let (key, value) = argument.split_once('=').unwrap_or((["CARD", "DEV", "SUBDEV"].get(index)?, argument));
            match key {
                "CARD" => named.card = value.to_owned(),
                "DEV" => named.device = value.parse().ok()?,
                _ => {}
            }
        }
        Some(named).filter(|named| !named.card.is_empty())
    }

    /// Returns the card among `cards`.
    pub(super) fn find<'a>(&self, cards: &'a [Card]) -> Option<&'a Card> {
        cards.iter().find(|card| card.id == self.card || card.number.to_string() == self.card)
    }
}

/// Says which cards can record.
pub(super) fn list(cards: &[Card]) -> String {
    let described: Vec<String> = cards.iter().map(Card::describe).collect();
    if described.is_empty() {
        "no sound card records".into()
    } else {
        format!("cards that record: {}", described.join(", "))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Two cards as the kernel shows them: a USB microphone, and a board's card that records with its second device.
    pub(in super::super) fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("sys/devices/usb1/1-1/product", "USB PnP Sound Device\n");
        write("sys/devices/usb1/1-1/1-1:1.0/bInterfaceClass", "01\n");
        for (file, text) in [
            ("card1/id", "Device\n"),
            ("pcmC1D0c/dev", "116:24\n"),
            ("pcmC1D0p/dev", "116:16\n"),
            ("card2/id", "wm8960soundcard\n"),
            ("pcmC2D1c/dev", "116:32\n"),
            ("card0/id", "Headphones\n"),
            ("pcmC0D0p/dev", "116:8\n"),
            ("timer/dev", "116:33\n"),
        ] {
            write(&format!("sys/class/sound/{file}"), text);
        }
        symlink("../../../devices/usb1/1-1/1-1:1.0", root.path().join("sys/class/sound/card1/device")).unwrap();
        write("dev/snd/pcmC1D0c", "");
        write("dev/snd/pcmC2D1c", "");
        root
    }

    #[test]
    fn cards_that_record_are_found_with_their_ids() {
        let root = tree();
        let (sysfs, dev) = (root.path().join("sys"), root.path().join("dev"));
        let cards = recording(&Machine { sysfs: &sysfs, dev: &dev });
        let described: Vec<String> = cards.iter().map(Card::describe).collect();
        assert_eq!(described, ["Device (USB PnP Sound Device)", "wm8960soundcard"]);
        assert_eq!(cards[1].devices, [1]);
        assert_eq!(cards[1].node(Path::new("/dev"), 1), Path::new("/dev/snd/pcmC2D1c"));
        let find = |pcm: &str| Named::parse(pcm).and_then(|named| named.find(&cards).map(|card| card.number));
        assert_eq!((find("hw:CARD=Device"), find("plughw:2,1"), find("hw:CARD=Other")), (Some(1), Some(2), None));
        assert_eq!(recording(&Machine { sysfs: root.path(), dev: &dev }), []);
        assert_eq!(list(&[]), "no sound card records");
    }

    #[test]
    fn a_pcm_names_its_card() {
        let named = |pcm: &str| Named::parse(&pcm_name(pcm)).map(|n| (n.card, n.device, n.exclusive));
        let device = |device, exclusive| Some(("Device".to_owned(), device, exclusive));
        assert_eq!(named("Device"), device(0, true));
        assert_eq!(named("hw:CARD=Device,DEV=1"), device(1, true));
        assert_eq!(named("hw:DEV=1,CARD=Device"), device(1, true));
        assert_eq!(named("plughw:Device,2,0"), device(2, true));
        assert_eq!(named("dsnoop:CARD=Device"), device(0, false));
        for other in ["plug:mic", "null:", "hw:", "hw:CARD=Device,DEV=x", "hw:1,2,3,4"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
