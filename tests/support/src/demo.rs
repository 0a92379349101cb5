//! The demo's pipeline without its threads: the caller feeds samples and drains decisions, all on one thread.

use std::sync::Arc;

use edgewatt::config::{Config, Document, Problem};
use edgewatt::engine::Engine;
use edgewatt::engine::span::{SpanReceiver, span_ring};
use edgewatt::infer::mailbox::InferEvent;
use edgewatt::infer::stage_times::PipelineStats;
use edgewatt::infer::{Decision, Infer, InferChannels};
use edgewatt::load::{self, Prepared, PreparedPipeline};
use edgewatt::ring::{BlockRx, block_ring};
use edgewatt::source::sink::frame_ring;
use edgewatt::source::{FrameReader, FrameSink, Record, RecordParser};
use edgewatt::stop::Stop;
use edgewatt::units::MonoTime;

use crate::{program, root, runtime_library};

/// `config/demo.toml` as it is, but for the replacements and the runtime, which is the fetched one.
pub fn config(replacements: &[(&str, &str)]) -> Config {
    let path = root().join("config/demo.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (old, new) in replacements {
        assert!(text.contains(old), "config/demo.toml no longer has {old}");
        text = text.replace(old, new);
    }
    let mut config = Document::new(path, text).parse(Some("test")).unwrap_or_else(|e| panic!("{e}"));
    config.runtime_library.get_or_insert_with(runtime_library);
    config
}

/// The samples of the recording, as the demo's source reads them.
pub fn recording(config: &Config, labels: &[String]) -> Vec<(Record, Vec<f32>)> {
    let text = std::fs::read(root().join("models/shoulder_recording.csv")).unwrap();
    let mut parser = RecordParser::new(config.pipelines[0].source.kind().records().unwrap().clone(), labels.to_vec());
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    parser.header(lines.next().unwrap()).unwrap();
    lines
        .map(|line| {
            let record = parser.parse(line).unwrap();
            (record, parser.values().to_vec())
        })
        .collect()
}

/// A configuration with all that it names, or what is wrong with it.
pub fn try_to_prepare(config: &Config) -> Result<Prepared, Vec<Problem>> {
    let context =
        load::engine_context(config.runtime_library.as_deref(), &program()).map_err(|problem| vec![problem])?;
    load::prepare(config, &context, &[])
}

/// The first pipeline of a configuration, loaded.
pub fn prepare(config: &Config) -> PreparedPipeline {
    try_to_prepare(config).unwrap_or_else(|problems| panic!("{problems:?}")).pipelines.remove(0)
}

/// A pipeline whose threads are the caller's.
pub struct Rig {
    pub feed: FrameSink,
    pub infer: Infer,
    pub decisions: BlockRx<Decision, f32>,
    /// When the models ran.
    pub spans: SpanReceiver,
    pub stats: Arc<PipelineStats>,
    pub labels: Vec<String>,
}

pub fn pipeline(config: &Config) -> Rig {
    let pipeline = &config.pipelines[0];
    let mut prepared = prepare(config);
    let built = prepared.built.take().unwrap();
    let (feed, samples) = frame_ring(&prepared.sink, &pipeline.name, Arc::new(Stop::new().unwrap()), Arc::default());
    rig(feed, samples, prepared, built.engine)
}

/// A loaded pipeline on the two ends of a ring.
pub fn rig(feed: FrameSink, samples: FrameReader, prepared: PreparedPipeline, engine: Box<dyn Engine>) -> Rig {
    let (decisions_tx, decisions) = block_ring(1024, 1024 * prepared.stages.decider.most_values());
    let (span_sender, spans) = span_ring(1024);
    let stats = Arc::<PipelineStats>::default();
    let channels = InferChannels {
        samples,
        decisions: decisions_tx,
        publisher: Arc::default(),
        spans: Some(span_sender),
        stats: stats.clone(),
        stage_times: Arc::default(),
        stop: Arc::new(Stop::new().unwrap()),
        hold: false,
        mailbox: Arc::default(),
        send_event: Box::new(|event| {
            if let InferEvent::EngineFailed { error, .. } = event {
                panic!("{error}");
            }
        }),
    };
    let infer = Infer::new(channels, prepared.stages, engine, 0);
    Rig { feed, infer, decisions, spans, stats, labels: prepared.labels }
}

impl Rig {
    /// Feeds samples as if they arrived now.
    pub fn feed(&mut self, samples: &[(Record, Vec<f32>)]) {
        for (record, values) in samples {
            let _ = self.feed.take(*record, values, MonoTime::now());
        }
    }
}
