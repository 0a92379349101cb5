//! What the person has chosen: the pipeline shown, help, the list of delegates; and what was asked of a daemon and not yet
//! answered. Pure; the time is passed in.

use super::keys::Key;
use super::model::{Model, Node, Pipeline};

/// How long a daemon may take to answer a command.
const ANSWER_MS: u64 = 3000;
/// How long a notice stays.
const NOTICE_MS: u64 = 8000;
/// The delegates that every build has.
const ALWAYS: [&str; 2] = ["cpu", "xnnpack"];

/// Something that the person asks of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Pause(String),
    Resume(String),
    SetDelegate { pipeline: String, delegate: String },
}

impl Request {
    fn what(&self) -> String {
        match self {
            Self::Pause(pipeline) => format!("pause {pipeline}"),
            Self::Resume(pipeline) => format!("resume {pipeline}"),
            Self::SetDelegate { pipeline, delegate } => format!("run {pipeline} by {delegate}"),
        }
    }
}

/// What a key asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Quit,
    /// Of the node with that prefix.
    Ask(String, Request),
}

/// What is shown over the view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Overlay {
    #[default]
    None,
    Help,
    /// The place in the list of delegates.
    Delegates(usize),
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Ui {
    /// Prefix of the node and name of the pipeline; the first if `None`.
    chosen: Option<(String, String)>,
    pub overlay: Overlay,
    /// A sentence, and when it was made.
    notice: Option<(String, u64)>,
    pending: Option<Pending>,
    pub stopping: bool,
}

#[derive(Debug)]
struct Pending {
    node: String,
    since_ms: u64,
    /// Answers of the node that were there before.
    answers: usize,
}

/// What is shown now.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub prefix: &'a str,
    pub node: &'a Node,
    pub name: &'a str,
    pub pipeline: &'a Pipeline,
    /// The place among all pipelines of all nodes, from 0, and how many there are.
    pub place: usize,
    pub count: usize,
}

impl Ui {
    /// Returns the pipeline to show; `None` before the first one is known.
    pub(crate) fn shown<'a>(&self, model: &'a Model) -> Option<Shown<'a>> {
        let all = all(model);
        let is_chosen = |shown: &&Shown<'a>| {
            self.chosen.as_ref().is_some_and(|(prefix, name)| prefix == shown.prefix && name == shown.name)
        };
        all.iter().find(is_chosen).or(all.first()).copied()
    }

    /// Returns the delegates that can be chosen for a node.
    pub(crate) fn delegates(node: &Node) -> Vec<&str> {
        let more = node.delegates.iter().map(String::as_str).filter(|name| !ALWAYS.contains(name));
        ALWAYS.into_iter().chain(more).collect()
    }

    /// Takes a key. Returns what it asks for.
    pub(crate) fn press(&mut self, key: Key, model: &Model, now_ms: u64) -> Option<Wish> {
        if matches!(key, Key::Interrupt | Key::Char('q' | 'Q')) {
            return Some(Wish::Quit);
        }
        if let Overlay::Delegates(place) = self.overlay {
            return self.press_in_list(place, key, model, now_ms);
        }
        let was_open = std::mem::take(&mut self.overlay) != Overlay::None;
        match key {
            Key::Char('?' | 'h') if !was_open => self.overlay = Overlay::Help,
            Key::Next | Key::Down => self.go(model, 1),
            Key::Previous | Key::Up => self.go(model, -1),
            Key::Char('p') => {
                let shown = self.shown(model)?;
                let name = shown.name.to_owned();
                let request = if shown.pipeline.is_paused() { Request::Resume(name) } else { Request::Pause(name) };
                return Some(self.ask(shown, request, now_ms));
            }
            Key::Char('d') => {
                let shown = self.shown(model)?;
                let active = shown.pipeline.delegate.as_ref().map(|delegate| delegate.active.as_str());
                let place = Self::delegates(shown.node).iter().position(|name| Some(*name) == active);
                self.overlay = Overlay::Delegates(place.unwrap_or(0));
            }
            _ => {}
        }
        None
    }

    fn press_in_list(&mut self, place: usize, key: Key, model: &Model, now_ms: u64) -> Option<Wish> {
        let shown = self.shown(model)?;
        let delegates = Self::delegates(shown.node);
        let count = delegates.len();
        match key {
            Key::Next | Key::Down | Key::Char('d') => self.overlay = Overlay::Delegates((place + 1) % count),
            Key::Previous | Key::Up => self.overlay = Overlay::Delegates((place + count - 1) % count),
            Key::Enter => {
                self.overlay = Overlay::None;
                let delegate = (*delegates.get(place)?).to_owned();
                let request = Request::SetDelegate { pipeline: shown.name.to_owned(), delegate };
                return Some(self.ask(shown, request, now_ms));
            }
            _ => self.overlay = Overlay::None,
        }
        None
    }

    fn go(&mut self, model: &Model, by: isize) {
        let all = all(model);
        let Some(place) = self.shown(model).map(|shown| shown.place) else { return };
        let next = (place as isize + by).rem_euclid(all.len() as isize) as usize;
        self.chosen = all.get(next).map(|shown| (shown.prefix.to_owned(), shown.name.to_owned()));
    }

    fn ask(&mut self, shown: Shown<'_>, request: Request, now_ms: u64) -> Wish {
        self.notice = Some((format!("asked {} to {}", shown.node.name, request.what()), now_ms));
        let answers = shown.node.answers;
        self.pending = Some(Pending { node: shown.prefix.to_owned(), since_ms: now_ms, answers });
        Wish::Ask(shown.prefix.to_owned(), request)
    }

    /// Looks whether the daemon has answered, or has not in time. Returns whether the notice changed.
    pub(crate) fn tick(&mut self, model: &Model, now_ms: u64) -> bool {
        if self.notice.as_ref().is_some_and(|(_, since)| now_ms.saturating_sub(*since) >= NOTICE_MS) {
            self.notice = None;
            return true;
        }
        let Some(pending) = &self.pending else { return false };
        let node = model.nodes.get(&pending.node);
        let answer = node
            .filter(|node| node.answers != pending.answers)
            .and_then(|node| node.events.iter().rev().find(|event| event.is_answer()));
        if let Some(answer) = answer {
            let refused = if answer.event == "command_refused" { "refused: " } else { "" };
            self.notice = Some((format!("{refused}{}", answer.message), now_ms));
        } else if now_ms.saturating_sub(pending.since_ms) >= ANSWER_MS {
            let name = node.map_or(pending.node.as_str(), |node| node.name.as_str());
            let text = format!("no answer from {name} within 3 s: commands need mqtt.commands = true on the node");
            self.notice = Some((text, now_ms));
        } else {
            return false;
        }
        self.pending = None;
        true
    }

    /// Shows a sentence for some seconds.
    pub(crate) fn notify(&mut self, text: String, now_ms: u64) {
        self.notice = Some((text, now_ms));
        self.pending = None;
    }

    pub(crate) fn notice(&self) -> Option<&str> {
        self.notice.as_ref().map(|(text, _)| text.as_str())
    }
}

/// Returns every pipeline of every node.
fn all(model: &Model) -> Vec<Shown<'_>> {
    let count = model.nodes.values().map(|node| node.pipelines.len()).sum();
    let pipelines = model.nodes.iter().flat_map(|(prefix, node)| {
        node.pipelines.iter().map(move |(name, pipeline)| (prefix.as_str(), node, name.as_str(), pipeline))
    });
    let shown = |(place, (prefix, node, name, pipeline))| Shown { prefix, node, name, pipeline, place, count };
    pipelines.enumerate().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let mut model = Model::default();
        for (topic, payload) in [
            (
                "e/a/info",
                r#"{"pipelines":{"x":{},"y":{"delegate":{"active":"npu","requested":"npu"}}},"delegates":["npu","cpu"]}"#,
            ),
            ("e/b/p/z/status", r#"{"state":"paused"}"#),
        ] {
            model.take(topic, payload.as_bytes(), 0);
        }
        model
    }

    fn name(ui: &Ui, model: &Model) -> String {
        ui.shown(model).map(|shown| format!("{}/{}", shown.node.name, shown.name)).unwrap()
    }

    #[test]
    fn keys_go_through_all_pipelines_of_all_nodes() {
        let (mut ui, model) = (Ui::default(), model());
        let mut names = vec![name(&ui, &model)];
        for key in [Key::Next, Key::Down, Key::Next, Key::Previous] {
            assert_eq!(ui.press(key, &model, 0), None);
            names.push(name(&ui, &model));
        }
        assert_eq!(names, ["a/x", "a/y", "b/z", "a/x", "b/z"]);
        assert!(Ui::default().shown(&Model::default()).is_none());
        assert_eq!(Ui::default().press(Key::Char('p'), &Model::default(), 0), None);
    }

    #[test]
    fn pause_and_resume_are_asked_of_the_shown_pipeline() {
        let (mut ui, model) = (Ui::default(), model());
        let asked = ui.press(Key::Char('p'), &model, 0);
        assert_eq!(asked, Some(Wish::Ask("e/a".into(), Request::Pause("x".into()))));
        ui.press(Key::Previous, &model, 0);
        let asked = ui.press(Key::Char('p'), &model, 0);
        assert_eq!(asked, Some(Wish::Ask("e/b".into(), Request::Resume("z".into()))));
        assert_eq!(ui.press(Key::Char('q'), &model, 0), Some(Wish::Quit));
        assert_eq!(ui.press(Key::Interrupt, &model, 0), Some(Wish::Quit));
    }

    #[test]
    fn a_delegate_is_chosen_from_a_list() {
        let (mut ui, model) = (Ui::default(), model());
        ui.press(Key::Next, &model, 0);
        ui.press(Key::Char('d'), &model, 0);
        assert_eq!(ui.overlay, Overlay::Delegates(2), "begins at the active one");
        ui.press(Key::Char('d'), &model, 0);
        ui.press(Key::Down, &model, 0);
        let request = Request::SetDelegate { pipeline: "y".into(), delegate: "xnnpack".into() };
        assert_eq!(ui.press(Key::Enter, &model, 0), Some(Wish::Ask("e/a".into(), request)));
        ui.press(Key::Char('d'), &model, 0);
        assert_eq!((ui.press(Key::Escape, &model, 0), &ui.overlay), (None, &Overlay::None));
    }

    #[test]
    fn an_answer_is_shown_and_its_absence_too() {
        let (mut ui, mut model) = (Ui::default(), model());
        ui.press(Key::Char('p'), &model, 1000);
        assert!(!ui.tick(&model, 3999));
        assert!(ui.tick(&model, 4000));
        assert!(ui.notice().unwrap().contains("no answer from a within 3 s"), "{:?}", ui.notice());

        ui.press(Key::Char('p'), &model, 5000);
        for _ in 0..200 {
            model.take("e/a/event", br#"{"event":"drops","message":"m"}"#, 0);
        }
        model.take("e/a/event", br#"{"event":"command_refused","message":"pause: no"}"#, 5100);
        assert!(ui.tick(&model, 5100));
        assert_eq!(ui.notice(), Some("refused: pause: no"));
        assert!(ui.tick(&model, 5100 + NOTICE_MS) && ui.notice().is_none());
    }
}
