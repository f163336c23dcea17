// The timeline: a lane for each worker, or more where calls of one overlap.
const LANE = 24, LEFT = 92, RIGHT = 24;
let bars = [];

function lanesOf(list) {
  const lanes = [], ends = [];
  for (const i of list) {
    let lane = ends.findIndex((end) => end <= begun(i) + 1e-4);
    if (lane < 0) { lane = lanes.length; lanes.push([]); }
    lanes[lane].push(i);
    ends[lane] = begun(i) + number("seconds", i);
  }
  return lanes;
}

function ticks(end) {
  const raw = end / 7, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, k) => k * step);
}

function drawTimeline() {
  const all = [];
  for (let i = 0; i < N; i++) if (begun(i) !== null) all.push(i);
  if (!all.length) return;
  $("timeline").hidden = false;
  all.sort((a, b) => begun(a) - begun(b));
  // Clocks of workers differ: what seems to begin before the run is drawn at its start.
  const first = Math.min(0, begun(all[0]));
  let end = D.seconds || 0, work = 0;
  for (const i of all) { end = Math.max(end, begun(i) - first + number("seconds", i)); work += number("seconds", i); }
  end = end || 1;
  const workers = new Map();
  for (const i of all) {
    const worker = text("worker", i);
    if (!workers.has(worker)) workers.set(worker, []);
    workers.get(worker).push(i);
  }
  const rows = [];
  let count = 0;
  for (const [worker, list] of workers) {
    count += 1;
    lanesOf(list).forEach((lane, k) => rows.push({ label: k ? "" : `worker ${count}`, worker, lane }));
  }
  const high = rows.length > 60 ? 8 : rows.length > 16 ? 14 : LANE, bar = high > 14 ? high - 5 : high - 3;
  const lanes = $("lanes"), width = Math.max(lanes.parentNode.clientWidth || 1200, 320);
  const x = (time) => LEFT + (time / end) * (width - LEFT - RIGHT), bottom = rows.length * high + 14;
  const parts = [];
  const spare = Math.max(1, Math.ceil((ticks(end).length * 62) / (width - LEFT - RIGHT)));
  ticks(end).forEach((time, k) => {
    parts.push(svg("line", { class: "tick", x1: x(time), x2: x(time), y1: 8, y2: bottom }));
    if (k % spare) return;
    parts.push(svg("text", { x: x(time), y: bottom + 15, "text-anchor": "middle" }, time ? duration(time) : "0"));
  });
  bars = [];
  rows.forEach(({ label, worker, lane }, row) => {
    const y = row * high + 11, about = worker ? printable(worker) : "in the process of the run";
    if (label && high >= 14) parts.push(svg("text", { x: 16, y: y + bar / 2 + 4 }, svg("title", {}, about), label));
    for (const members of merged(lane, (i) => x(begun(i) - first), (i) => x(begun(i) - first + number("seconds", i)))) {
      parts.push(...barOf(members, y, bar, (i) => x(begun(i) - first), (i) => x(begun(i) - first + number("seconds", i))));
    }
  });
  // Above all bars, so that none hides the mark of a short call that failed.
  lanes.replaceChildren(...parts, ...bars.flatMap(({ sign }) => sign || []));
  lanes.setAttribute("viewBox", `0 0 ${width} ${bottom + 26}`);
  lanes.setAttribute("height", bottom + 26);
  const busy = D.seconds ? Math.min(100, Math.round((work / (D.seconds * workers.size)) * 100)) : 0;
  const who = workers.size === 1 ? "The worker was" : `${whole(workers.size)} workers were`;
  $("busy").textContent = D.seconds ? `${who} computing ${busy} % of the time.` : "";
}

// Bars that would be narrower than a pixel or two share one, so that their number has a limit.
function merged(lane, left, right) {
  const found = [];
  let last = null;
  for (const i of lane) {
    const tiny = right(i) - left(i) < 2;
    if (tiny && last && last.tiny && states[i] === states[last[0]] && left(i) - left(last[0]) < 3) last.push(i);
    else { last = [i]; last.tiny = tiny; found.push(last); }
  }
  return found;
}

function barOf(members, y, high, left, right) {
  const i = members[0], from = left(i), last = members[members.length - 1];
  const width = Math.max(2, right(last) - from - 1), sort = states[i] === "failed" ? "failed" : "computed";
  const about = members.length > 1 ? `${plural(members.length, "node")}, the first is ${fold(names[i], 200)}`
    : `${fold(names[i], 300)}: ${duration(number("seconds", i)) || "no time"}${sort === "failed" ? ", failed" : ""}`;
  const bar = svg("rect", { class: `bar ${sort}`, x: from.toFixed(1), y, width: width.toFixed(1), height: high, rx: Math.min(2.5, width / 2) }, svg("title", {}, about));
  const most = Math.floor((width - 10) / 5.9) - (sort === "failed" ? 2 : 0), short = most < 5 || high < 14;
  const sign = short && sort === "failed" && svg("g", { class: "bar sign" }, mark("failed", from + width / 2 - 6, y + high / 2 - 6), svg("title", {}, about));
  for (const part of [bar, sign]) if (part) part.dataset.bar = bars.length;
  bars.push({ bar, members, sign });
  if (short) return [bar];
  const label = (sort === "failed" ? "✕ " : "") + fold(names[i], most);
  return [bar, svg("text", { class: `inside ${sort}`, x: from + 6, y: y + 13.5 }, label)];
}

function paintTimeline() {
  for (const { bar, members, sign } of bars) {
    bar.classList.toggle("dim", !members.some(lit));
    bar.classList.toggle("selected", members.includes(state.selected));
    if (sign) sign.classList.toggle("dim", !members.some(lit));
  }
}

function startTimeline() {
  $("lanes").addEventListener("click", (event) => {
    const bar = event.target.closest(".bar");
    if (!bar) return;
    const { members } = bars[Number(bar.dataset.bar)];
    if (members.length === 1) select(members[0]);
    else narrow(members, "short calls", false);
  });
  drawTimeline();
}
