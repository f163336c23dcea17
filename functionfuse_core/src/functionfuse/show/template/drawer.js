// The drawer: all about one node.
let opener = null;

function heading(title, ...beside) {
  return el("h3", {}, title, ...beside);
}

function terms(pairs, className) {
  const rows = pairs.filter(([, value]) => value !== "" && value != null);
  return rows.length ? el("dl", { class: className }, ...rows.flatMap(([term, value]) => [el("dt", { class: "name" }, term), el("dd", {}, value)])) : "";
}

function linkList(list) {
  if (!list.length) return el("div", { class: "soft" }, "none");
  return el("ul", { class: "links" },
    ...list.slice(0, 200).map((i) => el("li", {}, badge(states[i]), nameLink(i))),
    list.length > 200 && el("li", {}, `and ${whole(list.length - 200)} more`));
}

function argumentList(i) {
  const given = C.arguments ? C.arguments[i] : [], pairs = [];
  for (let k = 0; k < given.length; k += 2) {
    const value = given[k + 1], name = printable(D.tables.parameter[given[k]]);
    if (typeof value === "string") pairs.push([name, printable(value)]);
    else if (Array.isArray(value)) pairs.push([name, el("span", {}, nameLink(value[0]), el("span", { class: "soft" }, " " + printable(value[1])))]);
    else pairs.push([name, nameLink(value)]);
  }
  return terms(pairs, "mono");
}

function verdict(i) {
  const action = wordOf(i), why = reasonOf(i) || (action === "reused" ? "same code, same inputs" : "");
  const tried = number("attempts", i) > 1 ? ` (${whole(number("attempts", i))} attempts)` : "";
  return el("div", { class: `verdict ${states[i]}` }, badge(states[i]),
    el("span", {}, el("b", {}, action.charAt(0).toUpperCase() + action.slice(1)), (why ? ": " + why : "") + tried));
}

function histogram(shown) {
  const most = Math.max(...shown.bins), wide = 240 / shown.bins.length;
  return svg("svg", { width: 240, height: 38, role: "img", "aria-label": `Histogram from ${shown.stats.min} to ${shown.stats.max}` },
    ...shown.bins.map((count, k) => svg("rect", { class: "histogram", x: k * wide, y: 37 - (36 * count) / most, width: wide - 1, height: (36 * count) / most + 0.6 })));
}

function previewOf(shown) {
  const parts = [shown.kind === "text" ? el("pre", {}, printableLines(shown.text)) : el("span", { class: "mono" }, printable(shown.text))];
  if (shown.stats) parts.push(el("div", { class: "soft" }, `min ${shown.stats.min} · mean ${shown.stats.mean} · max ${shown.stats.max}`));
  if (shown.bins) parts.push(histogram(shown));
  if (shown.values) parts.push(el("pre", {}, printable(shown.values)));
  if (shown.image) {
    const image = el("img", { src: shown.image, alt: shown.kind === "image" ? "The image" : "The array as an image, thinned out" });
    // Pixels of a thumbnail are enlarged, so that small arrays can be seen.
    if (shown.kind === "array") image.onload = () => { image.style.width = Math.min(380, image.naturalWidth * 4) + "px"; };
    parts.push(image);
  }
  if (shown.kind === "table") {
    parts.push(el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ...shown.columns.map((name) => el("th", { scope: "col" }, printable(name))))),
      el("tbody", {}, ...shown.rows.map((row) => el("tr", {}, ...row.map((cell, k) => el("td", { class: k ? "num" : null }, printable(cell)))))))));
  }
  for (const [key, part] of shown.parts || []) parts.push(el("div", { class: "preview" }, el("code", {}, printable(key)), " ", previewOf(part)));
  return el("div", { class: shown.kind === "image" ? "picture" : null }, ...parts);
}
const printableLines = (value) => value.split("\n").map((line) => printable(line.replaceAll("\t", "    "))).join("\n");

// Python reads JSON's texts as its own.
function call(i) {
  // What turns the line around or has no glyph is escaped.
  const quoted = (text) => JSON.stringify(text).replace(/[^\x20-\x7e\p{L}\p{N}\p{P}\p{S}]|\p{Bidi_C}/gu,
    (char) => "\\U" + char.codePointAt(0).toString(16).padStart(8, "0"));
  const workflow = quoted(D.workflow), name = quoted(C.name[i]);
  return D.run ? `storage.runs(${workflow}, last=None)[${quoted(D.run)}].read(${name})` : `storage.read_task(${workflow}, ${name})`;
}

function resultOf(i) {
  const shown = previews.get(i), created = C.created && C.created[i] ? C.created[i].replace("T", " ") + " UTC" : "";
  const changed = state.others.has(i) ? "other value than in the run before" : state.equals.has(i) ? "equal to the run before" : "";
  const known = created || (C.digest && C.digest[i]);
  const cost = known && (duration(number("cost", i)) || (ran(i) ? duration(number("seconds", i)) : ""));
  const facts = terms([
    ["Type", typeOf(i) && el("span", { class: "mono" }, typeOf(i))],
    ["Size", size(number("bytes", i))],
    ["Computed", [created, cost && `in ${cost}`].filter(Boolean).join(", ")],
    ["With", printable(text("made", i))],
    ["Digest", C.digest && C.digest[i] ? el("span", { class: "mono" }, printable(C.digest[i]) + "…") : ""],
  ]);
  if (!facts && !shown && !changed) return [];
  const tag = changed && (state.others.has(i) ? el("span", { class: "tag" }, changed) : `(${changed})`);
  return [heading("Result ", tag), shown && el("div", { class: "preview" }, previewOf(shown)), facts];
}

function callOf(i) {
  const called = functionOf(i) ? el("div", { class: "mono name" }, functionOf(i)) : "", given = argumentList(i);
  return called || given ? [heading("Call"), called, given] : [];
}

function timesOf(i) {
  const worker = text("worker", i), start = begun(i);
  if (start === null && !ran(i)) return [];
  const when = start === null ? "" : `${duration(Math.max(0, start)) || "0 ms"} after the start`;
  return [heading("In this run"), terms([
    ["Began", when],
    ["Took", duration(number("seconds", i)) || "no time"],
    ["Before", duration(number("before", i))],
    ["Worker", worker && el("span", { class: "mono" }, printable(worker))],
  ])];
}

function drawDrawer(i) {
  const drawer = $("drawer"), read = call(i);
  const copy = el("button", { class: "copy" }, "Copy"), close = el("button", { class: "close", "aria-label": "Close", title: "Close (Esc)" }, "×");
  const stored = C.digest && C.digest[i];
  drawer.replaceChildren();
  build(drawer, {}, [close,
    el("h2", { id: "drawer-title", class: "name", tabindex: "-1" }, names[i]), verdict(i),
    resultOf(i), callOf(i), timesOf(i),
    heading("Made from"), linkList(parents[i]), heading("Used by"), linkList(children[i]),
    stored && [heading("Read it in Python"), el("pre", {}, copy, read)]]);
  close.onclick = () => select(-1);
  copy.onclick = () => copyText(copy, read);
  drawer.scrollTop = 0;
}

async function copyText(button, value) {
  try {
    await navigator.clipboard.writeText(value);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it, and press Ctrl+C";
  }
}

// The page may be shown within another one, whose address it can't change.
function showAddress(address) {
  try {
    history.replaceState(null, "", address);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
  }
}

// Show a node, or none: -1. By key, the focus goes into the drawer, and back when it closes.
function select(i, byKey) {
  const drawer = $("drawer"), was = drawer.hidden;
  if (byKey && i >= 0 && !drawer.contains(document.activeElement)) opener = document.activeElement;
  state.selected = i;
  drawer.hidden = i < 0;
  document.body.classList.toggle("open", i >= 0);
  if (i >= 0) drawDrawer(i);
  findNear();
  if (was !== drawer.hidden) relay();
  if (i >= 0 && drawing && !drawing.members) reveal(i);
  showAddress(i >= 0 ? address(i) : location.pathname + location.search);
  paintGraph();
  paintTimeline();
  markRow();
  if (byKey && i >= 0) $("drawer-title").focus({ preventScroll: true });
  if (i < 0 && opener) { if (opener.isConnected) opener.focus(); opener = null; }
}
