/* The latest tasks; one of them can be opened: its way through time, why it waits, what it says. */
const OUTPUT_SHOWN = 20000;
/* What the store keeps: that a worker has begun is not written, only that it has the task. */
const KINDS = [["", "all"], ["queued", "waiting"], ["assigned", "with a worker"],
  ["failed", "failed"],
  ["timed_out", "timed out"], ["lost", "lost"], ["dead_letter", "dead letters"]];
const tasks = { kind: "", open: null, why: null, stream: null, said: "", cut: false };

const taskColumns = [
  ["Task", (it, line) => opener(it, line), "short"],
  ["State", (it) => word(it.state), "state"],
  ["Capability", (it) => it.capability, "long"],
  ["Worker", (it) => it.attempts.at(-1)?.worker ?? "", "short"],
  ["Submitted", (it) => ago(it.submitted_at), "number"],
  ["Waited", (it) => took(it.assigned_at ? between(it.submitted_at, it.assigned_at) : since(it.submitted_at)), "number"],
  ["Ran", (it) => (it.started_at ? took(it.finished_at ? between(it.started_at, it.finished_at) : since(it.started_at)) : "–"), "number"],
  ["Error", (it) => (it.error ? it.error.code + ": " + it.error.message : ""), "long"],
];

function opener(task, line) {
  line.button ??= (() => {
    const button = make("button", "", task.id.slice(-8));
    button.type = "button";
    button.title = task.id;
    button.setAttribute("aria-label", "Task " + task.id);
    button.addEventListener("click", () => openTask(tasks.open === task.id ? null : task.id));
    return button;
  })();
  line.button.setAttribute("aria-expanded", String(tasks.open === task.id));
  return line.button;
}

function tasksPath() {
  const query = new URLSearchParams({ limit: 20, output: false });
  if (tasks.kind === "dead_letter") query.set("dead_letter", true);
  else if (tasks.kind) query.set("state", tasks.kind);
  return "/v1/tasks?" + query;
}

function showTasks(page, open) {
  chips(at("task-kinds"), KINDS, () => tasks.kind, (kind) => {
    tasks.kind = kind;
    hurry();
  });
  /* An open one stays, whatever came after it. */
  const items = open && !page.items.some((it) => it.id === open.id) ? [open, ...page.items] : page.items;
  const rows = items.flatMap((it) => (open && it.id === open.id ? [open, { detail: open }] : [it]));
  const nothing = tasks.kind ? "No task is so." : "No task has come yet.";
  table(at("tasks"), taskColumns, rows, (it) => (it.detail ? it.detail.id + " detail" : it.id), nothing,
    (it) => (it.detail ? detailRow() : row(taskColumns)));
}

function openTask(id) {
  tasks.stream?.close();
  Object.assign(tasks, { open: id, why: null, stream: null, said: "", cut: false });
  if (id) {
    tasks.stream = new EventSource("/v1/tasks/" + id + "/events");
    tasks.stream.addEventListener("output", (event) => {
      const said = tasks.said + JSON.parse(event.data).data;
      tasks.cut ||= said.length > OUTPUT_SHOWN;
      tasks.said = said.slice(-OUTPUT_SHOWN);
      happened();
    });
    tasks.stream.addEventListener("reset", () => (tasks.said = ""));
    tasks.stream.addEventListener("state", happened);
  }
  hurry();
}

/* The open task as it is now, and why it waits. */
async function openedTask() {
  const id = tasks.open;
  if (!id) return null;
  try {
    const task = await get("/v1/tasks/" + id);
    tasks.why = task.state === "queued" ? explained(await get("/v1/tasks/" + id + "/explain")) : null;
    return task;
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    openTask(null);
    return null;
  }
}

function detailRow() {
  const line = make("tr", "detail");
  const cell = make("td");
  const [facts, times, said] = [make("dl", "facts"), make("ol", "timeline"), make("pre", "output")];
  line.role = "row";
  cell.role = "cell";
  cell.colSpan = taskColumns.length;
  times.setAttribute("aria-label", "Its way through time");
  said.tabIndex = 0;
  said.setAttribute("aria-label", "What it says");
  cell.append(facts, times, said);
  line.append(cell);
  line.show = ({ detail: task }) => {
    const told = taskFacts(task);
    if (facts.told !== JSON.stringify(told.map(([, it]) => it.textContent ?? it))) {
      facts.told = JSON.stringify(told.map(([, it]) => it.textContent ?? it));
      facts.replaceChildren(...told.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
    }
    showTimeline(times, task);
    const below = said.scrollHeight - said.scrollTop - said.clientHeight < 8;
    say(said, (tasks.cut ? "… (the beginning is left out)\n" : "") + (tasks.said || "It has said nothing."));
    if (below) said.scrollTop = said.scrollHeight;
  };
  return line;
}

function taskFacts(task) {
  const file = (it) => link(it.name + " ", "/v1/tasks/" + task.id + "/artifacts/" + encodeURIComponent(it.name));
  return [
    ["Id", link(task.id, "/v1/tasks/" + task.id)],
    ["Why it waits", tasks.why ?? task.pending_reason],
    ["Error", task.error && task.error.code + ": " + task.error.message +
      " (fault: " + task.error.fault + (task.error.retryable ? ", worth another try)" : ")")],
    ["Files", task.artifacts.length ? make("span", "", ...task.artifacts.slice(0, 20).map(file)) : null],
    ["Dead letter", task.dead_letter ? "yes: rollcall tasks retry " + task.id : null],
  ].filter(([, value]) => value);
}

/* Waits and attempts, one after the other, each as a sentence and as a bar on one scale. */
function stretches(task) {
  const found = [];
  let from = task.submitted_at;
  for (const it of task.attempts) {
    found.push(["waits", from, it.assigned_at, "waited"]);
    const named = "attempt " + it.number + " on " + it.worker;
    if (it.started_at) found.push(["waits", it.assigned_at, it.started_at, named + ": handed over"]);
    const outcome = it.outcome ?? "runs";
    found.push([look(outcome), it.started_at ?? it.assigned_at, it.finished_at,
      named + ": " + outcome.replaceAll("_", " ") + (it.error ? " (" + it.error + ")" : "")]);
    from = it.finished_at;
  }
  if (!task.finished_at && (from || task.attempts.length === 0)) found.push(["waits", from, null, "waits"]);
  else if (task.attempts.length === 0) found.push(["waits", from, task.finished_at, "waited, then " + task.state]);
  return found.map(([kind, start, end, text]) => {
    const [begin, until] = [Date.parse(start), end ? Date.parse(end) : now()];
    return { kind, begin, until: Math.max(begin, until), text };
  });
}

function showTimeline(place, task) {
  const all = stretches(task).slice(-40);
  const [begin, end] = [all[0].begin, Math.max(...all.map((it) => it.until))];
  const share = (ms) => (100 * ms) / Math.max(1, end - begin);
  keyed(place, all.map((it, which) => ({ ...it, which })), (it) => it.which, () => {
    const [text, bar] = [make("span"), make("i")];
    const item = make("li", "", text, make("span", "track", bar));
    item.show = (it) => {
      say(text, it.text + ", " + took(it.until - it.begin));
      bar.className = it.kind;
      /* What took no time at the very end is to be seen too. */
      bar.style.left = "min(" + share(it.begin - begin) + "%, 100% - 3px)";
      bar.style.width = share(it.until - it.begin) + "%";
    };
    return item;
  });
}
