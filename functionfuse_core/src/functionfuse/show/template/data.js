// The data, and what is worked out from them once.
async function unpacked() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser can't unpack the list of nodes. It needs DecompressionStream, which Chrome and Edge have from version 80, Firefox from 113, Safari from 16.4.");
  }
  const letters = atob($("data").textContent), bytes = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

let D;
try {
  D = await unpacked();
} catch (error) {
  $("problem").textContent = String(error.message);
  return;
}
$("problem").textContent = "";

const C = D.columns, N = (C.name || []).length;
const number = (column, i) => (C[column] ? C[column][i] || 0 : 0);
const text = (column, i) => D.tables[column][number(column, i)] || "";
const names = Array.from(C.name || [], printable);
const actionOf = (i) => text("action", i);
const planned = ["compute", "maybe", "reuse"].some((action) => D.tables.action.includes(action));
const WORDS = { compute: "to compute", reuse: "to reuse" };
const wordOf = (i) => told(actionOf(i), WORDS);
const rankOf = (i) => (RANK.includes(actionOf(i)) ? RANK.indexOf(actionOf(i)) : RANK.length);
const states = Array.from({ length: N }, (_, i) => stateOf(actionOf(i)));
// The lines of an error are told in one.
const oneLine = (text) => text.split(/[\r\n]+/).map((line) => line.trim()).filter(Boolean).join(" · ");
const reasons = D.tables.reason.map(oneLine).map(printable), functions = D.tables.function.map(printable);
const types = D.tables.type.map(printable);
const reasonOf = (i) => reasons[number("reason", i)] || "";
const functionOf = (i) => functions[number("function", i)] || "";
const typeOf = (i) => types[number("type", i)] || "";
const begun = (i) => (C.begun && C.begun[i] != null ? C.begun[i] : null);
const ran = (i) => states[i] !== "reused" && number("seconds", i) > 0;
const timeOf = (i) => number("seconds", i) || number("cost", i);
const parents = C.parents || Array.from({ length: N }, () => []);
const children = Array.from({ length: N }, () => []);
parents.forEach((list, i) => list.forEach((parent) => children[parent].push(i)));
const previews = new Map(D.previews);
const numbers = new Map((C.name || []).map((name, i) => [name, i]));
const sought = names.map((name, i) =>
  `${name}\n${typeOf(i)}\n${reasonOf(i)}\n${functionOf(i)}\n${wordOf(i)}`.toLowerCase());

// By number where the name has half a character, which no address can have.
function address(i) {
  try {
    return "#node=" + encodeURIComponent(C.name[i]);
  } catch {
    return "#number=" + i;
  }
}
function addressed(hash) {
  const found = /^#(node|number)=(.*)$/.exec(hash);
  if (!found) return null;
  if (found[1] === "number") return /^\d+$/.test(found[2]) && found[2] < N ? Number(found[2]) : -1;
  try {
    return numbers.get(decodeURIComponent(found[2])) ?? -1;
  } catch {
    return -1;
  }
}
const nameLink = (i, most = 400) => el("a", { href: address(i), class: "name", "data-node": i }, fold(names[i], most));

// What is shown: the state of the whole page.
const state = { action: "", query: "", members: null, called: "", selected: -1, order: states.includes("failed") ? "action" : "place", down: 1, limit: 0 };

const matches = (i) =>
  (!state.action || actionOf(i) === state.action) && (!state.query || sought[i].includes(state.query));

function reach(start, next) {
  const seen = new Set([start]), waiting = [start];
  while (waiting.length) {
    for (const other of next[waiting.pop()]) if (!seen.has(other)) { seen.add(other); waiting.push(other); }
  }
  return seen;
}
let near = null; // the selected node, its ancestors and descendants
function findNear() {
  const i = state.selected;
  near = i < 0 ? null : new Set([...reach(i, parents), ...reach(i, children)]);
}
const lit = (i) => (!near || near.has(i)) && matches(i);
