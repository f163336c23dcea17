// Elements and texts. All content is put in as text: names can be anything.
const $ = (id) => document.getElementById(id);

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== "" && child != null && child !== false));
  return node;
}
const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// As `printable` in Python: characters without a glyph are escaped.
const printable = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (char) => {
    const code = char.codePointAt(0), usual = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    return usual ? usual : code < 256 ? "\\x" + code.toString(16).padStart(2, "0")
      : code < 65536 ? "\\u" + code.toString(16).padStart(4, "0")
      : "\\U" + code.toString(16).padStart(8, "0");
  });

// Without the middle, because names differ at their ends.
function fold(text, most) {
  if (text.length <= most) return text;
  const letters = [...text];
  if (letters.length <= most) return text;
  const first = Math.floor(most * 0.42), last = most - first - 1;
  return most < 4 ? "" : letters.slice(0, first).join("") + "…" + letters.slice(letters.length - last).join("");
}

const whole = (number) => number.toLocaleString("en");
const plural = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
const lastPart = (text) => text.slice(text.lastIndexOf(".") + 1);

function duration(seconds) {
  if (!seconds) return "";
  if (seconds >= 3600) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds >= 9.95) return seconds.toFixed(0) + " s";
  if (seconds >= 0.9995) return seconds.toFixed(1) + " s";
  if (seconds >= 0.00995) return (seconds * 1000).toFixed(0) + " ms";
  return seconds >= 0.00095 ? (seconds * 1000).toFixed(1) + " ms" : "< 1 ms";
}

function size(count) {
  if (!count) return "";
  let value = count, unit = 0;
  while (value >= 999.5 && unit < 5) { value /= 1000; unit += 1; }
  return (unit && value < 99.95 ? value.toFixed(1) : value.toFixed(0)) + " " + ["B", "kB", "MB", "GB", "TB", "PB"][unit];
}

// A state has a shape of its own beside its colour and its word.
const STATES = {
  computed: "computed", compute: "computed", reused: "reused", reuse: "reused", stored: "reused",
  failed: "failed", maybe: "maybe",
};
// Actions and states by what somebody looks for first.
const RANK = ["failed", "computed", "compute", "maybe", "not run", "reused", "reuse", "stored", "not needed"];
const URGENT = ["failed", "computed", "maybe", "not", "reused"];
// An action in words, where they differ.
const told = (action, words) => (Object.hasOwn(words, action) ? words[action] : printable(action));
const stateOf = (action) => (Object.hasOwn(STATES, action) ? STATES[action] : "not");

function mark(state, x = 0, y = 0) {
  const box = { x: x + 1, y: y + 1, width: 10, height: 10, rx: 2.5, "stroke-width": 2 };
  if (state === "computed") return svg("rect", { ...box, fill: "var(--computed)", stroke: "var(--computed)" });
  if (state === "failed") {
    return svg("g", {},
      svg("circle", { cx: x + 6, cy: y + 6, r: 6.2, fill: "var(--failed)" }),
      svg("path", { d: `M${x + 3.4} ${y + 3.4}l5.2 5.2m0 -5.2l-5.2 5.2`, stroke: "var(--on)", "stroke-width": 1.8, fill: "none" }));
  }
  if (state === "maybe") {
    return svg("g", {},
      svg("rect", { ...box, fill: "none", stroke: "var(--computed)" }),
      svg("rect", { x: x + 2, y: y + 6, width: 8, height: 4, fill: "var(--computed)" }));
  }
  const dashes = state === "not" ? "2 2" : null;
  return svg("rect", { ...box, fill: "none", stroke: "var(--reused)", "stroke-dasharray": dashes });
}
const badge = (state) => svg("svg", { class: "mark", viewBox: "0 0 12 12", "aria-hidden": "true" }, mark(state));
