// The graph: a box for each node, or for each group of nodes.
const canvas = $("canvas");
const LEAST = 0.9; // the least scale at which names can be read
const mostHeight = () => Math.max(320, Math.min(innerHeight * 0.62, 700));
let drawing = null, boxes = [], edges = [], seen = [0, 0, 1, 1];

function look(x, y, width, height) {
  seen = [x, y, width, height];
  canvas.setAttribute("viewBox", seen.map((part) => part.toFixed(1)).join(" "));
  const [wide, high] = drawing.size;
  $("beyond").hidden = x <= 0 && y <= 0 && x + width >= wide && y + height >= high;
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
  fit(false);
}

// What the shapes in this drawing mean.
function hint() {
  const has = (action) => D.tables.action.includes(action), said = [];
  if (has("stored")) return "Click a box to see its details.";
  if (drawing.members) {
    const maybe = has("maybe") ? ", the dashed part perhaps" : "";
    const left = has("not run") ? ", the dotted part was not run" : "";
    return `The filled part of a bar ${planned ? "would be" : "was"} computed${maybe}${left}. Click a box to list its nodes.`;
  }
  if (has("computed")) said.push("filled boxes were computed");
  if (has("compute")) said.push("filled boxes would be computed");
  if (has("maybe")) said.push("dashed ones perhaps");
  if (has("reused")) said.push("outlined ones came from storage");
  if (has("reuse")) said.push("outlined ones would come from storage");
  if (has("not run") || has("not needed")) said.push(`dotted ones were ${has("not run") ? "not run" : "not needed"}`);
  const joined = said.join(", ");
  return joined && joined[0].toUpperCase() + joined.slice(1) + ".";
}

const letters = (width) => Math.floor(width / 6.6);

function nodeBox(k, x, y, width, height) {
  const time = ran(k) ? duration(number("seconds", k)) : "";
  const group = svg("g", { class: `box ${states[k]}`, role: "button", "aria-label": `${fold(names[k], 200)}: ${fold(wordOf(k), 40)}` },
    svg("title", {}, `${fold(names[k], 400)}: ${fold(wordOf(k), 40)}`),
    svg("rect", { class: "frame", x, y, width, height, rx: 5 }),
    mark(states[k], x + 7, y + 6),
    svg("text", { x: x + 25, y: y + 16 }, fold(names[k], letters(width - 36 - time.length * 6.2))));
  if (time) group.append(svg("text", { class: "small", x: x + width - 7, y: y + 16, "text-anchor": "end" }, time));
  return group;
}

function groupBox(k, x, y, width, height) {
  const members = drawing.members[k], room = width - 20;
  const of = (state) => members.filter((i) => states[i] === state).length;
  const failed = of("failed"), state = URGENT.find(of);
  const name = printable(drawing.names[k]), count = (failed ? `✕ ${whole(failed)} of ` : "") + whole(members.length);
  const about = `${fold(name, 200)}: ${plural(members.length, "node")}, ${counted(members)}`;
  const bar = { y: y + 28, height: 6, rx: 2 }, parts = [];
  let from = x + 10;
  for (const part of URGENT.slice(0, -1)) {
    if (!of(part)) continue;
    const width = Math.min(x + 10 + room - from, Math.max(4, (room * of(part)) / members.length));
    parts.push(svg("rect", { class: `part ${part}`, x: from, width, ...bar }));
    from += width;
  }
  return svg("g", { class: `box ${state}`, role: "button", "aria-label": about },
    svg("title", {}, about),
    svg("rect", { class: "frame", x, y, width, height, rx: 6 }),
    svg("text", { x: x + 10, y: y + 18 }, fold(name, letters(width - 28 - count.length * 6))),
    svg("text", { class: "small", x: x + width - 10, y: y + 18, "text-anchor": "end" }, count),
    svg("rect", { class: "part rest", x: x + 10, width: room, ...bar }),
    parts);
}

// How many nodes have which action: "1 failed, 2 computed".
function counted(members) {
  const counts = new Map();
  for (const i of [...members].sort((a, b) => rankOf(a) - rankOf(b))) counts.set(actionOf(i), (counts.get(actionOf(i)) || 0) + 1);
  const would = { compute: "would be computed", reuse: "would be reused" };
  return [...counts].map(([action, count]) =>
    `${whole(count)} ${fold(told(action, would), 40)}`).join(", ");
}

// Without `all`, names stay readable, and a part of a large drawing is seen.
function fit(all) {
  if (!drawing) return;
  const [wide, high] = drawing.size, room = canvas.clientWidth || 1000, most = mostHeight();
  const scale = Math.min(1.15, Math.max(all ? 0 : LEAST, Math.min((room - 32) / wide, (most - 36) / high)));
  const tall = Math.round(Math.max(100, Math.min(most, high * scale + 36)));
  canvas.style.height = tall + "px";
  const width = room / scale, height = tall / scale;
  look(wide + 20 > width ? -16 / scale : (wide - width) / 2, high + 20 > height ? -16 / scale : (high - height) / 2, width, height);
  // A drawing that is too large is seen from its beginning, or where something happened.
  const place = boxes.findIndex((box) => box.matches(".failed")), other = boxes.findIndex((box) => box.matches(".computed"));
  if (place >= 0 || other >= 0) reveal(place >= 0 ? place : other);
}

function zoom(factor, x = 0.5, y = 0.5) {
  look(seen[0] + seen[2] * x * (1 - factor), seen[1] + seen[3] * y * (1 - factor), seen[2] * factor, seen[3] * factor);
}

// To the sides, as a wheel or a touchpad does; up and down, the page scrolls.
function scroll(event) {
  const [left, top, width, height] = seen, step = (event.deltaX || (event.shiftKey ? event.deltaY : 0)) * (width / canvas.clientWidth);
  const to = Math.max(Math.min(left, -16), Math.min(left + step, Math.max(left, drawing.size[0] + 16 - width)));
  if (Math.abs(to - left) < 0.1) return;
  event.preventDefault();
  look(to, top, width, height);
}

// Move a box into view.
function reveal(k) {
  const [x, y] = drawing.xy[k], [left, top, width, height] = seen, beside = Math.min(110, width / 3);
  if (x - beside < left || x + beside > left + width || y - 30 < top || y + 30 > top + height) {
    const within = (from, room, all) => Math.max(-16, Math.min(from, all + 16 - room));
    look(within(x - width / 2, width, drawing.size[0]), within(y - height / 2, height, drawing.size[1]), width, height);
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
  $("zoom-fit").onclick = () => fit(true);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return scroll(event);
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
