//! Exports in the forms that the studio has: the texts are ours, the form of their lines is the studio's.

use super::*;
use crate::model::ModelSummary;
use crate::propose::{Labels, Proposal, propose};

const METADATA: &str = r#"
/* A header
 * over several lines. */
#define EI_CLASSIFIER_PROJECT_NAME               "Pump (test)"
#define EI_CLASSIFIER_RAW_SAMPLE_COUNT           125
#define EI_CLASSIFIER_RAW_SAMPLES_PER_FRAME      3 // axes
#define EI_CLASSIFIER_DSP_INPUT_FRAME_SIZE       (EI_CLASSIFIER_RAW_SAMPLE_COUNT * EI_CLASSIFIER_RAW_SAMPLES_PER_FRAME)
#define EI_CLASSIFIER_FREQUENCY                  62.5
#define EI_CLASSIFIER_HAS_ANOMALY                0
#define EI_CLASSIFIER_SENSOR                     EI_CLASSIFIER_SENSOR_ACCELEROMETER
#define EI_CLASSIFIER_FUSION_AXES_STRING         "accX + accY + accZ"
#define EI_CLASSIFIER_SLICES_PER_MODEL_WINDOW    4
"#;

const VARIABLES: &str = r#"
const char* ei_classifier_inferencing_categories_7_1[] = { "idle", "a \"b\"", "wave // up" };

EI_CLASSIFIER_DSP_AXES_INDEX_TYPE ei_dsp_config_7_3_axes[] = { 0, 1, 2 };
const uint32_t ei_dsp_config_7_3_axes_size = 3;
ei_dsp_config_spectral_analysis_t ei_dsp_config_7_3 = {
    3, // uint32_t blockId
    4, // int implementationVersion
    3, // int length of axes
    NULL, // named axes
    0, // size of the named axes array
    1.0f, // float scale-axes
    1, // int input-decimation-ratio
    "low", // select filter-type
    8.0f, // float filter-cutoff
    6, // int filter-order
    "FFT", // select analysis-type
    32, // int fft-length
    3, // int spectral-peaks-count
    "0.1, 0.5, 1.0", // string spectral-power-edges
    true, // boolean do-log
    false, // boolean do-fft-overlap
    false // boolean extra-low-freq
};

EI_CLASSIFIER_DSP_AXES_INDEX_TYPE ei_dsp_config_7_4_axes[] = { 2 };
ei_dsp_config_flatten_t ei_dsp_config_7_4 = {
    4, /* uint32_t blockId */
    1, /* int implementationVersion */
    1, // int length of axes
    0.5f, // float scale-axes
    true, // boolean average
    false, // boolean minimum
    0 // int moving_avg_num_windows
};
const float ei_dn_standard_scaler_mean_7_4[2] = { 1.5, 2 };
const float ei_dn_standard_scaler_var_7_4[2] = { 4.0, 0 };

ei_model_dsp_t ei_dsp_blocks_7_1[ei_dsp_blocks_7_1_size] = {
    { // DSP block 3
        3,
        2, // output size
        &extract_spectral_analysis_features, // DSP function pointer
        (void*)&ei_dsp_config_7_3, // pointer to config struct
    },
    { // DSP block 4
        4,
        2, // output size
        &extract_flatten_features,
        (void*)&ei_dsp_config_7_4,
    }
};
"#;

fn project(texts: &[&str]) -> Project {
    header::project(texts).unwrap()
}

fn proposal(project: &Project, scores: i32) -> Result<Proposal, String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shoulder_fp32.tflite");
    let mut summary = ModelSummary::from_file(&path).unwrap();
    let output = &mut summary.main.outputs[0].tensor;
    (output.shape, output.shape_signature) = (vec![1, scores], vec![1, scores]);
    let labels = |_, scores| {
        let why = "the labels of the project".to_owned();
        (project.labels.len() == scores).then(|| Labels::File { path: "l.txt".into(), why })
    };
    let labels: &dyn Fn(usize, usize) -> Option<Labels> = &labels;
    propose(&Facts {
        summary: &summary,
        stem: "model",
        labels,
        wake_word: None,
        project: Some(project),
        channels: None,
        rate_hz: None,
        window: None,
    })
}

#[test]
fn the_headers_of_a_library_give_the_blocks_with_their_parameters() {
    let project = project(&[METADATA, VARIABLES]);
    assert_eq!(project.labels, ["idle", "a \"b\"", "wave // up"]);
    let rates = (project.rate_hz, project.samples, project.axes, project.slices);
    assert_eq!(rates, (Some(62.5), Some(125), Some(3), Some(4)));
    let unused =
        "2 parameters of the block spectral_analysis have no meaning here: spectral_peaks_count, spectral_power_edges";
    assert!(project.notes.iter().any(|note| note == unused), "{:?}", project.notes);
    let proposal = proposal(&project, 3).unwrap();
    assert_eq!(proposal.name, "Pump_test");
    assert_eq!((proposal.samples, proposal.hop), (125, 31));
    let channels = ["accX", "accY", "accZ"].map(str::to_owned).to_vec();
    assert_eq!(proposal.stream, Stream::Numbers { channels, rate_hz: Some(62.5) });
    // Keys with their defaults are left out.
    let blocks = "{ edge_impulse = { rate_hz = 62.5, blocks = [\n    \
                  { axes = [0, 1, 2], spectral_analysis = { version = 4, filter_type = \"low\", filter_cutoff = 8.0, fft_length = 32, \
                  do_fft_overlap = false } },\n    \
                  { axes = [2], flatten = { version = 1, scale_axes = 0.5, minimum = false } },\n  ] } }";
    assert_eq!(proposal.features[0], blocks);
    // The first block has no scaler, so its two features stay; a variance of 0 divides by 1.
    let scaler = "{ standardize = { mean = [0.0, 0.0, 1.5, 2.0], std = [1.0, 1.0, 2.0, 1.0] } }";
    assert_eq!(proposal.features[1], scaler);
    assert_eq!(proposal.decision.0, "classify");
    assert!(matches!(&proposal.labels, Some(Some(Labels::File { .. }))));
}

#[test]
fn the_fields_of_an_impulse_are_read_where_there_are_no_defines() {
    let text = "ei_dsp_config_mfe_t ei_dsp_config_9_3 = {\n    3, // uint32_t blockId\n    4, // int implementationVersion\n    \
                0.02f, // float frame_length\n    -60 // int noise_floor_db\n};\nconst ei_impulse_t impulse_9_1 = {\n    \
                .project_name = \"Doors\",\n    .raw_sample_count = 16000,\n    .raw_samples_per_frame = 1,\n    .frequency = 16000,\n    \
                .sensor = EI_CLASSIFIER_SENSOR_MICROPHONE,\n    .fusion_string = \"audio\",\n    .slices_per_model_window = 2,\n};\n";
    let proposal = proposal(&project(&[text]), 2).unwrap();
    assert_eq!(proposal.stream, Stream::Sound { rate_hz: 16000.0 });
    assert_eq!((proposal.samples, proposal.hop, proposal.name.as_str()), (16000, 8000, "Doors"));
    assert!(
        proposal.features[0].contains("{ mfe = { version = 4, noise_floor_db = -60.0 } }"),
        "{:?}",
        proposal.features
    );
}

#[test]
fn a_calibration_becomes_a_consensus_and_a_threshold_stays_one() {
    let calibration = "const ei_model_performance_calibration_t ei_calibration = {\n    1, /* version */\n    true, /* configured */\n    \
                       1500, /* average */\n    0.7f, /* threshold */\n    2500, /* suppression */\n    0x5 /* flags */\n};\n";
    let proposal = |more: &str| proposal(&project(&[METADATA, VARIABLES, more]), 3).unwrap();
    let (kind, keys) = proposal(calibration).decision;
    // A hop of 31 samples at 62.5 Hz is 496 ms.
    let expected =
        "windows = 1, same = 1, smooth = 3, threshold = 0.7, suppress_s = 2.5, allow = [\"idle\", \"wave // up\"]";
    assert_eq!((kind, keys.as_str()), ("consensus", expected));
    let (kind, keys) = proposal(&calibration.replace("true", "false")).decision;
    assert_eq!((kind, keys.as_str()), ("classify", ""), "not configured in the studio");
    let (kind, keys) = proposal("#define EI_CLASSIFIER_THRESHOLD 0.6f\n").decision;
    assert_eq!((kind, keys.as_str()), ("classify", "threshold = 0.6"));
}

#[test]
fn json_of_the_studio_is_read_with_and_without_parameters() {
    let impulse = r#"{"impulse": {"inputBlocks": [{"windowSizeMs": 2000, "windowIncreaseMs": 200, "frequencyHz": 62.5}],
        "dspBlocks": [{"id": 3, "type": "spectral-analysis", "name": "s", "axes": ["accX", "accY"], "implementationVersion": 4,
            "config": [{"group": "g", "items": [{"param": "fft-length", "value": "64"}, {"param": "filter-type", "value": "none"}]}]}]}}"#;
    let read = Project::read("a.json", impulse).unwrap();
    assert_eq!((read.samples, read.hop, read.axes), (Some(125), Some(13), Some(2)));
    let feature = read.feature().unwrap();
    assert!(feature.contains("{ axes = [0, 1], spectral_analysis = { version = 4, fft_length = 64 } }"), "{feature}");
    let block = r#"{"type": "mfcc", "implementationVersion": 3, "num_cepstral": 20, "win_size": 0}"#;
    let read = Project::read("b.json", block).unwrap();
    assert!(read.feature().unwrap().contains("mfcc = { version = 3, num_cepstral = 20, win_size = 0 }"));
    assert!(proposal(&read, 3).unwrap_err().contains("say it with --window SAMPLES"));
}

#[test]
fn what_cannot_be_used_is_said_with_what_would_be_right() {
    let refused = |text: &str| header::project(&[text]).and_then(|project| proposal(&project, 3)).unwrap_err();
    assert!(refused("int x;").contains("it should be model_metadata.h or model_variables.h"));
    let old = "ei_dsp_config_mfe_t ei_dsp_config_52 = {\n    3,\n    1,\n    0.032f\n};\n";
    assert!(refused(old).contains("build the C++ library again"));
    let twice = VARIABLES.to_owned() + &VARIABLES.replace("_7_1", "_8_1");
    assert!(refused(&twice).contains("the labels of several impulses"));
    let custom =
        |kind: &str, line: &str| format!("{METADATA}ei_dsp_config_{kind}_t ei_dsp_config_1 = {{\n    {line}\n}};\n");
    let why = refused(&custom("audio_syntiant", "1, // int implementationVersion"));
    assert!(why.contains("a block audio_syntiant, which edgewatt does not have; it has spectral_analysis"), "{why}");
    assert!(refused(&custom("raw", "1.0f // float scale-axes")).contains("does not say the version of the block raw"));
    assert!(
        refused(&custom("raw", "x, // int implementationVersion"))
            .contains("the block raw: version: \"x\" is not a whole number")
    );
    assert!(Project::read("a.json", "{").unwrap_err().starts_with("a.json: it is not JSON"));
    assert!(Project::read("a.json", "{}").unwrap_err().contains("no block is in it"));
}

#[test]
fn no_text_makes_it_panic() {
    use proptest::prelude::*;
    proptest!(|(cut in 0..VARIABLES.len(), insert in "[{}\"=;,/*\\\\ a-z0-9é]{0,6}", at in 0..VARIABLES.len())| {
        let is_whole = VARIABLES.is_char_boundary(cut) && VARIABLES.is_char_boundary(at);
        prop_assume!(is_whole);
        let text = format!("{}{insert}{}", &VARIABLES[..at], &VARIABLES[cut..]);
        if let Ok(project) = header::project(&[METADATA, &text]) {
            let _ = proposal(&project, 3);
        }
        let _ = json::project(&text);
    });
}
