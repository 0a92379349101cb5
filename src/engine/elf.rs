//! Reads a shared library as a file, without loading it: why the dynamic linker would refuse it.
//!
//! Owns the search that ld.so(8) does: DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, ldconfig's cache, the standard folders. Loading
//! would run a vendor's code, and the linker's own message names one fault only: "No such file" for a file that is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::{
    DF_1_PIE, DT_FLAGS_1, DT_NEEDED, DT_RPATH, DT_RUNPATH, EM_386, EM_AARCH64, EM_ARM, EM_MIPS, EM_PPC64, EM_RISCV,
    EM_X86_64, ET_DYN, FileHeader32, FileHeader64, PT_LOAD, SHT_DYNSYM, VER_FLG_WEAK,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{Endianness, FileKind, ReadCache, ReadRef};

use crate::sys::file;
use crate::text;

/// Libraries that one library may need, with those that these need.
const MOST_LIBRARIES: usize = 256;
/// How much of a file is read to tell what it is, if it is not a library.
const HEAD_BYTES: u64 = 512;
/// The runtime is loaded already when a delegate is, whatever folder it is in.
const LOADED: [&str; 2] = ["libtensorflowlite_c.so", "libtensorflowlite.so"];
/// The C library: if the search does not find it, this system is searched in another way, and nothing is known.
const C_LIBRARY: &str = "libc.so.6";

/// Debian's packages of libraries that delegates need.
const PACKAGES: [(&str, &str); 26] = [
    ("libusb-1.0.so.0", "libusb-1.0-0"),
    ("libudev.so.1", "libudev1"),
    ("libedgetpu.so.1", "libedgetpu1-std"),
    ("libstdc++.so.6", "libstdc++6"),
    ("libc++.so.1", "libc++1"),
    ("libc++abi.so.1", "libc++abi1"),
    ("libgcc_s.so.1", "libgcc-s1"),
    ("libgomp.so.1", "libgomp1"),
    ("libatomic.so.1", "libatomic1"),
    ("libunwind.so.8", "libunwind8"),
    ("libOpenCL.so.1", "ocl-icd-libopencl1"),
    ("libvulkan.so.1", "libvulkan1"),
    ("libEGL.so.1", "libegl1"),
    ("libGLESv2.so.2", "libgles2"),
    ("libGL.so.1", "libgl1"),
    ("libGLdispatch.so.0", "libglvnd0"),
    ("libdrm.so.2", "libdrm2"),
    ("libgbm.so.1", "libgbm1"),
    ("libX11.so.6", "libx11-6"),
    ("libxcb.so.1", "libxcb1"),
    ("libwayland-client.so.0", "libwayland-client0"),
    ("libz.so.1", "zlib1g"),
    ("libtbb.so.12", "libtbb12"),
    ("libprotobuf.so.32", "libprotobuf32"),
    ("libarmnn.so.32", "libarmnn32"),
    ("libtim-vx.so", "tim-vx"),
];

/// What a library's file says.
#[derive(Debug)]
struct Image {
    machine: Machine,
    needed: Vec<String>,
    rpath: Vec<String>,
    runpath: Vec<String>,
    /// Versions that it needs, each with the library that has it: `(libc.so.6, GLIBC_2.34)`.
    needs_versions: Vec<(String, String)>,
    has_versions: BTreeSet<String>,
    /// The functions and data that it offers; `None`: the file does not show them.
    symbols: Option<BTreeSet<Vec<u8>>>,
    is_program: bool,
}

/// What code is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    architecture: u16,
    is_64: bool,
    is_little_endian: bool,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match (self.architecture, self.is_64) {
            (EM_X86_64, true) => "64-bit x86 (x86_64)",
            (EM_386, _) | (EM_X86_64, false) => "32-bit x86",
            (EM_AARCH64, _) => "64-bit Arm (aarch64)",
            (EM_ARM, _) => "32-bit Arm (armv7)",
            (EM_RISCV, true) => "64-bit RISC-V",
            (EM_PPC64, _) => "64-bit PowerPC",
            (EM_MIPS, _) => "MIPS",
            (other, _) => return write!(f, "another machine (number {other})"),
        };
        f.write_str(name)
    }
}

/// Returns where the dynamic linker would find a library: a file, or a name that it looks for.
pub(crate) fn find(library: &Path) -> Option<PathBuf> {
    if library.components().count() > 1 {
        return library.is_file().then(|| library.to_owned());
    }
    let search = Search::new(machine(Path::new("/proc/self/exe")));
    let name = library.to_str()?;
    let found = search.find_in(name, &Folders::default());
    // One for another machine says more than none.
    found.or_else(|| Search { machine: None, ..search }.find_in(name, &Folders::default()))
}

/// Returns what stands at the path of a library that is not a file.
pub(crate) fn stands_there(library: &Path) -> Option<String> {
    if library.is_dir() {
        return Some("it is a folder; name the file of the library in it".to_owned());
    }
    let target = std::fs::read_link(library).ok()?;
    Some(format!("it is a link to {}, which is not there", target.display()))
}

/// Returns why the dynamic linker would not load `library`, or why it is not of use without the functions `wanted`; nothing
/// if it would, as far as the files say.
pub(crate) fn faults(library: &Path, wanted: &[&str]) -> Vec<String> {
    let image = match read(library) {
        Ok(image) => image,
        Err(fault) => return vec![fault],
    };
    // A program that runs is of a machine that this is.
    let here = machine(Path::new("/proc/self/exe"));
    if let Some(here) = here.filter(|here| *here != image.machine) {
        return vec![format!("it is made for {}; this program needs one for {here}", image.machine)];
    }
    if image.is_program {
        return vec!["it is a program or an object file, not a shared library".to_owned()];
    }
    Tree::of(library, image, Search::new(here)).faults(wanted)
}

/// A library with all that it needs.
struct Tree {
    images: Vec<Image>,
    /// What is not found, and the library that needs it.
    missing: Vec<(String, PathBuf)>,
    /// What is not in the library where it should be, and the library that needs it.
    too_old: BTreeMap<String, Vec<String>>,
    is_searched: bool,
}

impl Tree {
    fn of(library: &Path, image: Image, search: Search) -> Self {
        let mut tree = Self {
            images: Vec::new(),
            missing: Vec::new(),
            too_old: BTreeMap::new(),
            is_searched: search.find_in(C_LIBRARY, &Folders::default()).is_some(),
        };
        let mut known = BTreeSet::new();
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut needs_versions = Vec::new();
        let mut queue = VecDeque::from([(library.to_owned(), image, Vec::new())]);
        while let Some((path, image, inherited)) = queue.pop_front() {
            let own =
                |folders: &[String]| -> Vec<PathBuf> { folders.iter().map(|folder| origin(folder, &path)).collect() };
            // DT_RPATH holds for what is needed below too, and not if there is a DT_RUNPATH.
            let mut rpath = if image.runpath.is_empty() { own(&image.rpath) } else { Vec::new() };
            rpath.extend(inherited);
            let folders = Folders {
                first: if image.runpath.is_empty() { rpath.clone() } else { Vec::new() },
                last: own(&image.runpath),
            };
            for name in &image.needed {
                if LOADED.contains(&name.as_str()) || known.len() > MOST_LIBRARIES || !known.insert(name.clone()) {
                    continue;
                }
                match search.find_in(name, &folders).and_then(|path| Some((read(&path).ok()?, path))) {
                    Some((image, path)) => {
                        found.insert(name.clone(), image.has_versions.clone());
                        queue.push_back((path, image, rpath.clone()));
                    }
                    None => tree.missing.push((name.clone(), path.clone())),
                }
            }
            needs_versions.extend(image.needs_versions.iter().cloned());
            tree.images.push(image);
        }
        for (file, version) in needs_versions {
            if found.get(&file).is_some_and(|has| !has.is_empty() && !has.contains(&version)) {
                tree.too_old.entry(file).or_default().push(version);
            }
        }
        tree
    }

    fn faults(self, wanted: &[&str]) -> Vec<String> {
        let Self { images, missing, too_old, is_searched } = self;
        let mut faults = Vec::new();
        for (name, by) in missing.iter().filter(|_| is_searched) {
            let package = PACKAGES.iter().find(|(library, _)| library == name);
            let install = package.map_or_else(
                || "; install the package that has it, then run: ldconfig".to_owned(),
                |(_, package)| format!("; run: sudo apt install {package}"),
            );
            let by = by.file_name().unwrap_or_default().to_string_lossy();
            faults.push(format!("{by} needs {name}, which is not on this system{install}"));
        }
        for (file, mut versions) in too_old {
            versions.sort_by_key(|version| numbers(version));
            versions.dedup();
            let newest = versions.last().map_or("", String::as_str);
            faults.push(format!(
                "it needs {newest} in {file}, and this system's is older: it was built for a newer system; use a build for this one"
            ));
        }
        let offers = |name: &str| {
            images.iter().any(|image| image.symbols.as_ref().is_none_or(|symbols| symbols.contains(name.as_bytes())))
        };
        // What is missing may be where it is.
        if missing.is_empty()
            && let Some(name) = wanted.iter().find(|name| !offers(name))
        {
            faults.push(format!("it has no function {name}, so it is another kind of library"));
        }
        faults
    }
}

/// The numbers in a version such as `GLIBC_2.34`, to compare it.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Returns a folder of DT_RPATH or DT_RUNPATH; `$ORIGIN` in it is the folder of the library.
fn origin(folder: &str, library: &Path) -> PathBuf {
    let own =
        std::fs::canonicalize(library).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
    let own = own.to_string_lossy();
    PathBuf::from(folder.replace("${ORIGIN}", &own).replace("$ORIGIN", &own))
}

/// Folders that a library names: before those of `LD_LIBRARY_PATH`, and after them.
#[derive(Default)]
struct Folders {
    first: Vec<PathBuf>,
    last: Vec<PathBuf>,
}

/// What the dynamic linker searches for every library.
struct Search {
    machine: Option<Machine>,
    environment: Vec<PathBuf>,
    /// ldconfig's cache.
    cache: Vec<(String, PathBuf)>,
    standard: Vec<PathBuf>,
}

impl Search {
    fn new(machine: Option<Machine>) -> Self {
        let environment = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        // An empty entry means the working folder, which is not searched for a service.
        let environment = std::env::split_paths(&environment).filter(|folder| !folder.as_os_str().is_empty()).collect();
        // ldconfig is not in the search path of normal users.
        let listed = ["ldconfig", "/sbin/ldconfig"].into_iter().find_map(list).unwrap_or_default();
        let entry = |line: &str| {
            let (name, path) = line.split_once(" => ")?;
            Some((name.split_whitespace().next()?.to_owned(), PathBuf::from(path.trim())))
        };
        let arch = std::env::consts::ARCH;
        let triplet = if arch == "arm" { "arm-linux-gnueabihf".to_owned() } else { format!("{arch}-linux-gnu") };
        let standard = ["/lib", "/usr/lib"].into_iter().flat_map(|folder| {
            [format!("{folder}/{triplet}"), format!("{folder}64"), folder.to_owned()].map(PathBuf::from)
        });
        Self { machine, environment, cache: listed.lines().filter_map(entry).collect(), standard: standard.collect() }
    }

    fn find_in(&self, name: &str, folders: &Folders) -> Option<PathBuf> {
        if name.contains('/') {
            return Path::new(name).is_file().then(|| PathBuf::from(name));
        }
        let below = |folders: &[PathBuf]| folders.iter().map(|folder| folder.join(name)).collect::<Vec<_>>();
        let cached = self.cache.iter().filter(|(cached, _)| cached == name).map(|(_, path)| path.clone());
        let mut candidates = below(&folders.first);
        candidates.extend(below(&self.environment));
        candidates.extend(below(&folders.last));
        candidates.extend(cached);
        candidates.extend(below(&self.standard));
        // The linker skips libraries for other machines, which a system can have too, and nothing else.
        let is_for_another =
            |path: &PathBuf| self.machine.zip(machine(path)).is_some_and(|(here, machine)| machine != here);
        candidates.into_iter().find(|path| path.is_file() && !is_for_another(path))
    }
}

fn list(ldconfig: &str) -> Option<String> {
    let output = Command::new(ldconfig).arg("-p").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads what a library's file says.
///
/// # Errors
/// It is not a shared library; the message says what it is.
fn read(path: &Path) -> Result<Image, String> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err("it is not a file".to_owned());
    }
    let mut file = file::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
    if !head.starts_with(b"\x7fELF") {
        return Err(no_library(&head).to_owned());
    }
    let data = ReadCache::new(file);
    let data = &data;
    let damaged = |error: object::Error| format!("the file is cut off or damaged: {error}");
    match FileKind::parse(data).map_err(damaged)? {
        FileKind::Elf32 => parsed::<FileHeader32<Endianness>, _>(data, metadata.len()).map_err(damaged)?,
        FileKind::Elf64 => parsed::<FileHeader64<Endianness>, _>(data, metadata.len()).map_err(damaged)?,
        _ => Err("it is not a shared library".to_owned()),
    }
}

/// Returns what a file is that is not a library.
fn no_library(head: &[u8]) -> &'static str {
    let content = String::from_utf8_lossy(head);
    let start = content.trim_start();
    if head.is_empty() {
        "the file is empty"
    } else if text::is_lfs_pointer(start.as_bytes()) {
        "it is a pointer of Git LFS, not the library itself; run: git lfs pull"
    } else if start.starts_with('<') {
        "it is a web page, not a library; download the file itself"
    } else if start.starts_with("/* GNU ld script") || start.contains("GROUP (") || start.contains("INPUT (") {
        "it is a script for the linker at build time, not a library; name the file that it names"
    } else if head.starts_with(b"!<arch>") {
        "it is a static library (.a) or a package; a shared library (.so) is needed"
    } else if head.starts_with(b"MZ")
        || head.starts_with(&[0xcf, 0xfa, 0xed, 0xfe])
        || head.starts_with(&[0xca, 0xfe, 0xba, 0xbe])
    {
        "it is a library for Windows or macOS; this program needs one for Linux"
    } else if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(b"PK\x03\x04") || head.starts_with(b"\xfd7zXZ") {
        "it is an archive; unpack it, and name the library in it"
    } else if head.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e) || *byte >= 0x80) {
        "it is a text file, not a library"
    } else {
        "it is not a shared library (no ELF file)"
    }
}

/// Returns what is in a file; the inner error says why it is not a library.
fn parsed<'d, H, R>(data: R, bytes: u64) -> Result<Result<Image, String>, object::Error>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'d>,
{
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let machine = Machine {
        architecture: header.e_machine(endian),
        is_64: header.is_class_64(),
        is_little_endian: header.is_little_endian(),
    };
    for segment in header.program_headers(endian, data)?.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
        let (offset, length): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
        if offset.saturating_add(length) > bytes {
            return Ok(Err(format!("the file is cut off: it has {bytes} bytes, and more belong to it")));
        }
    }
    let sections = header.sections(endian, data)?;
    let mut image = Image {
        machine,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        needs_versions: Vec::new(),
        has_versions: BTreeSet::new(),
        symbols: None,
        is_program: false,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some((entries, strings)) = sections.dynamic(endian, data)? {
        let strings = sections.strings(endian, data, strings)?;
        for entry in entries {
            let string = || entry.string(endian, strings).map(text);
            let folders =
                || string().map(|text| text.split(':').filter(|f| !f.is_empty()).map(str::to_owned).collect());
            match entry.tag(endian) {
                DT_NEEDED => image.needed.push(string()?),
                DT_RPATH => image.rpath = folders()?,
                DT_RUNPATH => image.runpath = folders()?,
                DT_FLAGS_1 => image.is_program = entry.val32(endian).is_some_and(|flags| flags & DF_1_PIE != 0),
                _ => {}
            }
        }
    }
    if let Some((mut needs, strings)) = sections.gnu_verneed(endian, data)? {
        let strings = sections.strings(endian, data, strings)?;
        while let Some((need, mut versions)) = needs.next()? {
            let file = text(need.file(endian, strings)?);
            while let Some(version) = versions.next()? {
                if version.vna_flags.get(endian) & VER_FLG_WEAK == 0 {
                    image.needs_versions.push((file.clone(), text(version.name(endian, strings)?)));
                }
            }
        }
    }
    if let Some((mut definitions, strings)) = sections.gnu_verdef(endian, data)? {
        let strings = sections.strings(endian, data, strings)?;
        while let Some((_, mut names)) = definitions.next()? {
            if let Some(name) = names.next()? {
                image.has_versions.insert(text(name.name(endian, strings)?));
            }
        }
    }
    let symbols = sections.symbols(endian, data, SHT_DYNSYM)?;
    if !symbols.is_empty() {
        let defined = symbols.iter().filter(|symbol| !symbol.is_undefined(endian));
        let names = defined.filter_map(|symbol| symbol.name(endian, symbols.strings()).ok());
        image.symbols = Some(names.map(<[u8]>::to_vec).collect());
    }
    image.is_program |= header.e_type(endian) != ET_DYN;
    Ok(Ok(image))
}

/// Returns what a file's code is made for, by the start of its header (elf(5)).
fn machine(path: &Path) -> Option<Machine> {
    let mut head = [0; 20];
    file::open(path).ok()?.read_exact(&mut head).ok()?;
    let (is_64, is_little_endian) = (head[4] == 2, head[5] == 1);
    let number = [head[18], head[19]];
    let architecture = if is_little_endian { u16::from_le_bytes(number) } else { u16::from_be_bytes(number) };
    head.starts_with(b"\x7fELF").then_some(Machine { architecture, is_64, is_little_endian })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let faults = faults(file.path(), &[]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.concat()
    }

    /// A library of this system that every program has.
    fn c_library() -> Vec<u8> {
        std::fs::read(find(Path::new(C_LIBRARY)).unwrap()).unwrap()
    }

    #[test]
    fn a_library_of_this_system_has_no_fault_unless_it_lacks_what_is_wanted() {
        let path = find(Path::new(C_LIBRARY)).unwrap();
        assert_eq!(faults(&path, &["malloc"]), Vec::<String>::new());
        let fault = faults(&path, &["malloc", "tflite_plugin_create_delegate"]).concat();
        assert_eq!(fault, "it has no function tflite_plugin_create_delegate, so it is another kind of library");
        assert_eq!(find(Path::new("libnowhere.so.9")), None);
        assert_eq!(faults(Path::new("/nowhere/lib.so"), &[]), ["there is no such file"]);
        assert_eq!(faults(Path::new("/tmp"), &[]), ["it is not a file"]);
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("lib.so");
        std::os::unix::fs::symlink("lib.so.3", &link).unwrap();
        assert_eq!(stands_there(&link).unwrap(), "it is a link to lib.so.3, which is not there");
        assert_eq!(stands_there(folder.path()).unwrap(), "it is a folder; name the file of the library in it");
        assert_eq!(stands_there(Path::new("/nowhere/lib.so")), None);
    }

    #[test]
    fn what_is_no_library_is_named() {
        for (bytes, expected) in [
            (&b""[..], "empty"),
            (b"hello\n", "a text file"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"/* GNU ld script */\nGROUP ( /lib/libc.so.6 )", "a script for the linker"),
            (b"!<arch>\n", "a static library"),
            (b"MZ\x90\0", "Windows or macOS"),
            (b"PK\x03\x04", "an archive"),
            (b"\x01\x02\0\x03", "not a shared library"),
            (b"\x7fELF", "cut off or damaged"),
        ] {
            assert!(fault_of(bytes).contains(expected), "{expected}: {}", fault_of(bytes));
        }
        assert!(faults(Path::new("/proc/self/exe"), &[]).concat().contains("a program"));
    }

    #[test]
    fn a_library_for_another_machine_and_one_that_is_cut_off_are_named() {
        let mut other = c_library();
        let number = if cfg!(target_arch = "aarch64") { EM_X86_64 } else { EM_AARCH64 };
        other[18..20].copy_from_slice(&number.to_ne_bytes());
        let fault = fault_of(&other);
        assert!(
            fault.starts_with("it is made for 64-bit") && fault.contains("; this program needs one for "),
            "{fault}"
        );
        let whole = c_library();
        for bytes in [30, 64, 1000, whole.len() / 2] {
            assert!(fault_of(&whole[..bytes]).contains("cut off"), "{bytes}: {}", fault_of(&whole[..bytes]));
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        // Names in the table of strings, replaced by others of the same length.
        let library = find(Path::new("libm.so.6")).unwrap();
        let with = |old: &str, new: &str| {
            let mut bytes = std::fs::read(&library).unwrap();
            let place = bytes.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
            bytes[place..place + old.len()].copy_from_slice(new.as_bytes());
            fault_of(&bytes)
        };
        let missing = with("libc.so.6\0", "libq.so.9\0");
        assert!(missing.contains(" needs libq.so.9, which is not on this system; install"), "{missing}");
        let z = with("libc.so.6\0", "libz.so.7\0");
        assert!(z.contains("libz.so.7"), "{z}");
        let (version, newer) =
            if cfg!(target_arch = "x86_64") { ("GLIBC_2.2.5", "GLIBC_9.2.5") } else { ("GLIBC_2.17", "GLIBC_9.17") };
        // The name of what it offers has the same string.
        let old = with(&format!("\0{version}\0"), &format!("\0{newer}\0"));
        assert!(old.contains(newer) && old.contains("built for a newer system"), "{old}");
        assert_eq!(numbers("GLIBC_2.34"), [2, 34]);
    }

    #[test]
    fn the_folder_of_a_library_can_be_in_its_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("lib.so");
        std::fs::write(&library, "").unwrap();
        let own = std::fs::canonicalize(folder.path()).unwrap();
        assert_eq!(origin("$ORIGIN/../x", &library), own.join("../x"));
        assert_eq!(origin("${ORIGIN}", &library), own);
        assert_eq!(origin("/opt", &library), Path::new("/opt"));
    }
}
