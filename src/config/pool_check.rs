//! The rules of pools that span fields and entries, and the way from their entries to the fleet's
//! types.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::MAX_WORKERS;
use super::check::{Making, Programs, check_token};
use super::model::Document;
use super::node::{At, Place};
use super::pool_model::{Hook, Pool, Scaling, Template, place_of};
use super::reader::{Located, Reader};
use crate::fleet::{
    HookSpec, InterfaceKind, LaunchSpec, Origin, PoolName, PoolSpec, ProviderKind, ScheduledMin, WorkerSpec,
};
use crate::trust::{ClientFiles, Credential, Credentials, pool_of};

/// Shorter secrets can be guessed.
const SHORTEST_SECRET: usize = 16;

/// The pools, and the line of each entry.
type Made = (BTreeMap<PoolName, Arc<PoolSpec>>, BTreeMap<PoolName, u32>);

/// The rules between entries: names and former names differ, no worker has the name of an instance,
/// and all of them together are not too many.
pub(super) fn check_pools(document: &Document, reader: &mut Reader<'_>) {
    let all = At::ROOT.field("pools");
    let mut names: HashMap<&PoolName, usize> = HashMap::new();
    let mut formers: HashMap<&PoolName, usize> = HashMap::new();
    let mut total = document.workers.0.len() as u64;
    for (n, Located { value: pool, place }) in &document.pools.0 {
        let at = all.index(*n);
        let name = &pool.name;
        if let Some(first) = names.insert(&name.value, *n) {
            let message = format!("\"{}\" is taken by pools[{first}]; names must differ", name.value);
            reader.problem(name.place, &at.field("name"), message);
        }
        if let Some(former) = &pool.formerly
            && let Some(first) = formers.insert(&former.value, *n)
        {
            let message =
                format!("\"{}\" is what pools[{first}] was; a pool becomes one other", former.value);
            reader.problem(former.place, &at.field("formerly"), message);
        }
        total += pool.scaling.max.value.0;
        if total > MAX_WORKERS as u64 {
            let message = format!("more than {MAX_WORKERS} workers in all, at the most; lower `max`");
            reader.problem(
                place_of(Some(&pool.scaling.max), *place),
                &at.field("scaling").field("max"),
                message,
            );
        }
    }
    let workers = At::ROOT.field("workers");
    for (n, Located { value: worker, .. }) in &document.workers.0 {
        let name = &worker.name;
        if let Some(pool) = pool_of(name.value.as_str()).filter(|pool| names.contains_key(pool)) {
            let message =
                format!("\"{}\" is a name of pool \"{pool}\"; its workers are called so", name.value);
            reader.problem(name.place, &workers.index(*n).field("name"), message);
        }
    }
}

impl Making<'_> {
    /// Every pool, through the rules of its own fields.
    pub(super) fn pools(
        &self,
        entries: Vec<(usize, Located<Pool>)>,
        open: bool,
        credentials: &mut Credentials,
        programs: &mut Programs<'_>,
        reader: &mut Reader<'_>,
    ) -> Made {
        let all = At::ROOT.field("pools");
        let (mut pools, mut lines) = (BTreeMap::new(), BTreeMap::new());
        for (n, Located { value: pool, place }) in entries {
            let at = all.index(n);
            lines.insert(pool.name.value.clone(), place.line);
            let places = (place, pool.worker.place);
            let of_worker = at.field("worker");
            let (template, credential) = self.template(pool.worker, &of_worker, programs, reader);
            check_token(open, &template, &credential, (places.1, &of_worker), reader);
            credentials.pool(pool.name.value.clone(), credential);
            if let Some(hook) = pool.scaling.hook.as_ref() {
                let files = webhook_files(&hook.value, &at.field("scaling").field("hook"), programs, reader);
                files.into_iter().for_each(|files| credentials.webhook(pool.name.value.clone(), files));
            }
            let scaling = self.scaling(pool.scaling, &template, places, &at, programs, reader);
            let spec = PoolSpec {
                name: pool.name.value,
                formerly: pool.formerly.map(|former| former.value),
                template,
                scaling,
            };
            pools.insert(spec.name.clone(), Arc::new(spec));
        }
        (pools, lines)
    }

    fn template(
        &self,
        template: Located<Template>,
        at: &At<'_>,
        programs: &mut Programs<'_>,
        reader: &mut Reader<'_>,
    ) -> (WorkerSpec, Credential) {
        let Template { first, endpoint, command, env, labels } = template.value;
        let (spec, credential) = self.worker(first, Origin::Pool, programs, at, reader);
        let spec = WorkerSpec {
            endpoint: endpoint.map(Arc::from),
            labels: labels
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
            launch: spec.launch.map(|launch| {
                // The program was looked for; its arguments are as they stand.
                let program = launch.command.into_iter().take(1);
                LaunchSpec { command: program.chain(command.into_iter().skip(1)).collect(), env }
            }),
            ..spec
        };
        (spec, credential)
    }

    fn scaling(
        &self,
        scaling: Scaling,
        template: &WorkerSpec,
        (place, worker): (Place, Place),
        at: &At<'_>,
        programs: &mut Programs<'_>,
        reader: &mut Reader<'_>,
    ) -> crate::fleet::Scaling {
        let (inside, of_worker) = (at.field("scaling"), at.field("worker"));
        let (min, max) = (scaling.min.value.0, scaling.max.value.0);
        let written = |field: Place| if field == Place::default() { place } else { field };
        if min > max {
            let message = format!("{min} is above `max` ({max})");
            reader.problem(written(scaling.min.place), &inside.field("min"), message);
        }
        if min == 0 && template.capabilities.is_none() {
            let message = "is missing; a pool that may have no workers states what they can do";
            reader.problem(worker, &of_worker.field("capabilities"), message);
        }
        for (n, entry) in scaling.schedule.0.iter().enumerate() {
            if entry.min.value.0 > max {
                let message = format!("{} is above `max` ({max})", entry.min.value.0);
                reader.problem(entry.min.place, &inside.field("schedule").index(n).field("min"), message);
            }
        }
        let provider = scaling.provider.value;
        if template.interface == InterfaceKind::Websocket {
            check_template(template, provider, max, (worker, &of_worker), reader);
        }
        let hook_place = place_of(scaling.hook.as_ref(), written(scaling.provider.place));
        let hook = scaling.hook.map(|hook| hook.value);
        let hook = self.hook(hook, provider, (hook_place, &inside.field("hook")), programs, reader);
        crate::fleet::Scaling {
            min: narrow(min),
            max: narrow(max),
            target_load_percent: scaling.target_load.0,
            spare: narrow(scaling.spare.0),
            upscale_delay: scaling.upscale_delay.0,
            downscale_delay: scaling.downscale_delay.0,
            downscale_to_zero_delay: scaling.downscale_to_zero_delay.0,
            max_step: scaling.max_step.map(|step| narrow(step.0)),
            schedule: scaling
                .schedule
                .0
                .iter()
                .map(|entry| ScheduledMin {
                    days: match entry.days.0.as_slice() {
                        [] => 0b111_1111,
                        days => days.iter().fold(0, |set, day| set | 1 << (*day as u8)),
                    },
                    from: entry.from.0,
                    to: entry.to.0,
                    min: narrow(entry.min.value.0),
                })
                .collect(),
            paused: scaling.paused,
            provider,
            hook,
        }
    }

    fn hook(
        &self,
        hook: Option<Hook>,
        provider: ProviderKind,
        (place, at): (Place, &At<'_>),
        programs: &mut Programs<'_>,
        reader: &mut Reader<'_>,
    ) -> Option<HookSpec> {
        let uses = matches!(provider, ProviderKind::Exec | ProviderKind::Webhook);
        let Some(hook) = hook else {
            if uses {
                let message = format!("is missing; the provider `{}` is told by it", provider.as_str());
                reader.problem(place, at, message);
            }
            return None;
        };
        if !uses {
            let message = format!("has no use: the provider `{}` has no hook", provider.as_str());
            reader.problem(place, at, message);
            return None;
        }
        let mut unfit = |field: &str, written: Option<Place>, needed: bool| match (written, needed) {
            (None, true) => {
                let message = format!("is missing; the provider `{}` needs it", provider.as_str());
                reader.problem(place, &at.field(field), message);
            }
            (Some(there), false) => {
                let message = format!("has no use with the provider `{}`", provider.as_str());
                reader.problem(there, &at.field(field), message);
            }
            (None, false) | (Some(_), true) => {}
        };
        let is_exec = provider == ProviderKind::Exec;
        unfit("command", hook.command.as_ref().map(|it| it.place), is_exec);
        unfit("url", hook.url.as_ref().map(|it| it.place), !is_exec);
        unfit("secret", hook.secret.as_ref().map(|it| it.place), !is_exec);
        if let Some(secret) = hook.secret.as_ref().filter(|secret| secret.value.0.len() < SHORTEST_SECRET) {
            let message = format!("is shorter than {SHORTEST_SECRET} characters; it could be guessed");
            reader.problem(secret.place, &at.field("secret"), message);
        }
        if let Some(url) = &hook.url {
            check_url(url, &at.field("url"), reader);
        }
        let command = hook.command.and_then(|command| {
            let (place, words) = (command.place, command.value.0.into_iter().map(|word| word.0));
            programs.command(words, place, &at.field("command"), reader)
        });
        Some(HookSpec {
            command: command.unwrap_or_default(),
            env: hook.env.0,
            url: hook.url.map(|url| url.value.0).unwrap_or_default(),
            secret: hook.secret.map(|secret| secret.value.0).unwrap_or_default(),
            timeout: hook.timeout.0,
        })
    }
}

/// What a template must have for its provider.
fn check_template(
    template: &WorkerSpec,
    provider: ProviderKind,
    max: u64,
    (place, at): (Place, &At<'_>),
    reader: &mut Reader<'_>,
) {
    let endpoint = template.endpoint.as_deref();
    let differs = |text: &str| text.contains("{index}") || text.contains("{port}");
    let launch = template.launch.as_ref();
    match (provider, launch) {
        (ProviderKind::Process, None) => {
            let message = "is missing; the provider `process` starts it for each worker";
            reader.problem(place, &at.field("launch"), message);
        }
        (ProviderKind::Exec | ProviderKind::Webhook | ProviderKind::External, Some(_)) => {
            let message = format!("has no use: the provider `{}` makes the workers", provider.as_str());
            reader.problem(place, &at.field("launch"), message);
        }
        (ProviderKind::Process, Some(_))
        | (ProviderKind::Exec | ProviderKind::Webhook | ProviderKind::External, None) => {}
    }
    if provider != ProviderKind::Process && endpoint.is_some_and(|endpoint| endpoint.contains("{port}")) {
        let message = "`{port}` is a port that the provider `process` picks; write the workers' own port";
        reader.problem(place, &at.field("endpoint"), message);
    }
    if max > 1 && endpoint.is_some_and(|endpoint| !differs(endpoint)) {
        let message = "is the same for every worker; put `{index}` or `{port}` into it";
        reader.problem(place, &at.field("endpoint"), message);
    }
    let in_endpoint = endpoint.is_some_and(|endpoint| endpoint.contains("{port}"));
    let texts = launch.into_iter().flat_map(|launch| launch.command.iter().chain(launch.env.values()));
    if in_endpoint && launch.is_some() && !texts.into_iter().any(|text| text.contains("{port}")) {
        let message = "does not tell the program on which `{port}` to listen";
        reader.problem(place, &at.field("launch").field("command"), message);
    }
}

/// What a webhook over https:// is spoken to with.
fn webhook_files(
    hook: &Hook,
    at: &At<'_>,
    programs: &mut Programs<'_>,
    reader: &mut Reader<'_>,
) -> Option<ClientFiles> {
    let secure = hook.url.as_ref().filter(|url| url.value.0.starts_with("https://"));
    match (&hook.tls, secure) {
        (Some(tls), Some(_)) => Some(programs.certificates.client(tls, &at.field("tls"), reader)),
        (Some(tls), None) => {
            reader.problem(tls.place, &at.field("tls"), "has no use without a url that begins with https://");
            None
        }
        (None, Some(url)) => {
            programs.certificates.usual(url.place, at, reader);
            None
        }
        (None, None) => None,
    }
}

fn check_url(url: &Located<super::values::Text>, at: &At<'_>, reader: &mut Reader<'_>) {
    let text = &url.value.0;
    let parsed: Option<hyper::Uri> = text.parse().ok();
    let fits = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if !fits {
        reader.problem(
            url.place,
            at,
            "is not an address such as https://scaler.example/scale or http://127.0.0.1:9000/scale",
        );
    }
}

impl Programs<'_> {
    /// A command whose program was looked for.
    fn command(
        &mut self,
        mut words: impl Iterator<Item = String>,
        place: Place,
        at: &At<'_>,
        reader: &mut Reader<'_>,
    ) -> Option<Vec<String>> {
        let Some(program) = words.next() else {
            reader.problem(place, at, "is empty; the first word is the program");
            return None;
        };
        let found: Option<PathBuf> = self.find(&program);
        if found.is_none() {
            let message = format!("there is no program {program:?}; the hook fails before there is");
            reader.warning(place, at, message);
        }
        let program = found.map_or(program, |found| found.display().to_string());
        Some(std::iter::once(program).chain(words).collect())
    }
}

/// The readers' bounds are far below.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
