//! `edgewatt doctor` of the real binary, on fake `/sys` and `/dev` trees and fake system commands.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use edgewatt_support::daemon::{Daemon, Setup, edgewatt, without_root_s_rights};
use edgewatt_support::mosquitto::{Mosquitto, free_port};
use edgewatt_support::plugin::test_delegate;
use edgewatt_support::root;
use serde_json::Value;
use tempfile::TempDir;

/// A machine of text files.
struct Machine {
    dir: TempDir,
}

/// What was found, by its name.
struct Report(Value);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self { dir: TempDir::new().unwrap() };
        // Nothing of the machine that the test runs on.
        machine.command("systemctl", "exit 1");
        machine.command("ldconfig", "exit 0");
        files.iter().for_each(|(path, text)| machine.write(path, text));
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A command that is found before the system's.
    fn command(&self, name: &str, script: &str) {
        let path = format!("bin/{name}");
        self.write(&path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.path(&path), Permissions::from_mode(0o755)).unwrap();
    }

    fn deny(&self, path: &str) {
        fs::set_permissions(self.path(path), Permissions::from_mode(0o000)).unwrap();
    }

    fn doctor(&self, args: &[&str]) -> Command {
        let mut command = edgewatt(&["doctor", "--sysfs"]);
        command.arg(self.path("sys")).arg("--dev").arg(self.path("dev")).args(args);
        command.env("PATH", self.path("bin")).env_remove("STATE_DIRECTORY").env_remove("LD_LIBRARY_PATH");
        command
    }

    /// The report, which the exit code must agree with.
    #[track_caller]
    fn report(&self, args: &[&str]) -> Report {
        // `setpriv` must be found.
        let mut command = without_root_s_rights(self.doctor(&[args, &["--json"]].concat()));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        let ended = Daemon::start(command).wait();
        let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr));
        let broken = report["findings"].as_array().unwrap().iter().filter(|f| f["state"] == "broken").count();
        assert_eq!(report["broken"], broken);
        ended.expect(i32::from(broken > 0));
        Report(report)
    }
}

impl Report {
    #[track_caller]
    fn find(&self, what: &str) -> &Value {
        let findings = self.0["findings"].as_array().unwrap();
        findings.iter().find(|f| f["what"] == what).unwrap_or_else(|| panic!("no {what} in {:#}", self.0))
    }

    /// The finding must be in that state, with that in what it says and in the rest of it.
    #[track_caller]
    fn is(&self, what: &str, state: &str, parts: &[&str]) {
        let finding = self.find(what);
        assert_eq!(finding["state"], state, "{finding:#}");
        let strings = [&finding["says"], &finding["fix"], &finding["config"]];
        let detail = finding["detail"].as_array().unwrap();
        let text: Vec<&str> = strings.into_iter().chain(detail).filter_map(Value::as_str).collect();
        let text = text.join("\n");
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
    }
}

#[test]
fn a_bare_machine_is_told_how_to_get_each_thing_and_nothing_is_broken() {
    let machine = Machine::new(&[("sys/class/thermal/x", "")]);
    let report = machine.report(&["delegates", "meters", "sensors", "service", "broker", "configuration"]);
    report.is("Edge TPU", "absent", &["lsusb shows 1a6e:089a", "lspci -nn shows 1ac1:089a"]);
    report.is("libedgetpu.so.1", "absent", &["libedgetpu1-std"]);
    report.is("rapl", "absent", &["modprobe intel_rapl_msr"]);
    report.is("hwmon, iio", "absent", &["echo ina219 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device"]);
    report.is("ina219", "absent", &["dtparam=i2c_arm=on", "modprobe i2c-dev"]);
    report.is("estimate", "ok", &["no measurement", "estimate = { watts_per_core = 2.0"]);
    report.is("IIO devices", "absent", &["dtoverlay=i2c-sensor,bme280"]);
    report.is("chips in hwmon", "absent", &["modprobe coretemp"]);
    report.is("serial ports", "absent", &["enable_uart=1"]);
    report.is("cameras", "absent", &["camera_auto_detect=1"]);
    report.is("sound cards", "absent", &["dtoverlay=googlevoicehat-soundcard"]);
    report.is("MQTT broker", "absent", &["no configuration"]);
    report.is("edgewatt.service", "absent", &["systemd does not answer"]);
}

const GOOD: [(&str, &str); 26] = [
    ("sys/class/hwmon/hwmon0/name", "ina219\n"),
    ("sys/class/hwmon/hwmon0/power1_input", "2500000\n"),
    ("sys/class/hwmon/hwmon0/shunt_resistor", "10000\n"),
    ("dev/i2c-1", ""),
    ("sys/bus/iio/devices/iio:device0/name", "bme280\n"),
    ("sys/bus/iio/devices/iio:device0/in_temp_input", "21500\n"),
    ("sys/bus/iio/devices/iio:device0/in_pressure_input", "101.3\n"),
    ("sys/class/tty/ttyS0/type", "0\n"),
    ("sys/class/tty/ttyS1/type", "4\n"),
    ("sys/class/tty/console/active", "tty0 ttyAMA0\n"),
    ("dev/ttyS0", ""),
    ("dev/ttyS1", ""),
    ("dev/ttyAMA0", ""),
    ("dev/ttyUSB0", ""),
    ("dev/tty0", ""),
    ("dev/serial/by-id/x", ""),
    ("sys/class/video4linux/video0/name", "imx708\n"),
    ("dev/video0", ""),
    ("sys/class/sound/card1/id", "Microphone\n"),
    ("sys/class/sound/pcmC1D0c/dev", "116:24\n"),
    ("sys/class/sound/pcmC1D0p/dev", "116:16\n"),
    ("dev/snd/pcmC1D0c", ""),
    ("sys/bus/usb/devices/2-1/idVendor", "1a6e\n"),
    ("sys/bus/usb/devices/2-1/idProduct", "089a\n"),
    ("sys/bus/usb/devices/2-1/speed", "480\n"),
    ("dev/bus/usb/002/004", ""),
];

fn equipped() -> Machine {
    let machine = Machine::new(&GOOD);
    machine.write("sys/bus/usb/devices/2-1/busnum", "2\n");
    machine.write("sys/bus/usb/devices/2-1/devnum", "4\n");
    symlink("../../ttyUSB0", machine.path("dev/serial/by-id/usb-FTDI_A1-if00")).unwrap();
    fs::create_dir_all(machine.path("lib")).unwrap();
    fs::copy(test_delegate(), machine.path("lib/libedgetpu.so.1")).unwrap();
    let library = machine.path("lib/libedgetpu.so.1").display().to_string();
    machine.command("ldconfig", &format!("printf '\\tlibedgetpu.so.1 (libc6,AArch64) => {library}\\n'"));
    machine
}

#[test]
fn what_is_there_and_works_is_ok() {
    let machine = equipped();
    let report = machine.report(&["delegates", "meters", "sensors"]);
    assert_eq!(report.0["broken"], 0, "{:#}", report.0);
    report.is(
        "hwmon ina219",
        "ok",
        &["readable, 2.500 W now", "echo 100000 | sudo tee ", "hwmon = { chip = \"ina219\" }"],
    );
    report.is("ina219 on i2c-1", "ok", &["ina219 = { bus = 1, address = 0x40, shunt_ohms = 0.1 }"]);
    let line = "source.iio = { device = \"bme280\", channels = [\"pressure\", \"temp\"], rate_hz = 10.0 }";
    report.is("iio:device0 bme280", "ok", &["channels: pressure temp", line]);
    report.is(
        "hwmon0 ina219",
        "ok",
        &["has power1", "source.hwmon = { channels = [\"ina219/power1\"], rate_hz = 1.0 }"],
    );
    report.is("serial port ttyUSB0", "ok", &["serial/by-id/usb-FTDI_A1-if00"]);
    report.is("serial port ttyAMA0", "absent", &["the kernel's console uses it", "remove console="]);
    report.is("camera video0", "ok", &["imx708"]);
    report.is("sound card 1", "ok", &["Microphone"]);
    report.is("Edge TPU on USB", "ok", &["1a6e:089a, its firmware not loaded yet", "480 Mbit/s"]);
    report.is("libedgetpu.so.1", "ok", &["/lib/libedgetpu.so.1"]);
    let names: BTreeSet<&str> =
        report.0["findings"].as_array().unwrap().iter().map(|f| f["what"].as_str().unwrap()).collect();
    assert!(names.contains("serial port ttyS1") && !names.contains("serial port ttyS0"), "{names:?}");
    machine.write("sys/bus/usb/devices/2-1/idVendor", "18d1\n");
    machine.write("sys/bus/usb/devices/2-1/idProduct", "9302\n");
    machine.report(&["delegates"]).is("Edge TPU on USB", "ok", &["18d1:9302, its firmware loaded"]);
    // ldconfig's cache still has it.
    machine.write("lib/libedgetpu.so.1", "no library");
    machine.report(&["delegates"]).is("libedgetpu.so.1", "broken", &["cannot be loaded: it is a text file"]);
    fs::remove_file(machine.path("lib/libedgetpu.so.1")).unwrap();
    machine.report(&["delegates"]).is("libedgetpu.so.1", "broken", &["not installed"]);
}

#[test]
fn what_is_there_and_may_not_be_used_is_broken_with_its_fix() {
    let machine = equipped();
    machine.write("dev/apex_0", "");
    machine.write("dev/galcore", "");
    let denied = ["i2c-1", "ttyUSB0", "video0", "snd/pcmC1D0c", "bus/usb/002/004", "apex_0", "galcore"]
        .map(|f| format!("dev/{f}"));
    denied.iter().for_each(|path| machine.deny(path));
    machine.deny("sys/bus/iio/devices/iio:device0/in_pressure_input");
    machine.deny("sys/class/hwmon/hwmon0/power1_input");
    let report = machine.report(&["delegates", "meters", "sensors"]);
    report.is("ina219 on i2c-1", "broken", &["permission denied", "SUBSYSTEM==\"i2c-dev\"", "GROUP=\"i2c\""]);
    report.is("serial port ttyUSB0", "broken", &["KERNEL==\"ttyUSB0\", GROUP=\"dialout\"", "udevadm trigger"]);
    report.is("camera video0", "broken", &["GROUP=\"video\""]);
    report.is("sound card 1", "broken", &["GROUP=\"audio\""]);
    report.is("Edge TPU on USB", "broken", &["\"1a6e\"", "\"089a\"", "\"18d1\"", "\"9302\"", "GROUP=\"plugdev\""]);
    report.is("Edge TPU on PCIe", "broken", &["SUBSYSTEM==\"apex\"", "sudo groupadd --system apex"]);
    report.is("VeriSilicon NPU or GPU", "broken", &["KERNEL==\"galcore\""]);
    report.is("iio:device0 bme280", "broken", &["Permission denied"]);
    report.is("hwmon ina219", "broken", &["permission denied"]);
    report.is("serial port ttyAMA0", "absent", &[]);
}

#[test]
fn a_tpu_without_its_driver_or_library_is_broken() {
    let machine = Machine::new(&[
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x1ac1\n"),
        ("sys/bus/pci/devices/0000:01:00.0/device", "0x089a\n"),
    ]);
    let report = machine.report(&["delegates"]);
    report.is("Edge TPU on PCIe", "broken", &["0000:01:00.0 exists but has no driver", "modprobe apex"]);
    report.is("libedgetpu.so.1", "broken", &["not installed"]);
}

#[test]
fn what_the_configuration_names_and_is_not_there_is_broken() {
    let machine = Machine::new(&[]);
    let port = free_port();
    let setup = Setup::demo(port)
        .with("[power.meters.guess]", "[power.meters.board]")
        .with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", "hwmon = { chip = \"ina226\" }")
        .with("[metrics]", "[power]\nsysfs = \"sys\"\n\n[metrics]")
        .with("store = { enabled = false }", "store = { path = \"kept/outbox.db\", mib = 1048576 }")
        .with("id = \"demo\"", "id = \"demo\"\nstate_dir = \"state\"\n\n[runtime]\nlibrary = \"no.so\"")
        .with("\ndelegate = \"xnnpack\" ", "\nfallback = [\"xnnpack\"]\ndelegate = \"tpu\" ")
        .with(
            "[pipelines.shoulder]\n",
            "[delegates.tpu]\nexternal.library = \"libedgetpu.so.1\"\n\n[pipelines.shoulder]\n",
        );
    let config = setup.config();
    let config = config.to_str().unwrap();
    let report = machine.report(&["-c", config]);
    report.is(config, "ok", &["node demo, pipelines shoulder"]);
    report.is("TensorFlow Lite", "broken", &["not at ", "no.so", "make runtime"]);
    report.is("Edge TPU", "broken", &["lsusb"]);
    report.is("delegates.tpu", "broken", &["no libedgetpu.so.1", "libedgetpu1-std"]);
    report.is("power.meters.board", "broken", &["no chip", "load its driver"]);
    report.is(&format!("MQTT broker 127.0.0.1:{port}"), "broken", &["refused", "apt-get install mosquitto"]);
    report.is("room for mqtt.store", "broken", &["mqtt.store.mib is 1048576", "free some space"]);
    report.is(setup.dir.path().join("state").to_str().unwrap(), "ok", &["does not exist yet"]);

    machine.write("state/x", "");
    let setup = setup.with("state_dir = \"state\"", &format!("state_dir = \"{}\"", machine.path("state").display()));
    setup.config();
    machine.deny("state");
    machine.report(&["-c", config, "state"]).is(
        machine.path("state").to_str().unwrap(),
        "broken",
        &["may not write to it", "install -d -o "],
    );
    fs::set_permissions(machine.path("state"), Permissions::from_mode(0o755)).unwrap();
    let setup = setup.with("hop = 50", "hop = 0");
    setup.config();
    machine.report(&["-c", config, "configuration"]).is(
        config,
        "broken",
        &["hop: 0 is out of range", "edgewatt check -c"],
    );
    machine.report(&["-c", "/nowhere.toml", "configuration"]).is("/nowhere.toml", "broken", &["No such file"]);
    // The broker that it names may be anything.
    machine.report(&["-c", "/nowhere.toml", "broker"]).is("/nowhere.toml", "broken", &["No such file"]);
}

#[test]
fn the_bus_of_a_configured_ina219_must_be_there() {
    let machine = Machine::new(&[("dev/i2c-1", "")]);
    let setup = |bus: u8| {
        let ina219 = format!("ina219 = {{ bus = {bus}, shunt_ohms = 0.1 }}");
        Setup::demo(1).with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", &ina219)
    };
    let report = |setup: Setup| machine.report(&["-c", setup.config().to_str().unwrap(), "meters"]);
    report(setup(1)).is("power.meters.guess", "ok", &["its bus exists", "i2c-1"]);
    report(setup(3)).is("power.meters.guess", "broken", &["no such bus", "i2c-3", "modprobe i2c-dev"]);
    machine.deny("dev/i2c-1");
    report(setup(1)).is("power.meters.guess", "broken", &["permission denied", "GROUP=\"i2c\""]);
}

#[test]
fn the_way_to_a_broker_and_the_runtime_are_tried() {
    let machine = Machine::new(&[]);
    let broker = Mosquitto::running();
    let setup = Setup::demo(broker.port);
    let config = setup.config();
    let report = machine.report(&["-c", config.to_str().unwrap(), "broker", "runtime", "meters"]);
    report.is(
        &format!("MQTT broker 127.0.0.1:{}", broker.port),
        "ok",
        &["it accepts messages", "the message came back"],
    );
    machine.write("password", "s3cret");
    machine.deny("password");
    let login = format!("user = \"porch\"\npassword_file = \"{}\"", machine.path("password").display());
    let setup = Setup::demo(broker.port).with_keys("[mqtt]", &login);
    machine.report(&["-c", setup.config().to_str().unwrap(), "broker"]).is(
        &format!("MQTT broker 127.0.0.1:{}", broker.port),
        "broken",
        &["Permission denied", "sudo edgewatt doctor broker"],
    );
    report.is("TensorFlow Lite", "ok", &["2.17.1", "libtensorflowlite_c.so"]);
    report.is("power.meters.guess", "ok", &["estimate works"]);
}

#[test]
fn a_card_is_named_since_writing_wears_it() {
    let machine = Machine::new(&[("sys/devices/mmc0/block/mmcblk0/device/type", "SD\n")]);
    let setup = Setup::demo(1).with("store = { enabled = false }", "store = { path = \"outbox.db\", mib = 1 }");
    machine.write("sys/devices/mmc0/block/mmcblk0/mmcblk0p2/partition", "2\n");
    let device = fs::metadata(setup.dir.path()).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    fs::create_dir_all(machine.path("sys/dev/block")).unwrap();
    symlink("../../devices/mmc0/block/mmcblk0/mmcblk0p2", machine.path(&format!("sys/dev/block/{major}:{minor}")))
        .unwrap();
    let config = setup.config();
    let report = machine.report(&["-c", config.to_str().unwrap(), "state"]);
    report.is("room for mqtt.store", "ok", &["MiB free at ", "mmcblk0 is a card (SD)"]);
}

#[test]
fn systemd_is_asked_where_there_is_one() {
    let machine = Machine::new(&[]);
    let says = |lines: &str| machine.command("systemctl", &format!("printf '{lines}'"));
    says(
        "LoadState=loaded\\nUnitFileState=enabled\\nActiveState=active\\nSubState=running\\nResult=success\\nNRestarts=0\\n",
    );
    machine.report(&["service"]).is("edgewatt.service", "ok", &["enabled, active (running), 0 restarts"]);
    says(
        "LoadState=loaded\\nUnitFileState=enabled\\nActiveState=failed\\nSubState=failed\\nResult=exit-code\\nNRestarts=5\\n",
    );
    let failed = ["failed: exit-code", "journalctl -u edgewatt"];
    machine.report(&["service"]).is("edgewatt.service", "broken", &failed);
    says("LoadState=not-found\\nActiveState=inactive\\n");
    machine.report(&["service"]).is("edgewatt.service", "absent", &["apt-get install ./edgewatt_"]);
    fs::remove_file(machine.path("bin/systemctl")).unwrap();
    let ended = Daemon::start(machine.doctor(&["service"])).wait().expect(0);
    assert!(ended.stdout.contains("absent  edgewatt.service: no systemd here"), "{}", ended.stdout);
}

#[test]
fn the_text_has_what_the_json_has() {
    let machine = equipped();
    machine.deny("dev/ttyUSB0");
    let parts = ["delegates", "meters", "sensors"];
    let report = machine.report(&parts);
    let mut command = without_root_s_rights(machine.doctor(&parts));
    command.env("PATH", format!("{}:/usr/bin:/bin", machine.path("bin").display()));
    let text = Daemon::start(command).wait().expect(1).stdout;
    for finding in report.0["findings"].as_array().unwrap() {
        let state = finding["state"].as_str().unwrap().replace("broken", "BROKEN");
        let says = finding["says"].as_str().unwrap();
        let line = format!("  {state:<7} {}: {says}\n", finding["what"].as_str().unwrap());
        assert!(text.contains(&line), "no {line} in {text}");
        for (word, key) in [("fix", "fix"), ("use", "config")] {
            let line = finding[key].as_str().map(|value| format!("{word}: {value}\n"));
            assert!(line.is_none_or(|line| text.contains(&line)), "{finding} is not whole in {text}");
        }
    }
}

/// The fields of the JSON are those of the table in docs/doctor.md.
#[test]
fn the_json_is_as_documented() {
    let report = Machine::new(&[]).report(&["sensors", "service"]).0;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let mut fields = keys(&report);
    for finding in report["findings"].as_array().unwrap() {
        fields.extend(keys(finding).iter().map(|key| format!("findings[].{key}")));
    }
    let page = fs::read_to_string(root().join("docs/doctor.md")).unwrap();
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(field, _)| field.to_owned()));
    assert_eq!(rows.collect::<BTreeSet<_>>(), fields);
}
