/* Queues, the one that waits longest first, and why their tasks wait. */
const QUEUES_SHOWN = 50;
const EXPLAINED = 5;
const reasons = new Map();

const queueColumns = [
  ["Capability", ([name]) => name, "long"],
  ["Waiting", ([, it]) => it.queued.toLocaleString("en"), "number"],
  ["Oldest waits", ([, it]) => (it.queued ? took(it.oldest_wait_seconds * 1000) : "–"), "number"],
  ["Delayed", ([, it]) => it.delayed.toLocaleString("en"), "number"],
  ["Running", ([, it]) => (it.assigned + it.running + it.cancelling).toLocaleString("en"), "number"],
  ["No worker", ([, it]) => it.unroutable.toLocaleString("en"), "number"],
  ["Finished", ([, it]) => it.completed.toLocaleString("en"), "number"],
  ["Why they wait", ([name, it]) => (it.queued ? reasons.get(name) ?? "" : ""), "long"],
];

const waitsLongest = (status) => Object.entries(status.queues).sort(([a, x], [b, y]) =>
  (y.queued > 0) - (x.queued > 0) || y.oldest_wait_seconds - x.oldest_wait_seconds || (a < b ? -1 : 1));

function showQueues(status) {
  const rows = waitsLongest(status);
  table(at("queues"), queueColumns, rows.slice(0, QUEUES_SHOWN), ([name]) => name, "No task has come yet.");
}

const explained = (why) => [why.summary, why.fix && "Shortest fix: " + why.fix].filter(Boolean).join(". ");

/* Asks about one waiting task of each of the queues that wait longest. */
async function explainQueues(status) {
  const waiting = waitsLongest(status).filter(([, it]) => it.queued).slice(0, EXPLAINED);
  for (const name of reasons.keys()) if (!waiting.some(([it]) => it === name)) reasons.delete(name);
  for (const [name] of waiting) {
    const query = new URLSearchParams({ state: "queued", capability: name, limit: 1, output: false });
    const [task] = (await get("/v1/tasks?" + query)).items;
    /* It may have gone on meanwhile; the next look asks again. */
    if (task) reasons.set(name, explained(await get("/v1/tasks/" + task.id + "/explain")));
  }
}
