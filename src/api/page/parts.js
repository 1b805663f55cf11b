/* What the board is made of: elements, words and times. Whatever comes from the server is only ever
   set as text, never as markup. */
const at = (id) => document.getElementById(id);
const make = (name, kind, ...inside) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...inside.filter((it) => it !== undefined && it !== null && it !== ""));
  return made;
};
const link = (text, href) => {
  const made = make("a", "", text);
  made.href = href;
  return made;
};
const say = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

/* How a state is shown: the word itself, with one of five looks. */
const LOOKS = {
  ready: "good", succeeded: "good", ok: "good",
  suspect: "warn", draining: "warn", cordoned: "warn", connecting: "warn", cancelling: "warn", warning: "warn",
  expired: "warn", timed_out: "warn", recovering: "warn", starting: "warn",
  disconnected: "bad", ejected: "bad", failed: "bad", lost: "bad", critical: "bad", worker_lost: "bad",
  running: "calm", assigned: "calm",
};
const look = (state) => (Object.hasOwn(LOOKS, state) ? LOOKS[state] : "none");
const word = (state) => make("span", "word " + look(state), state.replaceAll("_", " "));

/* The server's clock decides: a browser's may be wrong by hours. */
let ahead = 0;
const now = () => Date.now() + ahead;
const took = (ms) => {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 1000) return Math.max(0, Math.round(ms)) + " ms";
  if (ms < 120e3) return (ms / 1000).toFixed(ms < 10e3 ? 1 : 0) + " s";
  if (ms < 7200e3) return Math.round(ms / 60e3) + " min";
  if (ms < 172800e3) return Math.round(ms / 3600e3) + " h";
  return Math.round(ms / 86400e3) + " d";
};
const since = (time) => (time ? now() - Date.parse(time) : NaN);
const ago = (time) => (time ? took(since(time)) + " ago" : "–");
const between = (from, to) => (from && to ? Date.parse(to) - Date.parse(from) : NaN);
const many = (count, one, more) => count.toLocaleString("en") + " " + (count === 1 ? one : more ?? one + "s");

/* Brings the children of `place` to what `items` are, by their keys. An element that stays keeps its
   focus and what is open in it. `build` makes an element with a method `show(item)`. */
function keyed(place, items, key, build) {
  const before = place.made ?? new Map();
  const after = new Map();
  let next = place.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const element = before.get(name) ?? build(item);
    element.show(item);
    after.set(name, element);
    if (element === next) next = next.nextElementSibling;
    else place.insertBefore(element, next);
  }
  for (const [name, element] of before) if (!after.has(name)) element.remove();
  place.made = after;
}

/* A table of columns [title, show(item) -> text or element, kind]. `rows` are keyed. */
function table(place, columns, rows, key, nothing, build = () => row(columns)) {
  if (!place.body) {
    const titles = columns.map(([title, , kind]) => {
      const cell = make("th", kind === "number" ? kind : "", title);
      cell.scope = "col";
      return cell;
    });
    place.body = make("tbody");
    place.whole = make("table", "", make("thead", "", make("tr", "", ...titles)), place.body);
    place.none = make("p", "empty");
    /* A display that is not a table's takes the roles away, and on a phone it is not. */
    place.whole.role = "table";
    place.append(place.whole, place.none);
  }
  say(place.none, nothing);
  place.none.hidden = rows.length > 0;
  place.whole.hidden = rows.length === 0;
  keyed(place.body, rows, key, build);
}

function row(columns) {
  const line = make("tr");
  line.role = "row";
  const cells = columns.map(([title, , kind]) => {
    const cell = make("td", kind ?? "");
    cell.role = "cell";
    if (title) cell.dataset.title = title;
    return cell;
  });
  line.append(...cells);
  line.show = (item) => {
    line.item = item;
    columns.forEach(([, value], which) => {
      const shown = value(item, line);
      const cell = cells[which];
      cell.classList.toggle("blank", shown === "" || shown === null || shown === undefined);
      if (shown instanceof Node) {
        /* The same text in the same dress needs no new element, and keeps the focus. */
        const old = cell.firstElementChild;
        if (old !== shown && !(old && old.isEqualNode(shown))) cell.replaceChildren(shown);
      } else say(cell, String(shown ?? ""));
    });
  };
  return line;
}

/* Buttons of which one is pressed. */
function chips(place, items, chosen, choose) {
  keyed(place, items, ([name]) => name, ([name]) => {
    const button = make("button");
    button.type = "button";
    button.addEventListener("click", () => choose(name));
    button.show = ([, text]) => {
      say(button, text);
      button.setAttribute("aria-pressed", String(name === chosen()));
    };
    return button;
  });
}

const get = async (path) => {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) throw Object.assign(new Error(path + " answered " + answer.status), { status: answer.status });
  return answer.json();
};
