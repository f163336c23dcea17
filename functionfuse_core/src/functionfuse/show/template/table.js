// The table of nodes: searched, sorted, walked through by keys.
const HEADS = [
  ["place", "Node"], ["action", "What happened"], ["reason", "Why"], ["time", "Time", "num"],
  ...(D.changes && C.before ? [["before", "Before", "num"]] : []),
  ["bytes", "Size", "num"], ["type", "Result"],
];
const SORTED = {
  place: (i) => i,
  action: actionOf,
  reason: reasonOf,
  time: timeOf,
  before: (i) => number("before", i),
  bytes: (i) => number("bytes", i),
  type: typeOf,
};
const FIRST = 100; // rows that are shown at once
const built = new Map(); // rows by node: to make them takes longer than to search
let ordered = [], listed = [];

function sort() {
  const value = SORTED[state.order], keys = Array.from({ length: N }, (_, i) => value(i));
  ordered = keys.map((_, i) => i);
  ordered.sort((a, b) => (keys[a] < keys[b] ? -state.down : keys[a] > keys[b] ? state.down : a - b));
  for (const head of $("heads").children) {
    const on = head.dataset.order === state.order;
    if (on) head.setAttribute("aria-sort", state.down > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
    head.firstChild.textContent = head.dataset.label + (on ? (state.down > 0 ? " ↑" : " ↓") : "");
  }
}

function rowOf(i) {
  const own = ran(i), other = state.others.has(i);
  const time = own ? duration(number("seconds", i)) : duration(number("cost", i));
  return el("tr", { role: "row", "data-row": i },
    el("td", { class: "name", role: "gridcell" }, fold(names[i], 160)),
    el("td", { class: "state", role: "gridcell" }, badge(states[i]), fold(printable(actionOf(i)), 40), other && " ", other && el("span", { class: "tag" }, "other value")),
    el("td", { class: "why", role: "gridcell" }, fold(reasonOf(i), 180)),
    el("td", { class: own ? "num" : "num soft", role: "gridcell", title: !own && time ? "when the stored result was computed" : null }, time),
    HEADS.length > 6 && el("td", { class: "num soft before", role: "gridcell" }, own ? duration(number("before", i)) : ""),
    el("td", { class: "num", role: "gridcell" }, size(number("bytes", i))),
    el("td", { class: "type", title: typeOf(i), role: "gridcell" }, fold(lastPart(typeOf(i)), 40)));
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
  $("nodes").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  if (byKey) focusRow(0);
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
  $("grey").hidden = !names.some((_, i) => !ran(i) && number("cost", i));
  for (const [order, label, align] of HEADS) {
    const head = el("th", { "data-order": order, "data-label": label, class: align, scope: "col", role: "columnheader" }, el("button", {}, label));
    head.firstChild.onclick = () => {
      state.down = state.order === order ? -state.down : align ? -1 : 1;
      state.order = order;
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
