// The graph: a box for each node, or for each group of nodes.
const canvas = $("canvas");
const LEAST = 0.7; // the least scale at which names can be read
const mostHeight = () => Math.max(320, Math.min(innerHeight * 0.62, 700));
let drawing = null, boxes = [], edges = [], seen = [0, 0, 1, 1];

function look(x, y, width, height) {
  seen = [x, y, width, height];
  canvas.setAttribute("viewBox", seen.map((part) => part.toFixed(1)).join(" "));
}

function drawGraph() {
  drawing = D.views[$("view").value];
  const [width, height] = drawing.box;
  edges = drawing.edges.map(([source, target, count], k) => {
    const route = drawing.routes[k];
    let path = `M${route[0]} ${route[1]}`;
    for (let j = 2; j < route.length; j += 2) {
      const middle = (route[j - 2] + route[j]) / 2;
      path += (j / 2) % 2
        ? `C${middle} ${route[j - 1]} ${middle} ${route[j + 1]} ${route[j]} ${route[j + 1]}`
        : `L${route[j]} ${route[j + 1]}`;
    }
    const broad = drawing.members ? Math.min(6, 1 + Math.log2(count) * 0.6).toFixed(1) : null;
    const line = svg("path", { class: source > target ? "edge back" : "edge", d: path });
    if (broad) line.style.strokeWidth = broad;
    return { source, target, line };
  });
  boxes = drawing.xy.map(([x, y], k) => (drawing.members ? groupBox : nodeBox)(k, x - width / 2, y - height / 2, width, height));
  boxes.forEach((box, k) => { box.dataset.box = k; box.setAttribute("tabindex", k ? "-1" : "0"); });
  canvas.replaceChildren(...edges.map((edge) => edge.line), ...boxes);
  $("graph-hint").textContent = hint();
  fit();
}

// What the shapes in this drawing mean.
function hint() {
  const has = (action) => D.tables.action.includes(action), said = [];
  if (has("stored")) return "Click a box to see its details.";
  if (drawing.members) return `The filled part of a bar ${has("compute") ? "would be" : "was"} computed. Click a box to list its nodes.`;
  if (has("computed")) said.push("filled boxes were computed");
  if (has("compute")) said.push("filled boxes would be computed");
  if (has("maybe")) said.push("dashed ones perhaps");
  if (has("reused")) said.push("outlined ones came from storage");
  if (has("reuse")) said.push("outlined ones would come from storage");
  if (has("not run") || has("not needed")) said.push(`dotted ones were ${has("not run") ? "not run" : "not needed"}`);
  const told = said.join(", ");
  return told && told[0].toUpperCase() + told.slice(1) + ".";
}

const letters = (width) => Math.floor(width / 6.6);

function nodeBox(k, x, y, width, height) {
  const time = ran(k) ? duration(number("seconds", k)) : "";
  const group = svg("g", { class: `box ${states[k]}`, role: "button", "aria-label": `${fold(names[k], 200)}: ${fold(printable(actionOf(k)), 40)}` },
    svg("title", {}, `${fold(names[k], 400)}: ${fold(printable(actionOf(k)), 40)}`),
    svg("rect", { class: "frame", x, y, width, height, rx: 5 }),
    mark(states[k], x + 7, y + 6),
    svg("text", { x: x + 25, y: y + 16 }, fold(names[k], letters(width - 36 - time.length * 6.2))));
  if (time) group.append(svg("text", { class: "small", x: x + width - 7, y: y + 16, "text-anchor": "end" }, time));
  return group;
}

function groupBox(k, x, y, width, height) {
  const members = drawing.members[k], room = width - 20;
  const of = (state) => members.filter((i) => states[i] === state).length;
  const computed = of("computed"), failed = of("failed");
  const state = failed ? "failed" : computed ? "computed" : of("reused") ? "reused" : of("maybe") ? "maybe" : "not";
  const name = printable(drawing.names[k]), count = (failed ? `✕ ${whole(failed)} of ` : "") + whole(members.length);
  const told = `${fold(name, 200)}: ${plural(members.length, "node")}, ${whole(computed)} computed${failed ? `, ${whole(failed)} failed` : ""}`;
  const share = (part) => (part ? Math.max(4, (room * part) / members.length) : 0);
  const bad = share(failed), good = Math.min(room - bad, share(computed)), bar = { y: y + 28, height: 6, rx: 2 };
  return svg("g", { class: `box ${state}`, role: "button", "aria-label": told },
    svg("title", {}, told),
    svg("rect", { class: "frame", x, y, width, height, rx: 6 }),
    svg("text", { x: x + 10, y: y + 18 }, fold(name, letters(width - 28 - count.length * 6))),
    svg("text", { class: "small", x: x + width - 10, y: y + 18, "text-anchor": "end" }, count),
    svg("rect", { class: "part rest", x: x + 10, width: room, ...bar }),
    good > 0 && svg("rect", { class: "part", x: x + 10, width: good, ...bar }),
    bad > 0 && svg("rect", { class: "part failed", x: x + 10 + good, width: bad, ...bar }));
}

function fit() {
  if (!drawing) return;
  const [wide, high] = drawing.size, room = canvas.clientWidth || 1000, most = mostHeight();
  const scale = Math.min(1.15, Math.max(LEAST, Math.min((room - 32) / wide, (most - 36) / high)));
  const tall = Math.round(Math.max(100, Math.min(most, high * scale + 36)));
  canvas.style.height = tall + "px";
  // A drawing that is too large is seen from its beginning.
  const width = room / scale, height = tall / scale;
  look(wide + 20 > width ? -16 / scale : (wide - width) / 2, high + 20 > height ? -16 / scale : (high - height) / 2, width, height);
}

function zoom(factor, x = 0.5, y = 0.5) {
  look(seen[0] + seen[2] * x * (1 - factor), seen[1] + seen[3] * y * (1 - factor), seen[2] * factor, seen[3] * factor);
}

// Move a box into view.
function reveal(k) {
  const [x, y] = drawing.xy[k], [left, top, width, height] = seen, beside = Math.min(110, width / 3);
  if (x - beside < left || x + beside > left + width || y - 30 < top || y + 30 > top + height) {
    look(x - width / 2, y - height / 2, width, height);
  }
}

function paintGraph() {
  if (!drawing) return;
  const groups = drawing.members;
  boxes.forEach((box, k) => {
    const own = groups ? groups[k] : [k];
    box.classList.toggle("dim", !own.some(lit));
    box.classList.toggle("selected", own.includes(state.selected));
  });
  for (const { source, target, line } of edges) {
    const on = near && !groups && near.has(source) && near.has(target);
    line.classList.toggle("on", !!on);
    line.classList.toggle("dim", boxes[source].classList.contains("dim") || boxes[target].classList.contains("dim") || !!(near && !groups && !on));
  }
}

function choose(k, byKey) {
  if (!drawing.members) return select(k, byKey);
  narrow(drawing.members[k], printable(drawing.names[k]), byKey);
}

// The nearest box in the direction of an arrow key.
function neighbour(k, key) {
  const [x, y] = drawing.xy[k];
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let best = k, least = Infinity;
  drawing.xy.forEach(([a, b], other) => {
    const along = (a - x) * dx + (b - y) * dy, across = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
    const far = along + 2 * across;
    if (other !== k && along > 1 && far < least) { best = other; least = far; }
  });
  return best;
}

function focusBox(k) {
  boxes.forEach((box, other) => box.setAttribute("tabindex", other === k ? "0" : "-1"));
  reveal(k);
  boxes[k].focus({ preventScroll: true });
}

function startGraph() {
  const titles = Object.keys(D.views);
  if (!titles.length) return;
  $("graph").hidden = false;
  titles.forEach((title) => $("view").add(new Option(title, title)));
  // The first drawing that fits; the rest of a larger one would be out of sight.
  const fits = titles.find((title) => D.views[title].size[1] * LEAST < mostHeight() - 36);
  $("view").value = fits || titles[0];
  $("view").onchange = () => { drawGraph(); paintGraph(); };
  $("zoom-in").onclick = () => zoom(0.8);
  $("zoom-out").onclick = () => zoom(1.25);
  $("zoom-fit").onclick = fit;
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const place = canvas.getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.12 : 0.89, (event.clientX - place.x) / place.width, (event.clientY - place.y) / place.height);
  }, { passive: false });
  let drag = null, moved = false;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, seen }; moved = false; });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y, scale = drag.seen[2] / canvas.clientWidth;
    moved = moved || Math.abs(dx) + Math.abs(dy) > 5;
    if (!moved) return;
    canvas.classList.add("drag");
    look(drag.seen[0] - dx * scale, drag.seen[1] - dy * scale, drag.seen[2], drag.seen[3]);
  });
  const drop = () => { drag = null; canvas.classList.remove("drag"); };
  addEventListener("pointerup", drop);
  addEventListener("pointercancel", drop);
  canvas.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    if (moved) return;
    if (box) choose(Number(box.dataset.box), false);
    else if (state.selected >= 0) select(-1);
  });
  canvas.addEventListener("keydown", (event) => {
    const box = event.target.closest(".box");
    if (!box) return;
    const k = Number(box.dataset.box);
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(k, true); }
    if (event.key.startsWith("Arrow")) { event.preventDefault(); focusBox(neighbour(k, event.key)); }
  });
  drawGraph();
}
