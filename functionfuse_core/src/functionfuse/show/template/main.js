// The rest of the page: chips, changes, keys, addresses.
function startChips() {
  const counts = new Map();
  for (let i = 0; i < N; i++) counts.set(actionOf(i), (counts.get(actionOf(i)) || 0) + 1);
  const usual = D.run || counts.has("computed") || counts.has("reused") ? ["computed", "reused", "failed"] : [];
  const every = ["compute", "maybe", "reuse", "stored", "not run", "not needed"].filter((action) => counts.has(action));
  const others = [...counts.keys()].filter((action) => !usual.includes(action) && !every.includes(action));
  for (const action of [...usual, ...every, ...others]) {
    const count = counts.get(action) || 0;
    const chip = el("button", { class: "chip", "aria-pressed": "false", "data-action": action }, badge(stateOf(action)), el("b", {}, whole(count)), fold(told(action, WORDS), 40));
    chip.disabled = !count;
    chip.onclick = () => { state.action = state.action === action ? "" : action; state.limit = FIRST; refresh(); if (state.action) showTable(); };
    $("chips").append(chip);
  }
}

function card(title, about, ...rest) {
  return el("div", {}, el("b", {}, title), el("p", {}, about), ...rest);
}

function nodeList(list, called) {
  const all = list.length > 8 && el("button", {}, `List all ${whole(list.length)}`);
  if (all) all.onclick = () => narrow(list, called, false);
  return el("div", {}, el("ul", {}, ...list.slice(0, 8).map((i) => el("li", {}, nameLink(i, 80)))), all);
}

function startChanges() {
  const changes = D.changes;
  if (!changes) return;
  $("changes").hidden = false;
  $("changes-title").textContent = `Changes since the run of ${changes.started}`;
  const causes = new Map();
  for (const [i, k] of changes.causes) {
    if (!causes.has(k)) causes.set(k, []);
    causes.get(k).push(i);
  }
  const changed = [...new Set(changes.causes.map(([i]) => i))], cards = [];
  cards.push(card(whole(changed.length), changed.length ? "had changed inputs or code" : "had changed inputs or code: none",
    ...[...causes].slice(0, 6).map(([k, list]) => el("div", {}, el("span", { class: "tag" }, fold(printable(changes.texts[k]), 160)), nodeList(list, "changed inputs"))),
    causes.size > 6 && nodeList(changed, "changed inputs")));
  cards.push(card(whole(changes.other.length), `${changes.other.length === 1 ? "has" : "have"} another value now`, nodeList(changes.other, "other values")));
  if (changes.equal.length) {
    cards.push(card(whole(changes.equal.length), `${changes.equal.length === 1 ? "was" : "were"} computed again with an equal value`, nodeList(changes.equal, "equal values")));
  }
  if (changes.new.length) cards.push(card(whole(changes.new.length), `${changes.new.length === 1 ? "is" : "are"} new`, nodeList(changes.new, "new nodes")));
  if (changes["gone count"]) {
    const gone = changes.gone.slice(0, 8).map((name) => el("li", { class: "name" }, fold(printable(name), 80)));
    const more = changes["gone count"] - gone.length;
    cards.push(card(whole(changes["gone count"]), `${changes["gone count"] === 1 ? "is" : "are"} gone`, el("ul", {}, ...gone, more > 0 && el("li", {}, `and ${whole(more)} more`))));
  }
  cards.push(card(`${duration(changes.seconds) || "no time"} → ${duration(D.seconds) || "no time"}`, "the whole run"));
  $("cards").replaceChildren(...cards);
}

function refresh() {
  for (const chip of $("chips").children) chip.setAttribute("aria-pressed", String(chip.dataset.action === state.action));
  paintGraph();
  paintTimeline();
  paintTable();
  $("found").hidden = listed.length === N;
  $("found").textContent = $("count").textContent;
}

// Lay out again what depends on the width.
function relay() {
  fit(false);
  drawTimeline();
  paintTimeline();
}

function followAddress() {
  const i = addressed(location.hash);
  if (i === null) return;
  if (i < 0) {
    $("problem").textContent = "The address names a node that isn't in this report.";
    return;
  }
  $("problem").textContent = "";
  select(i);
}

function startKeys() {
  $("help-button").onclick = () => $("help").showModal();
  $("query").oninput = (event) => {
    state.query = event.target.value.toLowerCase();
    state.limit = FIRST;
    refresh();
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = event.target.matches?.("input, select, textarea");
    if (event.key === "/" && !typing) { event.preventDefault(); $("query").focus(); $("query").select(); }
    if (event.key === "?" && !typing) { event.preventDefault(); $("help").showModal(); }
    if (event.key === "Enter" && event.target === $("query")) focusRow(0);
    if (event.key !== "Escape") return;
    if (event.target === $("query") && $("query").value) {
      event.preventDefault();
      $("query").value = state.query = "";
      refresh();
    } else if (state.selected >= 0) select(-1);
    else if (event.target === $("query")) $("query").blur();
  });
}

state.limit = FIRST;
state.others = new Set(D.changes ? D.changes.other : []);
state.equals = new Set(D.changes ? D.changes.equal : []);
startChips();
startGraph();
startTimeline();
startChanges();
startTable();
startKeys();
for (const part of ["graph", "timeline", "changes"]) $("to-" + part).hidden = $(part).hidden;
if (D.withheld) $("problem").textContent = printable(D.withheld);
addEventListener("resize", relay);
addEventListener("hashchange", followAddress);
// A link is followed here, because within another page its address would be that of the other.
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-node]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  select(Number(link.dataset.node), event.detail === 0);
});
// On paper, nothing can be clicked or moved: it has more rows, and the whole drawing.
addEventListener("beforeprint", () => {
  state.limit = Math.max(state.limit, 2000);
  paintTable();
  // Chromium repeats the heads of the table on each page, but doesn't paint buttons there.
  for (const [head, button] of buttons) head.replaceChildren(button.textContent);
  if (drawing) look(-16, -16, drawing.size[0] + 32, drawing.size[1] + 32);
});
addEventListener("afterprint", () => {
  for (const [head, button] of buttons) head.replaceChildren(button);
  relay();
});
refresh();
followAddress();
document.documentElement.dataset.ready = "true";
