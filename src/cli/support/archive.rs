//! The archive's format: small files in a gzip-compressed tar (POSIX ustar). Pure: it writes into memory.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The unit of a tar, into which headers and contents are padded.
const BLOCK_BYTES: usize = 512;
/// The longest name that a header holds.
const NAME_BYTES: usize = 100;

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path in the archive, in ASCII.
    pub name: String,
    pub content: Vec<u8>,
}

/// Packs the files in their order; `seconds` since 1970 is the time of all of them.
///
/// # Errors
/// A name is too long.
pub(crate) fn pack(entries: &[Entry], seconds: u64) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    for Entry { name, content } in entries {
        gzip.write_all(&header(name, content.len(), seconds)?)?;
        gzip.write_all(content)?;
        gzip.write_all(&vec![0; content.len().next_multiple_of(BLOCK_BYTES) - content.len()])?;
    }
    // Two empty blocks are the end.
    gzip.write_all(&[0; 2 * BLOCK_BYTES])?;
    gzip.finish()
}

/// Returns the header of a plain file that its owner alone may read (POSIX.1-2017, pax, "ustar Interchange Format").
fn header(name: &str, bytes: usize, seconds: u64) -> io::Result<[u8; BLOCK_BYTES]> {
    if name.len() > NAME_BYTES {
        return Err(io::Error::other(format!("{name}: a name in the archive has {NAME_BYTES} bytes at most")));
    }
    let mut header = [0; BLOCK_BYTES];
    let fields: [(usize, &str); 8] = [
        (0, name),
        (100, "0000600\0"),
        (108, "0000000\0"),
        (116, "0000000\0"),
        (124, &format!("{bytes:011o}\0")),
        (136, &format!("{seconds:011o}\0")),
        // The checksum counts as blanks while it is computed.
        (148, "        "),
        (156, "0ustar\u{0}00"),
    ];
    let place = |header: &mut [u8; BLOCK_BYTES], at: usize, text: &str| {
        header.iter_mut().skip(at).zip(text.bytes()).for_each(|(to, from)| *to = from);
    };
    for (at, text) in fields {
        // The magic begins a byte after the type.
        match text.strip_prefix('0').filter(|_| at == 156) {
            Some(magic) => {
                place(&mut header, 156, "0");
                place(&mut header, 257, magic);
            }
            None => place(&mut header, at, text),
        }
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    place(&mut header, 148, &format!("{sum:06o}\0 "));
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_unpacks_what_was_packed() {
        let contents: [Vec<u8>; 4] = [vec![], b"x".to_vec(), vec![7; BLOCK_BYTES], vec![b'y'; 100_000]];
        let entries: Vec<Entry> = contents
            .iter()
            .enumerate()
            .map(|(index, content)| Entry { name: format!("top/{index}.txt"), content: content.clone() })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar.gz");
        std::fs::write(&archive, pack(&entries, 1_700_000_000).unwrap()).unwrap();
        let tar = |args: &[&str]| {
            let mut command = Command::new("tar");
            command.args(args).arg(&archive).current_dir(dir.path()).stderr(Stdio::inherit());
            let output = command.output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(tar(&["-tf"]), "top/0.txt\ntop/1.txt\ntop/2.txt\ntop/3.txt\n");
        assert!(tar(&["--utc", "-tvf"]).lines().all(|line| line.starts_with("-rw------- 0/0 ")));
        tar(&["-xf"]);
        for (index, content) in contents.iter().enumerate() {
            assert_eq!(&std::fs::read(dir.path().join(format!("top/{index}.txt"))).unwrap(), content);
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        let entry = |length| [Entry { name: "x".repeat(length), content: Vec::new() }];
        assert!(pack(&entry(NAME_BYTES), 0).is_ok());
        assert!(pack(&entry(NAME_BYTES + 1), 0).is_err_and(|error| error.to_string().contains("100 bytes")));
    }
}
