//! What config.yaml may say of pools: the template of their workers, and how they are scaled.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::model::{Worker, default_of_empty};
use super::node::{At, Node, Place, Scalar, Value as Tree};
use super::reader::{List, Located, Reader, Value, section};
use super::tls_model::ClientTls;
use super::values::{Hundredths, Span, Text, Whole, words};
use super::worker_values::{Command, Variables};
use crate::fleet::{PoolName, ProviderKind, WorkerName};

const DAY: u64 = 24 * 3_600 * 1_000;
const HOUR: u64 = 3_600 * 1_000;

/// Pools of one server: as many as have series of their own in the metrics.
pub(super) const MAX_POOLS: usize = 200;
/// Instances of one pool.
pub(super) const MAX_INSTANCES: u64 = 10_000;

section! {
    /// Interchangeable workers that are made from one template and scaled together.
    struct Pool {
        /// Its identity: 1 to 50 characters from a-z, 0-9, `.`, `_` and `-`. Its workers are called <name>-<index>, from 1.
        name: Located<PoolName>;
        /// The name that it had before; its workers carry over.
        formerly: Option<Located<PoolName>> = None;
        /// What each worker is like; fields as under `workers`, but no name. `{index}` and `{port}` in `endpoint`, `launch` and `labels` stand for each one's own.
        worker: Located<Template>;
        /// How many there are.
        scaling: Scaling = Scaling::default();
    }
    later []
}

section! {
    /// How many workers a pool has, and where they come from.
    struct Scaling {
        /// Workers at least.
        min: Located<Whole<0, MAX_INSTANCES>> = Located::nowhere(Whole(1));
        /// Workers at most.
        max: Located<Whole<1, MAX_INSTANCES>> = Located::nowhere(Whole(1));
        /// The share of all slots that running and waiting tasks ought to fill.
        target_load: Hundredths<1, 100> = Hundredths(75);
        /// Workers beyond what tasks ask for.
        spare: Whole<0, MAX_INSTANCES> = Whole(0);
        /// How long more must have been wanted before there are more.
        upscale_delay: Span<0, DAY> = Span::millis(0);
        /// How long fewer must have been wanted before there are fewer.
        downscale_delay: Span<0, DAY> = Span::seconds(300);
        /// How long there must have been nothing to do before the last one goes, where `min` is 0.
        downscale_to_zero_delay: Span<0, { 7 * DAY }> = Span::seconds(15 * 60);
        /// Workers that come or go at once, at most; more follow 15 s later. Omitted: any number.
        max_step: Option<Whole<1, MAX_INSTANCES>> = None;
        /// Higher minimums at certain times, in UTC.
        schedule: List<Scheduled, 100> = List(Vec::new());
        /// Whether the size stays as it is (within `min` and `max`).
        paused: bool = false;
        /// `process`: the server starts `launch` for each. `exec` and `webhook`: `hook` is told how many there ought to be. `external`: others ask at /v1/pools/<name>.
        provider: Located<ProviderKind> = Located::nowhere(ProviderKind::Process);
        /// How the provider is told.
        hook: Option<Located<Hook>> = None;
    }
    later []
}

section! {
    /// A minimum that holds at certain times, in UTC.
    struct Scheduled {
        /// On which days it begins. Omitted: on all.
        days: List<Day, 7> = List(Vec::new());
        /// When it begins, such as 08:00.
        from: TimeOfDay;
        /// When it ends, such as 18:00; not later than `from` means on the day after.
        to: TimeOfDay;
        /// Workers at least.
        min: Located<Whole<0, MAX_INSTANCES>>;
    }
    later []
}

section! {
    /// How a provider is told how many workers there ought to be.
    struct Hook {
        /// For `exec`: the program and its arguments; it gets a JSON document on standard input.
        command: Option<Located<Command>> = None;
        /// For `exec`: environment beside the few names that every program gets.
        env: Variables = Variables::default();
        /// For `webhook`: where the same document is posted.
        url: Option<Located<Text>> = None;
        /// For `webhook`: the key of the signature, of 16 characters or more; by reference, such as "${HOOK_SECRET}".
        secret: Option<Located<Text>> = None;
        /// For `webhook` over https://: whom to believe, and what to show.
        tls: Option<Located<ClientTls>> = None;
        /// How long one call may take.
        timeout: Span<100, HOUR> = Span::seconds(10);
    }
    later []
}

default_of_empty!(Scaling);

words! { ProviderKind { "process" => Process, "exec" => Exec, "webhook" => Webhook, "external" => External, } }

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

words! { Day { "mon" => Mon, "tue" => Tue, "wed" => Wed, "thu" => Thu, "fri" => Fri, "sat" => Sat, "sun" => Sun, } }

/// Minutes after midnight, written `08:30`; `24:00` is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOfDay(pub(super) u16);

impl Value for TimeOfDay {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let minutes = node.word().and_then(|text| {
            let (hours, minutes) = text.split_once(':')?;
            let number = |text: &str, most: u16| {
                let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|number: &u16| digits && *number <= most)
            };
            let (hours, minutes) = (number(hours, 24)?, number(minutes, 59)?);
            Some(hours * 60 + minutes).filter(|minutes| *minutes <= 24 * 60)
        });
        reader.or_wanted(minutes, node, at, || "a time of day in UTC, such as \"08:30\"".to_owned()).map(Self)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

impl Value for PoolName {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        // An index has to find room behind it in a worker's name.
        if node.word().is_some_and(|text| text.len() > 50) {
            reader.wanted(node, at, "a name of at most 50 characters");
            return None;
        }
        let name = WorkerName::read(node, at, reader)?;
        if name.as_str() == "static" || name.as_str() == "other" {
            let message = format!("\"{name}\" is reserved for the metrics; take another name");
            reader.problem(node.place, at, message);
            return None;
        }
        Some(Self::from(name.as_str()))
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]{0,49}$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(self.as_str().into())
    }
}

/// The template of a pool's workers: read as the first of them, beside its texts as they stand.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// The worker with index and port 1.
    pub(super) first: Worker,
    pub(super) endpoint: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl Value for Template {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let fields = reader.mapping(node, at)?;
        let mut first = Vec::with_capacity(fields.len() + 1);
        for (key, value) in fields {
            if matches!(&*key.text, "name" | "formerly") {
                let message = "has no place in a template: each worker is named after its pool";
                reader.problem(key.place, &at.field(&key.text), message);
                continue;
            }
            let mut value = value.clone();
            fill(&mut value);
            first.push((key.clone(), value));
        }
        let name = Scalar { text: "template".into(), quoted: true, hidden: false };
        let key = super::node::Key { text: "name".into(), place: node.place };
        first.push((key, Node { place: node.place, value: Tree::Scalar(name) }));
        let first = Worker::read(&Node { place: node.place, value: Tree::Map(first) }, at, reader)?;
        let launch = child(node, "launch");
        let list = launch.and_then(|launch| child(launch, "command"));
        let command = match list.map(|list| &list.value) {
            Some(Tree::List(words)) => words.iter().filter_map(Node::word).map(str::to_owned).collect(),
            Some(Tree::Scalar(_) | Tree::Map(_) | Tree::Wrong) | None => Vec::new(),
        };
        Some(Self {
            first,
            endpoint: child(node, "endpoint").and_then(Node::word).map(str::to_owned),
            command,
            env: launch.and_then(|launch| child(launch, "env")).map(texts).unwrap_or_default(),
            labels: child(node, "labels").map(texts).unwrap_or_default(),
        })
    }

    fn schema() -> Json {
        let mut schema = Worker::schema();
        if let Some(fields) = schema["properties"].as_object_mut() {
            fields.remove("name");
            fields.remove("formerly");
        }
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("required");
        }
        schema
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// Puts the first index, and a port, where they belong.
fn fill(node: &mut Node<'_>) {
    match &mut node.value {
        Tree::Scalar(scalar) if scalar.text.contains('{') => {
            scalar.text = scalar.text.replace("{index}", "1").replace("{port}", "1").into();
        }
        Tree::List(items) => items.iter_mut().for_each(fill),
        Tree::Map(entries) => entries.iter_mut().for_each(|(_, value)| fill(value)),
        Tree::Scalar(_) | Tree::Wrong => {}
    }
}

fn child<'n, 't>(node: &'n Node<'t>, name: &str) -> Option<&'n Node<'t>> {
    match &node.value {
        Tree::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value),
        Tree::Scalar(_) | Tree::List(_) | Tree::Wrong => None,
    }
}

fn texts(node: &Node<'_>) -> BTreeMap<String, String> {
    match &node.value {
        Tree::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.text.to_string(), value.word().unwrap_or_default().to_owned()))
            .collect(),
        Tree::Scalar(_) | Tree::List(_) | Tree::Wrong => BTreeMap::new(),
    }
}

/// The entries under `pools:`, each with its place. Those that are wrong are left out.
#[derive(Debug, Clone)]
pub(super) struct Pools(pub(super) Vec<(usize, Located<Pool>)>);

impl Value for Pools {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let items = reader.list(node, at, MAX_POOLS)?;
        let read =
            |(n, item): (usize, &Node<'_>)| Located::read(item, &at.index(n), reader).map(|pool| (n, pool));
        Some(Self(items.iter().enumerate().filter_map(read).collect()))
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": Pool::schema(), "maxItems": MAX_POOLS })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// Where a default stands: nowhere.
pub(super) fn place_of<T>(field: Option<&Located<T>>, else_at: Place) -> Place {
    field.map_or(else_at, |field| field.place)
}
