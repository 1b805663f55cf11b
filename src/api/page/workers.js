/* Workers, a page at a time: of ten thousand only those that are looked at are asked for. */
const WORKERS_SHOWN = 50;
const TROUBLED = ["ejected", "disconnected", "suspect", "connecting", "draining", "cordoned"];
/* `shown`: a state, "" for all, or "troubled"; null until the first look has chosen. */
const workers = { shown: null, name: "", cursors: [""], next: null, interval: 30 };

const workerColumns = [
  ["Name", (it) => link(it.name, "/v1/workers/" + encodeURIComponent(it.name)), "short"],
  ["State", (it) => stateAndWhy(it), "state"],
  ["Slots used", (it) => it.slots.used + " of " + it.slots.total +
    (it.slots.unavailable ? " (" + it.slots.unavailable + " stuck)" : ""), "number"],
  ["Last heard", (it) => ago(it.last_heartbeat), "number"],
  ["Late by", (it) => late(it), "number"],
  ["Reconnects", (it) => it.reconnects.toLocaleString("en"), "number"],
  ["Done", (it) => it.attempts.ok.toLocaleString("en"), "number"],
  ["Failed", (it) => it.attempts.error.toLocaleString("en"), "number"],
  ["Version", (it) => [it.kind, it.version].filter(Boolean).join(" ") || (it.mock ? "mock" : ""), "short"],
  /* Few, so that a worker stays about one line; its name leads to all of them. */
  ["Capabilities", (it) => it.capabilities.slice(0, 4).join(", ") +
    (it.capabilities.length > 4 ? " and " + (it.capabilities.length - 4) + " more" : ""), "long"],
];

function stateAndWhy(worker) {
  const why = worker.reason ?? (worker.state === "ready" ? "" : worker.last_error ?? "");
  return make("div", "", word(worker.state), why && make("div", "why", why));
}

function late(worker) {
  const behind = since(worker.last_heartbeat) - workers.interval * 1000;
  return Number.isNaN(behind) ? "–" : behind > 0 ? took(behind) : "on time";
}

function workersPath() {
  const query = new URLSearchParams({ limit: WORKERS_SHOWN });
  if (workers.shown) query.set("state", workers.shown === "troubled" ? TROUBLED.join(",") : workers.shown);
  if (workers.name) query.set("name", workers.name);
  if (workers.cursors.at(-1)) query.set("cursor", workers.cursors.at(-1));
  return "/v1/workers?" + query;
}

function showWorkerStates(status) {
  workers.interval = status.heartbeat_interval_seconds;
  const total = status.capacity.workers;
  const troubled = total - (status.workers.ready ?? 0);
  /* A large fleet is met by what needs a look; a small one is shown whole. */
  workers.shown ??= total > WORKERS_SHOWN && troubled > 0 ? "troubled" : "";
  const items = [["", "all " + total.toLocaleString("en")], ["troubled", "not ready " + troubled.toLocaleString("en")]];
  for (const state of ["ready", ...TROUBLED]) {
    if (status.workers[state]) items.push([state, state + " " + status.workers[state].toLocaleString("en")]);
    else if (state === workers.shown) items.push([state, state + " 0"]);
  }
  chips(at("worker-states"), items, () => workers.shown, (state) => turnTo(state, workers.name));
}

function showWorkers(page) {
  workers.next = page.next_cursor;
  const nobody = workers.shown === "" && !workers.name
    ? "There are no workers. Add one to config.yaml and save it." : "No worker is so.";
  table(at("workers"), workerColumns, page.items, (it) => it.name, nobody);
  const place = workers.cursors.length;
  at("worker-pages").hidden = place === 1 && !workers.next;
  at("workers-back").disabled = place === 1;
  at("workers-on").disabled = !workers.next;
  say(at("worker-page"), "page " + place + (page.items.length
    ? ": " + page.items[0].name + " to " + page.items.at(-1).name : ""));
}

function turnTo(state, name) {
  Object.assign(workers, { shown: state, name, cursors: [""] });
  hurry();
}

at("worker-name").addEventListener("input", (event) => turnTo(workers.shown, event.target.value.trim()));
at("workers-on").addEventListener("click", () => {
  if (workers.next) workers.cursors.push(workers.next);
  hurry();
});
at("workers-back").addEventListener("click", () => {
  if (workers.cursors.length > 1) workers.cursors.pop();
  hurry();
});

/* The first few of those that cannot be reached, by name. */
async function namesOfGone() {
  const page = await get("/v1/workers?state=disconnected,connecting,ejected&limit=3");
  return page.items.map((it) => it.name).join(", ") + (page.next_cursor ? ", …" : "");
}

/* Pools, where the server has them. */
const poolColumns = [
  ["Pool", (it) => it.name, "short"],
  ["Ready", (it) => it.ready, "number"],
  ["Wanted", (it) => it.desired, "number"],
  ["Least", (it) => it.min, "number"],
  ["Most", (it) => it.max, "number"],
  ["Scaling", (it) => (it.paused ? "paused by " + it.paused_by : "by " + it.provider), "short"],
  ["Last decision", (it) => it.last_decision?.why ?? "", "long"],
];
let hasPools = true;
async function lookAtPools() {
  if (!hasPools) return;
  try {
    const pools = await get("/v1/pools");
    at("pools-section").hidden = pools.items.length === 0;
    table(at("pools"), poolColumns, pools.items, (it) => it.name, "");
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    hasPools = false;
  }
}
