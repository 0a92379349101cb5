# GNU make. `make` alone lists the targets.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
PYTHON := $(or $(PYTHON),python3)
# The parts of test-vm, which run in one guest.
VM_PARTS := $(or $(VM_PARTS),$(notdir $(wildcard tests/vm/sensors/*)))

# $(call need,COMMAND,WHERE FROM): prints one clear line instead of an error of the shell or the linker.
need = @command -v $(1) >/dev/null || { echo "$(1) is missing: $(2)" >&2; exit 1; }

.PHONY: help bench-peers demo test test-tflitec test-vm test-vm-service test-vm-arm64 test-pages test-clients test-rabbitmq deb energy-simulation energy-blackbox bench-truth test-bench-page \
	outage kills flaps wear runtime man fmt lint doc msrv check-armv7 deny bench instructions compare throughput peers compare-audio fleet footprint live scaling bare-loop \
	first-minute train optimise test-optimise optimise-table clean tools

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' Makefile | expand -t 18

tools:
	$(call need,cargo,install rustup; it then installs the Rust of rust-toolchain.toml)
	$(call need,cc,install gcc and libc6-dev)
	$(call need,python3,install python3 and python3-pip)

runtime: ## Fetch TensorFlow Lite and LiteRT for this machine into runtime/
	@scripts/fetch-runtime

# The program replaces make's shell (exec), so that it alone answers Ctrl-C.
demo: tools runtime ## Build quickly, and show the recorded demo; q stops it. MQTT=1: through mosquitto
	cargo build --profile demo --locked --bin edgewatt
	@exec $(if $(MQTT),tools/demo-mqtt "$(TARGET_DIR)/demo/edgewatt",\
		"$(TARGET_DIR)/demo/edgewatt" run --config config/demo.toml --watch)

test: tools runtime ## Run all tests; installs mosquitto, ffmpeg and other programs with apt-get if it may
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients systemd-analyze:systemd \
		prometheus-mqtt-exporter:prometheus-mqtt-exporter openssl:openssl \
		ffmpeg:ffmpeg sox:sox espeak-ng:espeak-ng mbpoll:mbpoll arecord:alsa-utils
	@$(PYTHON) -m venv "$(TARGET_DIR)/venv" && \
		"$(TARGET_DIR)/venv/bin/pip" install --quiet --require-hashes -r examples/subscriber/requirements.txt || \
		echo "no venv with paho-mqtt: the Python subscriber of examples/ is not tested" >&2
	@"$(TARGET_DIR)/venv/bin/pip" install --quiet --require-hashes --only-binary :all: -r tests/docs/requirements.txt || \
		echo "no venv with taplo and Jinja: the JSON Schema and the templates for Home Assistant are not tested" >&2
	cargo build --locked --example test_delegate --example prisoner --example simulated_machine
	PATH="$$PATH:/usr/sbin" cargo test --locked --no-fail-fast --all-targets
	cargo test --locked --doc

test-tflitec: tools ## Test the features tflitec and embedded-broker; installs libclang with apt-get if it may
	@scripts/need mosquitto_sub:mosquitto-clients
	@scripts/test-tflitec

test-vm: tools runtime ## Test meters and sources with the kernel's drivers, in a Debian under QEMU, which it installs if it may. VM_PARTS="serial iio": only these
	@scripts/need qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs
	cargo build --locked --bin edgewatt --example uhid_accel --example prisoner
	rm -rf "$(TARGET_DIR)/vm" && mkdir -p "$(TARGET_DIR)/vm/sensors"
	cp $(VM_PARTS:%=tests/vm/sensors/%) "$(TARGET_DIR)/vm/sensors"
	tests/vm/run -t 3000 tests/vm/parts "$(TARGET_DIR)/vm/sensors" tests/vm/checks.sh "$(TARGET_DIR)/debug/edgewatt" \
		"$(TARGET_DIR)/debug/examples/uhid_accel" runtime/x86_64/libtensorflowlite_c.so tests/models/open_input.tflite \
		"$(TARGET_DIR)/debug/examples/libprisoner.so" docs/delegates.md examples/sources/i2c-mpu6050.toml config models systemd

test-vm-service: tools runtime ## Test the package, its upgrades and its service in the same Debian; needs cargo-deb
	@scripts/need qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs lintian:lintian
	cargo build --locked --example test_delegate
	deb=$$(scripts/make-deb amd64 dev) && tests/package "$$deb" && \
		tests/vm/conffile-package/make "$$deb" "$(TARGET_DIR)/conffile.deb" && \
		tests/vm/run -t 1800 tests/vm/service tests/vm/checks.sh tests/vm/upgrade "$$deb" "$(TARGET_DIR)/conffile.deb" \
			"$(TARGET_DIR)/debug/examples/libtest_delegate.so"

test-vm-arm64: tools runtime ## Run the package's demo on 64-bit Arm under QEMU, and compare its predictions with this machine's
	@scripts/need qemu-system-aarch64:qemu-system-arm mmdebstrap:mmdebstrap cpio:cpio jq:jq mosquitto:mosquitto \
		mosquitto_sub:mosquitto-clients
	arm64=$$(scripts/make-deb arm64) && amd64=$$(scripts/make-deb amd64 dev) && tests/vm/arm64 "$$arm64" "$$amd64"

test-pages: tools runtime ## Follow docs/your-sensor.md and docs/your-model.md to the letter in a bare Debian, as root; needs cargo-deb
	@scripts/need mmdebstrap:mmdebstrap unshare:util-linux ip:iproute2
	@cargo deb --version >/dev/null 2>&1 || { echo "cargo-deb is missing: scripts/make-deb says which" >&2; exit 1; }
	deb=$$(scripts/make-deb amd64 dev) && tests/vm/pages "$$deb"

test-clients: tools runtime ## Show the daemon to a real Home Assistant and a real Node-RED: as root, 1.5 GB, some minutes at first
	@scripts/need mosquitto:mosquitto mosquitto_pub:mosquitto-clients mmdebstrap:mmdebstrap unshare:util-linux npm:npm
	cargo build --locked
	tests/vm/home-assistant "$(TARGET_DIR)/debug/edgewatt"
	tests/vm/node-red "$(TARGET_DIR)/debug/edgewatt"

deb: tools ## Build a Debian package for ARCH (amd64 or arm64; default: this machine's), PROFILE=release; needs cargo-deb
	@scripts/make-deb "$(ARCH)" "$(PROFILE)"

energy-simulation: tools ## Check in 4,000 scenarios of each class that the truth is within the published uncertainty
	cargo test --release --locked --test energy simulation:: -- --ignored --nocapture

energy-blackbox: tools runtime ## Compare the figures of the real binary with the truth on simulated machines. EDGEWATT_CLASS="INA219", EDGEWATT_RUNS=3: only these, three runs of each
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --locked --bin edgewatt --example test_delegate --example simulated_machine
	PATH="$$PATH:/usr/sbin" cargo test --locked --test energy blackbox:: -- --ignored --nocapture --test-threads=1

outage: tools ## Simulate a day without a broker at ten predictions a second, with a real file
	cargo test --release --locked --lib a_day_without_a_broker -- --ignored --nocapture

kills: tools runtime ## Kill the daemon at 300 random moments (KILLS=1000 for more), and count lost and repeated messages
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	PATH="$$PATH:/usr/sbin" EDGEWATT_KILLS=$(or $(KILLS),300) cargo test --locked --test delivery store::killed -- --nocapture

flaps: tools ## Publish 800 messages a second for 20 minutes (MINUTES=60) to a broker that goes every 5 s
	EDGEWATT_FLAPS_MINUTES=$(or $(MINUTES),20) cargo test --locked --test delivery a_link_that_flaps -- --nocapture

wear: tools runtime ## Measure what the store writes to the disk for each prediction, in EDGEWATT_WEAR_DIR (/var/tmp)
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	PATH="$$PATH:/usr/sbin" cargo test --locked --test delivery store::wear -- --ignored --nocapture

test-rabbitmq: tools runtime ## Deliver to a real RabbitMQ, in a network of its own: as root; installs it with apt-get
	@scripts/need rabbitmqctl:rabbitmq-server mosquitto_sub:mosquitto-clients unshare:util-linux ip:iproute2
	cargo test --locked --test delivery --no-run
	unshare --net --pid --fork --kill-child --mount-proc sh -c 'ip link set lo up && \
		cargo test --locked --offline --test delivery rabbitmq:: -- --ignored --test-threads=1'

man: tools ## Write man pages and completions into target/manual
	cargo run --locked --bin edgewatt -- manual "$(TARGET_DIR)/manual"

# Lists every file, because cargo fmt does not see modules that a macro declares.
RUST_FILES = $(shell git ls-files '*.rs')

fmt: tools ## Format every Rust file
	@rustfmt $(RUST_FILES)

lint: tools ## Check format and clippy; warnings are errors
	@rustfmt --check $(RUST_FILES)
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc: tools ## Build the library's documentation into target/doc; warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

msrv: tools ## Check that the oldest Rust named in Cargo.toml compiles every target
	@scripts/check-msrv

check-armv7: tools ## Check that the code compiles for 32-bit Arm; installs the cross compiler with apt-get if it may
	@scripts/check-armv7

deny: tools ## Check licences, bans and sources of the dependencies
	@cargo deny --version >/dev/null 2>&1 || \
		{ echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

bench-truth: tools ## Check on a simulated machine, 1,000 benches each, that the intervals of edgewatt bench hold the truth
	EDGEWATT_BENCHES=1000 cargo test --release --locked --test bench truth:: -- --nocapture

test-bench-page: tools runtime ## Open the page of edgewatt bench in headless Chromium, at the width of a phone and of a desktop; installs chromium if it may
	@scripts/need chromium:chromium
	cargo build --locked --bin edgewatt
	tests/bench/page "$(TARGET_DIR)/debug/edgewatt" "$(TARGET_DIR)/bench-page"

bench: tools runtime ## Run the Criterion benchmarks
	cargo bench --locked --bench '*'

instructions: tools runtime ## Check that no stage takes 5 % more instructions than benches/instructions.json says. EDGEWATT_BLESS=1: write it
	@scripts/need valgrind:valgrind
	cargo build --locked --bin edgewatt
	cargo build --release --locked --example instructions
	$(PYTHON) benches/system/instructions --edgewatt "$(TARGET_DIR)/debug/edgewatt" \
		"$(TARGET_DIR)/release/examples/instructions"

# What the comparisons of make compare, throughput and peers need.
bench-peers: tools runtime
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --release --locked --bin edgewatt --example fleet
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --require-hashes -r benches/system/requirements.txt

with_peers = .venv-bench/bin/python benches/system/$(1) --edgewatt "$(TARGET_DIR)/release/edgewatt"

compare: bench-peers ## Compare edgewatt with the same pipeline in Python (in .venv-bench): CPU, memory, latency
	$(call with_peers,compare)

throughput: bench-peers ## Compare QoS 1 messages a second and CPU with mosquitto_pub and paho (in .venv-bench)
	$(call with_peers,throughput) --fleet "$(TARGET_DIR)/release/examples/fleet"

peers: bench-peers ## Run compare and throughput in turn, in one run, and print the ratios
	$(call with_peers,peers) --fleet "$(TARGET_DIR)/release/examples/fleet"

compare-audio: tools runtime ## Compare the wake word with pymicro-wakeword (in .venv-audio): CPU, memory. ARGS="--live-seconds 20"
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --release --locked --bin edgewatt
	$(PYTHON) -m venv .venv-audio
	.venv-audio/bin/pip install --quiet --require-hashes -r tests/golden/audio/requirements.txt
	.venv-audio/bin/python benches/system/compare-audio --edgewatt "$(TARGET_DIR)/release/edgewatt" $(ARGS)

fleet: tools ## Simulate a thousand nodes on one mosquitto, to find the first limit
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --release --locked --example fleet
	benches/system/fleet "$(TARGET_DIR)/release/examples/fleet"

footprint: tools runtime ## Measure the daemon's start, memory, and processor time at work and idle
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --release --locked
	EDGEWATT_RUNTIME=runtime/$$(uname -m)/libtensorflowlite_c.so \
		$(PYTHON) benches/system/footprint --edgewatt "$(TARGET_DIR)/release/edgewatt"

live: tools runtime ## Measure the processor time of live streams: 1 kHz of lines, and sound
	cargo build --release --locked --bin edgewatt
	EDGEWATT_RUNTIME=runtime/$$(uname -m)/libtensorflowlite_c.so \
		$(PYTHON) benches/system/live --edgewatt "$(TARGET_DIR)/release/edgewatt"

scaling: tools runtime ## Measure CPU and latency of a window, from 1 to 64 pipelines and from 1 to 20,000 windows a second
	@scripts/need mosquitto:mosquitto mosquitto_sub:mosquitto-clients
	cargo build --release --locked --bin edgewatt
	$(PYTHON) benches/system/scaling --edgewatt "$(TARGET_DIR)/release/edgewatt"

bare-loop: tools runtime ## Compare the pipeline at full speed with a loop that only invokes. MODEL=FILE, ARGS="--samples 49 --least 0.95"
	cargo build --release --locked --bin edgewatt --example bare_loop
	$(PYTHON) benches/system/bare-loop --edgewatt "$(TARGET_DIR)/release/edgewatt" \
		--loop "$(TARGET_DIR)/release/examples/bare_loop" --model "$(or $(MODEL),models/shoulder_int8.tflite)" $(ARGS)

first-minute: tools ## Measure what `make demo` costs in a bare Debian 12 with empty caches; needs root
	@scripts/need mmdebstrap:mmdebstrap git:git
	benches/system/first_minute

# .venv has TensorFlow and what else the scripts below models/ need.
.venv/requirements.txt: models/requirements.txt
	$(call need,$(PYTHON),install python3.11 and python3.11-venv)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --require-hashes -r models/requirements.txt
	@cp models/requirements.txt $@

train: tools runtime .venv/requirements.txt ## Train the models again (in .venv; not needed to run anything)
	@scripts/need mosquitto:mosquitto
	cargo build --release --locked --bin edgewatt
	.venv/bin/python models/train.py
	.venv/bin/python models/machine/train.py --edgewatt "$(TARGET_DIR)/release/edgewatt"

optimise: .venv/requirements.txt ## Make variants of the demo's model: quantised, pruned and others, into target/optimise (in .venv)
	.venv/bin/python models/optimise/demo_data.py "$(TARGET_DIR)/optimise"
	.venv/bin/python models/optimise/optimise.py models/shoulder_fp32.tflite --name shoulder --clip 6 \
		--data "$(TARGET_DIR)/optimise/learning.npz" --test "$(TARGET_DIR)/optimise/recording.npz" --out "$(TARGET_DIR)/optimise"
	.venv/bin/python models/optimise/sparse_example.py "$(TARGET_DIR)/optimise/sparse"

optimise-table: tools runtime ## Measure the variants that make optimise wrote, and put the table into docs/optimise.md
	cargo build --release --locked --bin edgewatt
	EDGEWATT_RUNTIME=runtime/$$(uname -m)/libtensorflowlite_c.so "$(TARGET_DIR)/release/edgewatt" bench \
		$(foreach variant,fp32 fp16 dynamic int8 int16x8 pruned pruned_int8 sparse clustered qat_int8,"$(TARGET_DIR)/optimise/shoulder_$(variant).tflite") \
		--windows "$(TARGET_DIR)/optimise/windows.csv" -b 1,8 --json > "$(TARGET_DIR)/optimise/bench.json"
	$(PYTHON) models/optimise/table.py "$(TARGET_DIR)/optimise/bench.json" docs/optimise.md

test-optimise: .venv/requirements.txt ## Test models/optimise: every variant of tiny models (in .venv)
	.venv/bin/python -m unittest discover -s models/optimise

clean: ## Remove what was built; runtime/, .venv and .venv-bench stay
	cargo clean
