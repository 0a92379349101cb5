//! TLS, logins, permissions and WebSockets against a real mosquitto: what works, and what a person reads where it does not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewatt::mqtt::codec::{Session, Version};
use edgewatt::mqtt::connection::{ConnectOptions, Connection};
use edgewatt::mqtt::transport::{Endpoint, Step, Tls};
use edgewatt::publish::message::Qos;
use edgewatt_support::daemon::{Daemon, Ended, Setup};
use edgewatt_support::link::publish;
use edgewatt_support::mosquitto::{Mosquitto, free_port};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(10);
const BOTH: [Version; 2] = [Version::Three, Version::Five];

/// A certificate authority and a folder for what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir: TempDir::new().unwrap() };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The files of a certificate for `names` and its key.
    pub(crate) fn sign(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths = ["pem", "key"].map(|end| self.dir.path().join(format!("{file}.{end}")));
        std::fs::write(&paths[0], certificate.pem()).unwrap();
        private(&paths[1], &key.serialize_pem());
        let [certificate, key] = paths;
        (certificate, key)
    }
}

pub(crate) fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn tls_listener(
    port: u16,
    authority: &Authority,
    (certificate, key): &(PathBuf, PathBuf),
    more: &str,
) -> String {
    format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n{more}\n",
        authority.ca().display(),
        certificate.display(),
        key.display()
    )
}

pub(crate) fn reach(port: u16) -> ConnectOptions {
    ConnectOptions {
        endpoint: Endpoint { host: "localhost".into(), port, tls: None, websocket: None },
        version: Version::Five,
        login: None,
        client_id: "edgewatt-test".into(),
        keep_alive: Duration::from_secs(30),
        connect_timeout: PATIENCE,
        max_qos: Qos::AtLeastOnce,
        retain: true,
        session: Session::default(),
    }
}

pub(crate) fn over_tls(port: u16, tls: Tls) -> ConnectOptions {
    let mut reach = reach(port);
    reach.endpoint.tls = Some(tls);
    reach
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn open(reach: &ConnectOptions) -> Result<(Connection, Vec<Step>), String> {
    let mut steps = Vec::new();
    let opened = Connection::open(reach, None, Instant::now() + PATIENCE, |step, _, _| steps.push(step)).await;
    match opened {
        Ok(connection) => Ok((connection, steps)),
        Err(lost) => Err(lost.explained(reach).await.to_string()),
    }
}

pub(crate) fn refusal(reach: &ConnectOptions) -> String {
    run(async { open(reach).await.err() }).expect("it was taken")
}

#[test]
fn tls_is_verified_and_each_fault_has_its_own_words() {
    let (authority, stranger) = (Authority::new("our authority"), Authority::new("their authority"));
    let good = authority.sign("good", &["localhost", "127.0.0.1"], |_| {});
    let other = authority.sign("other", &["broker.example"], |_| {});
    let old = authority.sign("old", &["localhost"], |params| {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    });
    // Its common name is its only name.
    let nameless = authority.sign("localhost", &[], |_| {});
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let broker = Mosquitto::configured(|_| {
        ports
            .iter()
            .zip([&good, &other, &old, &nameless])
            .map(|(port, pair)| tls_listener(*port, &authority, pair, ""))
            .collect()
    });
    let trusting =
        |port, authority: &Authority| over_tls(port, Tls { ca_file: Some(authority.ca()), ..Tls::default() });
    for version in BOTH {
        let reach = ConnectOptions { version, ..trusting(ports[0], &authority) };
        run(async {
            let (mut connection, steps) = open(&reach).await.unwrap();
            assert_eq!(steps, [Step::Name, Step::Tcp, Step::Tls]);
            assert_eq!(publish(&mut connection, "t/a").await, None);
        });
    }
    let by_address = {
        let mut reach = trusting(ports[0], &authority);
        reach.endpoint.host = "127.0.0.1".into();
        reach
    };
    assert!(run(async { open(&by_address).await.is_ok() }), "a certificate may hold an address");

    assert!(run(async { open(&trusting(ports[3], &authority)).await.is_ok() }), "as OpenSSL has it");

    let foreign = refusal(&trusting(ports[0], &stranger));
    assert!(foreign.contains("TLS: ") && foreign.contains("set mqtt.ca_file to the certificate of that"), "{foreign}");
    assert!(foreign.contains("\"our authority\"") && foreign.contains("has \"their authority\""), "{foreign}");
    let again = refusal(&trusting(ports[0], &Authority::new("our authority")));
    assert!(again.contains("was the authority made again?"), "{again}");
    let by_the_system = refusal(&over_tls(ports[0], Tls::default()));
    assert!(by_the_system.contains("not trusted") || by_the_system.contains("ca-certificates"), "{by_the_system}");
    let elsewhere = refusal(&trusting(ports[1], &authority));
    assert!(elsewhere.contains("for another name than the one in mqtt.broker"), "{elsewhere}");
    assert!(elsewhere.contains("DNS:broker.example") && elsewhere.contains("not for localhost"), "{elsewhere}");
    let expired = refusal(&trusting(ports[2], &authority));
    assert!(expired.contains("has expired, on 2021-01-01"), "{expired}");
    let plain = refusal(&trusting(broker.port, &authority));
    assert!(plain.contains(&format!("write mqtt://localhost:{} in mqtt.broker", broker.port)), "{plain}");
    let nowhere = refusal(&over_tls(ports[0], Tls { ca_file: Some("/nowhere/ca.pem".into()), ..Tls::default() }));
    assert!(nowhere.contains("/nowhere/ca.pem"), "{nowhere}");
    let not_tls = refusal(&reach(ports[0]));
    assert!(not_tls.contains(&format!("this is a TLS port: write mqtts://localhost:{} in", ports[0])), "{not_tls}");
}

#[test]
fn a_broker_that_asks_for_our_certificate_gets_it_and_its_key_must_be_private() {
    let authority = Authority::new("our authority");
    let server = authority.sign("server", &["localhost"], |_| {});
    let ours = authority.sign("ours", &["edgewatt-test"], |_| {});
    let port = free_port();
    let _broker = Mosquitto::configured(|_| tls_listener(port, &authority, &server, "require_certificate true"));
    let with = |client| over_tls(port, Tls { ca_file: Some(authority.ca()), client, alpn: Vec::new() });
    run(async {
        let (mut connection, _) = open(&with(Some(ours.clone()))).await.unwrap();
        assert_eq!(publish(&mut connection, "t/a").await, None);
    });
    let without = refusal(&with(None));
    assert!(without.contains("it asks for a client certificate; set mqtt.cert_file and mqtt.key_file"), "{without}");
    let stranger = Authority::new("their authority");
    let strange = refusal(&with(Some(stranger.sign("theirs", &["edgewatt-test"], |_| {}))));
    assert!(strange.contains("does not trust the authority that signed mqtt.cert_file"), "{strange}");
    std::fs::set_permissions(&ours.1, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = refusal(&with(Some(ours)));
    assert!(exposed.contains("ours.key: all users may read it (mode 0644)"), "{exposed}");
}

/// A broker that knows the user `edge`, whose password is `s3cret`, and lets it do what `acl` says.
pub(crate) fn with_a_user(acl: &str) -> Mosquitto {
    Mosquitto::configured(|dir| {
        let (users, file) = (dir.join("users"), dir.join("acl"));
        // Of mosquitto_passwd's: it is asked, so that its format is its own business.
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&users)
            .args(["edge", "s3cret"])
            .status()
            .unwrap();
        assert!(made.success());
        std::fs::write(&file, format!("user edge\n{acl}\n")).unwrap();
        format!("allow_anonymous false\npassword_file {}\nacl_file {}\n", users.display(), file.display())
    })
}

#[test]
fn passwords_and_permissions_are_answered_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let password = folder.path().join("password");
    private(&password, "s3cret\n");
    let broker = with_a_user("topic write t/#");
    for version in BOTH {
        let with = |user: &str, file: &Path| ConnectOptions {
            version,
            login: Some((user.to_owned(), file.to_owned())),
            ..reach(broker.port)
        };
        run(async {
            let (mut connection, _) = open(&with("edge", &password)).await.unwrap();
            assert_eq!(publish(&mut connection, "t/a").await, None);
            // The older protocol has no word for a refusal.
            let denied = (version == Version::Five).then_some("not_authorized");
            assert_eq!(publish(&mut connection, "elsewhere").await.as_deref(), denied);
        });
        let wrong = folder.path().join("wrong");
        private(&wrong, "guess");
        for refused in [refusal(&with("edge", &wrong)), refusal(&ConnectOptions { version, ..reach(broker.port) })] {
            assert!(refused.contains("refused the login") && refused.contains("mqtt.password_file"), "{refused}");
            assert!(!refused.contains("guess"), "{refused}");
        }
    }
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o604)).unwrap();
    let exposed = refusal(&ConnectOptions { login: Some(("edge".into(), password)), ..reach(broker.port) });
    assert!(exposed.contains("chmod o= "), "{exposed}");
}

#[test]
fn mqtt_goes_through_a_web_socket_with_and_without_tls() {
    let authority = Authority::new("our authority");
    let server = authority.sign("server", &["localhost"], |_| {});
    let (plain, secure) = (free_port(), free_port());
    let broker = Mosquitto::configured(|_| {
        format!(
            "allow_anonymous true\nlistener {plain} 127.0.0.1\nprotocol websockets\n{}",
            tls_listener(secure, &authority, &server, "protocol websockets")
        )
    });
    let mut subscriber = broker.subscribe("t/#");
    for (port, tls) in [(plain, None), (secure, Some(Tls { ca_file: Some(authority.ca()), ..Tls::default() }))] {
        for version in BOTH {
            let mut reach = ConnectOptions { version, ..reach(port) };
            reach.endpoint = Endpoint { tls: tls.clone(), websocket: Some("/mqtt".into()), ..reach.endpoint };
            run(async {
                let (mut connection, steps) = open(&reach).await.unwrap();
                assert_eq!(steps.last(), Some(&Step::WebSocket));
                assert_eq!(publish(&mut connection, "t/socket").await, None);
            });
            subscriber.until(|line| line == "t/socket 1");
        }
    }
    let mut wrong = reach(broker.port);
    wrong.endpoint.websocket = Some("/mqtt".into());
    let no_socket = refusal(&wrong);
    assert!(no_socket.starts_with("WebSocket: ") && no_socket.contains("write mqtt://localhost:"), "{no_socket}");
    let no_mqtt = refusal(&reach(plain));
    assert!(no_mqtt.contains(&format!("write ws://localhost:{plain}/mqtt in mqtt.broker")), "{no_mqtt}");
}

#[test]
fn names_and_ports_that_lead_nowhere_are_named() {
    let nobody = refusal(&reach(free_port()));
    assert!(nobody.contains("refused") && nobody.contains("127.0.0.1:"), "{nobody}");
    let mut nameless = reach(1883);
    nameless.endpoint.host = "no-such-host.invalid".into();
    let nameless = refusal(&nameless);
    assert!(nameless.starts_with("name: no-such-host.invalid: "), "{nameless}");
}

#[test]
fn check_online_walks_to_the_broker_step_by_step() {
    let online = |broker: &str, keys: &str| -> Ended {
        let address = broker.strip_prefix("mqtt://127.0.0.1:").and_then(|port| port.parse().ok()).unwrap_or(1);
        let setup = Setup::demo(address).with_keys("[mqtt]", keys);
        setup.write("password", b"s3cret");
        std::fs::set_permissions(setup.dir.path().join("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Daemon::start(setup.command("check", &["--online"])).wait()
    };
    let at = |broker: &Mosquitto| format!("mqtt://127.0.0.1:{}", broker.port);
    let login = "user = \"edge\"\npassword_file = \"password\"\n";

    let open = with_a_user("topic readwrite edgewatt/#");
    let good = online(&at(&open), login).expect(0);
    for step in ["name", "TCP", "login", "as edge, client id edgewatt-demo-check", "acknowledged", "came back"] {
        assert!(good.stdout.contains(step), "{step} in {}", good.stdout);
    }
    let stranger = online(&at(&open), "").expect(1);
    assert!(stranger.stdout.contains("failed: it refused the login"), "{}", stranger.stdout);

    let narrow = with_a_user("topic readwrite elsewhere/#");
    let five = online(&at(&narrow), login).expect(1);
    assert!(five.stdout.contains("refuses edgewatt/demo/check (not_authorized)"), "{}", five.stdout);
    let three = online(&at(&narrow), &format!("{login}version = \"3.1.1\"")).expect(1);
    assert!(three.stdout.contains("set mqtt.version = \"5\""), "{}", three.stdout);

    let writer = with_a_user("topic write edgewatt/#");
    let deaf = online(&at(&writer), login).expect(0);
    assert!(deaf.stdout.contains("may write but not read"), "{}", deaf.stdout);

    let nobody = online(&format!("mqtt://127.0.0.1:{}", free_port()), "").expect(1);
    assert!(nobody.stdout.contains("failed: 127.0.0.1:") && nobody.stdout.contains("refused"), "{}", nobody.stdout);
}
