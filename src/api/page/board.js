/* The board as a whole: what needs a look, what was reloaded, and when it looks again. */
const EVERY = 2000;
const SOONEST = 500;
const BOARDS = [["overview", "Overview"], ["slos", "SLOs"], ["tasks", "Tasks"], ["pool", "Pool"],
  ["worker", "Worker"], ["autoscaling", "Autoscaling"], ["api", "API"], ["internals", "Internals"]];
/* Where the compose file of this version runs it. */
const board = (name) => location.protocol + "//" + location.hostname + ":3000/d/rollcall-" + name;

/* What this server sees by itself; the alerts of Prometheus look at it over time. Each: the alert whose
   runbook says what to do, how bad, the board to look at, a sentence, and text to show as it is. */
function conditions(status, { deadLetters, gone: names }) {
  const found = [];
  const add = (alert, severity, name, text, more) => found.push({ alert, severity, board: name, text, more });
  const { workers: count, slots } = status.capacity;
  if (status.store !== "ok") add("RollcallStoreNotWritable", "critical", "internals", "The store takes no tasks: " + status.store);
  if (status.lifecycle !== "ready") add("", "warning", "overview", "The server is " + status.lifecycle + ".");
  if (!status.last_reload.successful) {
    const problems = status.last_reload.problems.map((it) => it.file + (it.line ? ":" + it.line + ":" + it.column : "") +
      ": " + (it.path ? it.path + ": " : "") + it.message);
    add("RollcallConfigReloadFailed", "critical", "internals",
      "config.yaml was not taken; generation " + status.generation + " stays in force.", problems.join("\n"));
  }
  for (const [name, it] of waitsLongest(status)) {
    if (it.unroutable) add("RollcallNoWorkerForCapability", "critical", "tasks",
      many(it.unroutable, "task needs ", "tasks need ") + name + ", and no connected worker offers it.");
    else if (it.queued && it.oldest_wait_seconds > 300) add("RollcallQueueStalled", "critical", "tasks",
      "The oldest task for " + name + " waits for " + took(it.oldest_wait_seconds * 1000) + ".", reasons.get(name));
  }
  const of = (...states) => states.reduce((sum, state) => sum + (status.workers[state] ?? 0), 0);
  const gone = of("disconnected", "connecting", "ejected");
  if (gone && gone > 0.3 * count) add("RollcallPoolDegraded", gone > 0.7 * count ? "critical" : "warning", "pool",
    many(count - gone, "worker") + " of " + count.toLocaleString("en") + " can be reached and are healthy.");
  else if (gone) add("RollcallWorkerDown", "warning", "worker", many(gone, "worker is", "workers are") + " away or ejected" + (names ? ": " + names : "") + ".");
  if (of("suspect")) add("RollcallHeartbeatsLate", "warning", "pool", many(of("suspect"), "worker has", "workers have") + " fallen silent.");
  if (slots.unavailable) add("RollcallZombieResults", "warning", "worker",
    many(slots.unavailable, "slot is", "slots are") + " held by attempts that do not stop.");
  if (status.pressure.ratio > 0.8) add("RollcallQueueFilling", "warning", "tasks",
    "The queue is " + Math.round(status.pressure.ratio * 100) + " % full; when it is full, tasks are refused.");
  if (deadLetters) add("RollcallDeadLetters", "warning", "tasks", "There are dead letters: tasks that used up their attempts.");
  return found.sort((a, b) => (b.severity === "critical") - (a.severity === "critical"));
}

function showConditions(all) {
  const calm = [{ text: "Nothing. Every worker, queue and reload is as it should be." }];
  keyed(at("conditions"), all.length ? all.slice(0, 20) : calm, (it) => it.alert + it.text, (it) => {
    const item = make("li", "", it.severity ? word(it.severity) : make("span", "word good", "fine"), " " + it.text + " ");
    if (it.alert) item.append(link("Runbook", "/runbooks/" + it.alert), " ");
    if (it.board) item.append(link("Board", board(it.board)));
    const more = make("pre");
    item.append(more);
    item.show = (now) => {
      say(more, now.more ?? "");
      more.hidden = !now.more;
    };
    return item;
  });
  const bad = all.filter((it) => it.severity === "critical").length;
  document.title = (bad ? "(" + bad + ") " : "") + "Rollcall";
}

function showTiles(status) {
  const { slots } = status.capacity;
  const tiles = [
    ["workers ready", (status.workers.ready ?? 0).toLocaleString("en") + " of " + status.capacity.workers.toLocaleString("en")],
    ["slots used", slots.used.toLocaleString("en") + " of " + slots.total.toLocaleString("en")],
    ["tasks not finished", status.pressure.tasks.toLocaleString("en")],
    ["oldest waits", took(1000 * Math.max(0, ...Object.values(status.queues).map((it) => it.oldest_wait_seconds)))],
    ["queue full", Math.round(status.pressure.ratio * 100) + " %"],
  ];
  keyed(at("tiles"), tiles, ([name]) => name, ([name]) => {
    const value = make("b");
    const tile = make("div", "tile", value, make("span", "", name));
    tile.show = ([, text]) => say(value, text);
    return tile;
  });
  say(at("server"), status.version + ", " + status.lifecycle + ", generation " + status.generation);
}

/* What each generation changed, and what was refused; the newest first. */
function showReloads(status) {
  const none = [{ at: "", summary: "Nothing was reloaded since the server started." }];
  keyed(at("reloads"), status.reloads.length ? status.reloads : none, (it) => it.at + it.summary, (it) => {
    const outcome = it.outcome && it.outcome !== "applied" ? make("span", "word bad", it.outcome) : "";
    const when = make("span", "none");
    const item = make("li", "", outcome, " " + it.summary + " ", when);
    when.title = it.at;
    item.show = (now) => say(when, now.at ? "by " + now.trigger + ", " + ago(now.at) : "");
    return item;
  });
}

let [busy, again, paused, planned, looked, round] = [false, false, false, 0, 0, 0];
/* What is asked for less often, since it changes slowly or costs more. */
const rare = { deadLetters: false, gone: "" };
async function lookCloser(status) {
  const dead = get("/v1/tasks?dead_letter=true&limit=1&output=false");
  rare.gone = status.workers.disconnected || status.workers.ejected ? await namesOfGone() : "";
  rare.deadLetters = (await dead).items.length > 0;
  await Promise.all([explainQueues(status), lookAtPools()]);
}

async function lookAround() {
  if (busy) { again = true; return; }
  [busy, again, looked] = [true, false, Date.now()];
  try {
    const status = await get("/v1/status");
    ahead = Date.parse(status.at) - Date.now();
    showWorkerStates(status);
    const [some, page, open] = await Promise.all([get(workersPath()), get(tasksPath()), openedTask()]);
    if (round++ % 3 === 0) await lookCloser(status);
    showConditions(conditions(status, rare));
    showTiles(status);
    showWorkers(some);
    showQueues(status);
    showTasks(page, open);
    showReloads(status);
    tell(paused ? "paused" : "live");
  } catch (problem) {
    tell("not reachable, so this is old: " + problem.message, true);
  }
  busy = false;
  if (again) hurry();
}

function tell(text, broken = false) {
  say(at("live"), text);
  at("live").classList.toggle("broken", broken);
}

/* Looks soon, but not more often than it is good for. What a reader asks for is shown while paused too. */
function hurry() {
  planned ||= setTimeout(() => { planned = 0; lookAround(); }, Math.max(0, SOONEST - (Date.now() - looked)));
}
const happened = () => { if (!paused && document.visibilityState === "visible") hurry(); };

const events = new EventSource("/v1/events");
for (const name of ["worker_state", "worker_connected", "worker_disconnected", "task_ended", "generation_applied", "reset"]) {
  events.addEventListener(name, happened);
}
setInterval(happened, EVERY);
document.addEventListener("visibilitychange", happened);

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  tell(paused ? "paused" : "live");
  happened();
});
at("boards").append(...BOARDS.map(([name, title]) => link(title, board(name))));
lookAround();
