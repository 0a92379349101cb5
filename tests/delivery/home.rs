//! TLS as people make it at home, with OpenSSL; files of the wrong kind; and ports on which something else listens.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use edgewatt::mqtt::check_files;
use edgewatt::mqtt::codec::Version;
use edgewatt::mqtt::connection::{ConnectOptions, Connection};
use edgewatt::mqtt::transport::{Endpoint, Tls};
use edgewatt_support::daemon::{Daemon, Setup};
use edgewatt_support::link::publish;
use edgewatt_support::mosquitto::{Mosquitto, free_port};
use edgewatt_support::root;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::security::{over_tls, private, reach, refusal, run};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn shell(dir: &Path, command: &str) {
    let ended = Command::new("sh").arg("-c").arg(command).current_dir(dir).output().unwrap();
    assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A broker whose certificate and key are `server.crt` and `server.key` of a folder.
fn broker(dir: &Path) -> (Mosquitto, u16) {
    let port = free_port();
    let config = format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncertfile {0}/server.crt\nkeyfile {0}/server.key\n",
        dir.display()
    );
    (Mosquitto::configured(|_| config), port)
}

fn trusting(port: u16, ca: PathBuf) -> ConnectOptions {
    over_tls(port, Tls { ca_file: Some(ca), ..Tls::default() })
}

fn assert_works(options: &ConnectOptions) {
    run(async {
        let opened = Connection::open(options, None, Instant::now() + PATIENCE, |_, _, _| {}).await;
        let mut connection = opened.unwrap_or_else(|lost| panic!("{lost}"));
        assert_eq!(publish(&mut connection, "t/a").await, None);
    });
}

/// The indented lines after a heading of a document.
fn commands(document: &str, heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let (_, section) = text.split_once(heading).unwrap();
    let lines = section.lines().skip_while(|line| !line.starts_with("    "));
    lines.map_while(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

#[test]
fn the_three_commands_of_the_docs_make_a_broker_that_works() {
    let dir = TempDir::new().unwrap();
    let commands = commands("docs/service.md", "## A certificate of your own");
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        shell(dir.path(), &command.replace("raspberrypi.local", "localhost").replace("192.168.1.5", "127.0.0.1"));
    }
    let (_broker, port) = broker(dir.path());
    let mut options = trusting(port, dir.path().join("ca.crt"));
    for host in ["localhost", "127.0.0.1"] {
        options.endpoint.host = host.into();
        assert_works(&options);
    }
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_is_the_ca_file() {
    let self_signed = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout server.key -out server.crt";
    for options in [
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost",
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE",
        // mosquitto_pub takes the common name, too.
        "-subj /CN=localhost",
    ] {
        let dir = TempDir::new().unwrap();
        shell(dir.path(), &format!("{self_signed} {options}"));
        let (_broker, port) = broker(dir.path());
        assert_works(&trusting(port, dir.path().join("server.crt")));
        // With a byte order mark, as editors add it.
        let text = std::fs::read(dir.path().join("server.crt")).unwrap();
        std::fs::write(dir.path().join("marked.crt"), [b"\xEF\xBB\xBF", &text[..]].concat()).unwrap();
        assert_works(&trusting(port, dir.path().join("marked.crt")));
    }
    let dir = TempDir::new().unwrap();
    shell(dir.path(), &format!("{self_signed} -subj /CN=box -addext subjectAltName=DNS:box.example,IP:192.0.2.7"));
    let (_broker, port) = broker(dir.path());
    let wrong_name = refusal(&trusting(port, dir.path().join("server.crt")));
    assert!(wrong_name.contains("it is for DNS:box.example, IP:192.0.2.7, not for localhost"), "{wrong_name}");
    shell(dir.path(), &format!("{self_signed} -subj /CN=localhost").replace("server.", "other."));
    let other = refusal(&trusting(port, dir.path().join("other.crt")));
    assert!(other.contains("\"box\", is self-signed, and is not one of those in"), "{other}");
}

#[test]
fn a_trusted_certificate_must_have_a_name_and_be_valid() {
    let dir = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.path().join("server.key"), key.serialize_pem()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2021, 1, 1);
    std::fs::write(dir.path().join("server.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let (_expired, port) = broker(dir.path());
    let expired = refusal(&trusting(port, dir.path().join("server.crt")));
    assert!(expired.contains("its certificate has expired, on 2021-01-01; renew it"), "{expired}");

    shell(dir.path(), "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=box -keyout server.key -out server.crt");
    let (_nameless, port) = broker(dir.path());
    let nameless = refusal(&trusting(port, dir.path().join("server.crt")));
    assert!(nameless.contains("no subjectAltName, and its common name is \"box\", not localhost"), "{nameless}");
    assert!(nameless.contains("-addext subjectAltName=DNS:localhost"), "{nameless}");
}

/// Makes `server.crt`, which `ca.crt` has signed, and asks the broker that shows it.
fn refused_of(authority: &str) -> String {
    let dir = TempDir::new().unwrap();
    shell(dir.path(), &format!("openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt {authority}"));
    sign(dir.path());
    let (_broker, port) = broker(dir.path());
    refusal(&trusting(port, dir.path().join("ca.crt")))
}

fn sign(dir: &Path) {
    shell(dir, "openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    shell(dir, "printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > names");
    let signed = "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names";
    shell(dir, &format!("{signed} -out server.crt"));
}

#[test]
fn a_certificate_that_is_no_authority_s_or_has_expired_vouches_for_nobody() {
    let leaf = refused_of("-subj /CN=box -days 30 -addext basicConstraints=critical,CA:FALSE");
    assert!(leaf.contains("\"box\"") && leaf.contains("not marked as an authority's (CA:TRUE)"), "{leaf}");

    let dir = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.path().join("ca.key"), key.serialize_pem()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "old box");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = date_time_ymd(2021, 1, 1);
    std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    sign(dir.path());
    let (_broker, port) = broker(dir.path());
    let expired = refusal(&trusting(port, dir.path().join("ca.crt")));
    assert!(expired.contains("\"old box\"") && expired.contains("has expired, on 2021-01-01"), "{expired}");
}

#[test]
fn a_certificate_of_version_1_is_refused_with_the_command_that_makes_a_better_one() {
    let dir = TempDir::new().unwrap();
    shell(dir.path(), "openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    shell(dir.path(), "openssl x509 -req -in server.csr -signkey server.key -days 30 -out server.crt");
    let text =
        Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(dir.path().join("server.crt")).output();
    let (_broker, port) = broker(dir.path());
    let options = trusting(port, dir.path().join("server.crt"));
    // Later versions of OpenSSL make one of version 3.
    if String::from_utf8_lossy(&text.unwrap().stdout).contains("Version: 1 ") {
        let first = refusal(&options);
        assert!(first.contains("X.509 version 1") && first.contains("openssl req -x509 -newkey"), "{first}");
    } else {
        assert_works(&options);
    }
}

#[test]
fn our_own_certificate_and_key_are_checked_before_they_are_shown() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let new = "openssl req -x509 -nodes -days 30 -subj /CN=node";
    shell(dir.path(), &format!("{new} -newkey rsa:2048 -keyout rsa.key -out rsa.crt"));
    shell(dir.path(), &format!("{new} -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout ec.key -out ec.crt"));
    shell(dir.path(), &format!("{new} -newkey ec -pkeyopt ec_paramgen_curve:P-521 -keyout odd.key -out odd.crt"));
    shell(dir.path(), &format!("{new} -newkey ed25519 -keyout ed.key -out ed.crt"));
    shell(dir.path(), "openssl rsa -in rsa.key -traditional -out pkcs1.key");
    // With the block EC PARAMETERS in front, as `openssl ecparam -genkey` writes it.
    shell(dir.path(), "(openssl ecparam -name prime256v1; openssl ec -in ec.key) > sec1.key");
    shell(dir.path(), "openssl pkey -in rsa.key -aes256 -passout pass:x -out secret.key");
    shell(dir.path(), "openssl x509 -in rsa.crt -outform der -out rsa.der; cat ec.crt rsa.crt > order.crt");
    shell(dir.path(), "chmod 600 *.key");
    let with = |certificate: &str, key: &str| {
        check_files(&Tls { ca_file: Some(at("rsa.crt")), client: Some((at(certificate), at(key))), alpn: Vec::new() })
    };
    for (certificate, key) in [
        ("rsa.crt", "rsa.key"),
        ("rsa.crt", "pkcs1.key"),
        ("ec.crt", "ec.key"),
        ("ec.crt", "sec1.key"),
        ("ed.crt", "ed.key"),
    ] {
        assert_eq!(with(certificate, key), Ok(()), "{certificate} {key}");
    }
    for (certificate, key, words) in [
        ("rsa.crt", "ec.key", "the key does not belong to this certificate"),
        ("order.crt", "rsa.key", "the key belongs to certificate 2 of the file"),
        ("odd.crt", "odd.key", "of a kind that edgewatt cannot use; it takes RSA"),
        ("rsa.crt", "secret.key", "the key is encrypted"),
        ("rsa.der", "rsa.key", "openssl x509 -inform der -in"),
        ("rsa.key", "rsa.key", "it holds PRIVATE KEY"),
    ] {
        let refused = with(certificate, key).unwrap_err();
        assert!(refused.contains(words), "{words} in {refused}");
    }
    private(&at("certificate.key"), &std::fs::read_to_string(at("rsa.crt")).unwrap());
    assert!(with("rsa.crt", "certificate.key").unwrap_err().contains("it holds CERTIFICATE"));
}

#[test]
fn check_reads_the_certificates_without_a_broker() {
    let setup = Setup::demo(1).with("mqtt://127.0.0.1:1", "mqtts://127.0.0.1:1");
    let setup = setup.with_keys("[mqtt]", "ca_file = \"ca.pem\"");
    setup.write("ca.pem", b"-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n");
    let checked = setup.check().expect(78);
    assert!(checked.stdout.contains("no certificate in PEM; it holds CERTIFICATE REQUEST"), "{}", checked.stdout);
}

/// A port that sends `banner` to each client, reads a little, answers and closes.
fn server(banner: &'static [u8], answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(banner);
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
        }
    });
    port
}

#[test]
fn ports_of_other_services_are_named() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (banner, answer, words) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], &b""[..], "this is an SSH server (\"SSH-2.0-OpenSSH_9.2p1\")"),
        (b"", http, "this port speaks HTTP: for MQTT over a WebSocket write ws://localhost:"),
        (b"220 mail.example ESMTP\r\n", b"", "it begins with \"220 mail.example ESMTP\""),
        (b"", b"AMQP\0\0\x09\x01", "this port speaks AMQP"),
    ] {
        let port = server(banner, answer);
        for options in [reach(port), over_tls(port, Tls { ca_file: None, ..Tls::default() })] {
            let refused = refusal(&options);
            // Without authorities in the system there is no handshake at all.
            assert!(refused.contains(words) || refused.contains("ca-certificates"), "{words} in {refused}");
        }
    }
    let closing = refusal(&reach(server(b"", b"")));
    assert!(closing.contains("it closed the connection at the login: is this a TLS port?"), "{closing}");
    let path =
        Endpoint { websocket: Some("/mqtt".into()), ..reach(server(b"", b"HTTP/1.1 404 Not Found\r\n\r\n")).endpoint };
    let nowhere = refusal(&ConnectOptions { endpoint: path, ..reach(1) });
    assert!(nowhere.contains("there is no WebSocket at this path; most brokers have it at /mqtt"), "{nowhere}");
    let ssh = Endpoint { websocket: Some("/mqtt".into()), ..reach(server(b"SSH-2.0-x\r\n", b"")).endpoint };
    let ssh = refusal(&ConnectOptions { endpoint: ssh, ..reach(1) });
    assert!(ssh.contains("it answers the request for a WebSocket with what is not HTTP"), "{ssh}");
}

/// A broker of one version of MQTT, which closes the connection to clients of the other one without a word.
fn of_one_version(level: u8, welcome: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut login = [0; 1024];
            let count = stream.read(&mut login).unwrap_or(0);
            if login[..count].windows(5).any(|bytes| bytes == [b'M', b'Q', b'T', b'T', level]) {
                let _ = stream.write_all(welcome);
            }
        }
    });
    port
}

#[test]
fn a_broker_that_drops_the_other_version_is_found_out() {
    let old = of_one_version(4, &[0x20, 2, 0, 0]);
    let refused = refusal(&reach(old));
    assert!(refused.contains("it speaks MQTT 3.1.1, not 5: set mqtt.version = \"3.1.1\""), "{refused}");
    let new = of_one_version(5, &[0x20, 3, 0, 0, 0]);
    let refused = refusal(&ConnectOptions { version: Version::Three, ..reach(new) });
    assert!(refused.contains("set mqtt.version = \"5\""), "{refused}");
}

#[test]
fn the_daemon_s_log_says_what_listens_there() {
    let port = server(b"", b"\x15\x03\x01\0\x02\x02\x46");
    let setup = Setup::demo(port);
    let mut daemon: Daemon = setup.start(&[]);
    let wanted = format!("this is a TLS port: write mqtts://127.0.0.1:{port} in mqtt.broker");
    daemon.in_log(&wanted, |log| log.contains(&wanted).then_some(()));
}
