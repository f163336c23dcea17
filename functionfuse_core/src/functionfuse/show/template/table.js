// The table of nodes: searched, sorted, walked through by keys.
// A column is left out if it is empty everywhere.
const HEADS = [
  ["name", "Node"], ["action", planned ? "What will happen" : "What happened"],
  reasons.some(Boolean) && ["reason", "Why"],
  (C.seconds || C.cost) && ["time", planned ? "Last time" : "Time", "num"],
  D.changes && C.before && ["before", "Before", "num"],
  C.bytes && ["bytes", "Size", "num"],
  types.some(Boolean) && ["type", "Result"],
].filter(Boolean);
const byName = new Intl.Collator("en", { numeric: true }).compare; // "fit 9" before "fit 10"
let alphabet = null; // the place of each node among the names, once it is asked for
function placeOf(i) {
  if (!alphabet) {
    alphabet = new Array(N);
    names.map((_, k) => k).sort((a, b) => byName(names[a], names[b])).forEach((k, place) => { alphabet[k] = place; });
  }
  return alphabet[i];
}
const SORTED = {
  place: (i) => i,
  name: placeOf,
  action: rankOf,
  reason: reasonOf,
  time: timeOf,
  before: (i) => number("before", i),
  bytes: (i) => number("bytes", i),
  type: typeOf,
};
const FIRST = 100; // rows that are shown at once
const built = new Map(); // rows by node: to make them takes longer than to search
const buttons = new Map(); // by head
let ordered = [], listed = [];

function sort() {
  const value = SORTED[state.order], keys = Array.from({ length: N }, (_, i) => value(i));
  ordered = keys.map((_, i) => i);
  ordered.sort((a, b) => (keys[a] < keys[b] ? -state.down : keys[a] > keys[b] ? state.down : a - b));
  for (const head of $("heads").children) {
    const on = head.dataset.order === state.order;
    if (on) head.setAttribute("aria-sort", state.down > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
    buttons.get(head).textContent = head.dataset.label + (on ? (state.down > 0 ? " ↑" : " ↓") : "");
  }
}

function rowOf(i) {
  const own = ran(i), other = state.others.has(i);
  const time = own ? duration(number("seconds", i)) : duration(number("cost", i));
  const cell = (className, content, title) => el("td", { class: className, role: "gridcell", title }, content);
  const cells = {
    name: () => cell("name", fold(names[i], 160)),
    action: () => cell("state", [badge(states[i]), fold(wordOf(i), 40), other && " ", other && el("span", { class: "tag" }, "other value")]),
    reason: () => cell("why", fold(reasonOf(i), 180)),
    time: () => cell(own ? "num" : "num soft", time, !own && time ? "when the stored result was computed" : null),
    before: () => cell("num soft before", own ? duration(number("before", i)) : ""),
    bytes: () => cell("num", size(number("bytes", i))),
    type: () => cell("type", fold(lastPart(typeOf(i)), 40), typeOf(i)),
  };
  return el("tr", { role: "row", "data-row": i }, HEADS.map(([order]) => cells[order]()));
}

function paintTable() {
  const members = state.members && new Set(state.members);
  listed = ordered.filter((i) => matches(i) && (!members || members.has(i)));
  $("count").textContent = listed.length === N ? whole(N) : `${whole(listed.length)} of ${whole(N)}`;
  const rows = listed.slice(0, state.limit).map((i) => {
    if (!built.has(i)) built.set(i, rowOf(i));
    return built.get(i);
  });
  $("rows").replaceChildren(...rows);
  markRow();
  $("empty").hidden = listed.length > 0;
  $("more").hidden = listed.length <= state.limit;
  $("more").textContent = `Show ${whole(Math.min(1000, listed.length - state.limit))} more`;
  $("narrowed").replaceChildren(...(state.members
    ? [el("button", { class: "narrow", id: "widen", title: "show all nodes" }, `Only ${fold(state.called, 40)} ×`)] : []));
}

// Tab comes to one row: the selected one, or the first.
function markRow() {
  const rows = [...$("rows").children], at = rows.findIndex((row) => Number(row.dataset.row) === state.selected);
  rows.forEach((row, place) => {
    row.setAttribute("aria-selected", String(place === at));
    row.setAttribute("tabindex", place === Math.max(0, at) ? "0" : "-1");
  });
}

// List only some nodes.
function narrow(members, called, byKey) {
  Object.assign(state, { members, called, query: "", action: "", limit: FIRST });
  $("query").value = "";
  refresh();
  showTable();
  if (byKey) focusRow(0);
}

function showTable() {
  $("nodes").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function focusRow(place) {
  if (place >= state.limit && place < listed.length) { state.limit = place + FIRST; paintTable(); }
  const rows = $("rows").children, row = rows[Math.max(0, Math.min(place, rows.length - 1))];
  if (!row) return;
  for (const other of rows) other.setAttribute("tabindex", other === row ? "0" : "-1");
  row.focus();
  if (state.selected >= 0 && !$("drawer").hidden) select(Number(row.dataset.row));
}

function startTable() {
  $("nodes").hidden = false;
  $("grey").hidden = planned || !names.some((_, i) => !ran(i) && number("cost", i));
  for (const [order, label, align] of HEADS) {
    const button = el("button", {}, label);
    const head = el("th", { "data-order": order, "data-label": label, class: align, scope: "col", role: "columnheader" }, button);
    buttons.set(head, button);
    button.onclick = () => {
      const again = state.order === order;
      // The third click on a name is for the order of the graph, which has no head of its own.
      state.order = again && order === "name" && state.down < 0 ? "place" : order;
      state.down = again && state.order === order ? -state.down : align ? -1 : 1;
      sort();
      paintTable();
    };
    $("heads").append(head);
  }
  $("more").onclick = () => {
    const place = state.limit;
    state.limit += 1000;
    paintTable();
    focusRow(place);
  };
  $("narrowed").onclick = () => { state.members = null; refresh(); };
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !String(getSelection())) select(Number(row.dataset.row));
  });
  $("rows").addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = $("rows").children, place = [...rows].indexOf(row);
    const steps = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + 10, PageUp: place - 10, Home: 0, End: rows.length - 1 };
    if (Object.hasOwn(steps, event.key)) { event.preventDefault(); focusRow(steps[event.key]); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(Number(row.dataset.row), true); }
  });
  sort();
}
