// Wiring: controls to state, state to pictures, keys, and the address.
import { get } from "./api.js";
import { element, ramp, usePalette } from "./draw.js";
import * as list from "./list.js";
import * as maps from "./maps.js";
import * as match from "./match.js";
import { COUNTS, read, state, write } from "./state.js";

const at = (id) => document.getElementById(id);
let store = null;

async function start() {
  store = await get("store");
  if (store.problem) return note(store.problem);
  usePalette(store.palette);
  ramp(at("ramp"));
  document.title = `${store.name} – gate-cache view`;
  at("store").textContent = store.name;
  at("facts").textContent = `${store.dataset}, ${store.images} images, `
    + `${store.combos.length} combos`;
  listen();
  await load();
  window.addEventListener("hashchange", load);
}

// Everything from the address; what is not said or not there gets a default.
async function load() {
  if (!store.originals) state.opacity = 0.8;
  read();
  settle();
  controls();
  await list.search(choose);
  if (!state.image && list.first()) return choose(list.first());
  await openImage();
}

function settle() {
  const conv = named("conv"), attention = named("attention");
  state.combos = state.combos.filter((n) => conv.includes(n));
  state.attention = state.attention.filter((n) => attention.includes(n));
  if (!state.combos.length) state.combos = conv.slice(0, 8);
  if (!state.attention.length) state.attention = attention.slice(0, 1);
  if (!conv.length || (state.show === "attention" && !attention.length)) {
    state.show = conv.length ? "maps" : "attention";
  }
  if (![...levels("conv"), "all"].includes(state.level)) state.level = finest("conv");
  if (![...levels("attention"), "all"].includes(state.depth)) state.depth = finest("attention");
  if (!state.words.length) state.words = plainWords().slice(0, 8).map(([, i]) => i);
  const features = store.features.map((f) => f.name);
  if (!features.includes(state.feature)) {
    state.feature = features.findLast((n) => n.startsWith("run "))
      ?? features.find((n) => n === "mean") ?? features[0] ?? "";
  }
}

const named = (kind) => store.combos.filter((c) => c.kind === kind).map((c) => c.name);
const levels = (kind) => [...new Set(store.combos.filter((c) => c.kind === kind)
  .flatMap((c) => Object.keys(c.maps)))];

function finest(kind) {
  const sides = Object.fromEntries(store.combos.filter((c) => c.kind === kind)
    .flatMap((c) => Object.entries(c.maps).map(([name, shape]) => [name, shape[2]])));
  const most = Math.max(...Object.values(sides));
  return levels(kind).find((name) => sides[name] === most) ?? "all";
}

// The tokens of the first chosen attention combo; numbers where images have prompts of their own.
function prompt() {
  const combo = store.combos.find((c) => c.name === state.attention[0]);
  if (!combo) return [];
  const count = Object.values(combo.maps)[0][0];
  return Array.from({ length: count }, (_, i) => combo.tokens[i] ?? `token ${i}`);
}

function plainWords() {
  const words = prompt().map((word, i) => [word, i]);
  const real = words.filter(([word]) => /^[\p{L}]{3,}/u.test(word) && !word.startsWith("<|"));
  return real.length ? real : words;
}

// ---------------------------------------------------------------------------------- controls

function option(group, kind, value, label, on, change, extra = {}) {
  const input = element("input", { type: kind, name: group, value, onchange: change });
  input.checked = on;
  return element("label", extra, input, element("span", {}, label));
}

function options(id, kind, values, change) {
  const legend = at(id).querySelector("legend");
  at(id).replaceChildren(legend, ...values.map(([value, label, on, extra]) =>
    option(id, kind, value, label, on, change, extra)));
}

function controls() {
  const conv = state.show === "maps";
  const kinds = [["maps", "Maps", conv], ["attention", "Attention", !conv]];
  options("show", "radio", kinds.filter(([k]) => named(k === "maps" ? "conv" : k).length),
    (event) => update({ show: event.target.value }));
  const level = conv ? "level" : "depth";
  options("level", "radio", [...levels(conv ? "conv" : "attention"), "all"].map((name) =>
    [name, name, state[level] === name]), (event) => update({ [level]: event.target.value }));
  comboChips(conv ? "combos" : "attention", conv ? "conv" : "attention");
  at("tokens").hidden = conv;
  if (!conv) wordChips();
  options("near", "radio", [["category", "same category"], ["random", "random"],
    ["pinned", `pinned ${state.pins.length || ""}`]].map(([v, l]) => [v, l, state.near === v]),
  (event) => retarget({ near: event.target.value }));
  options("scale", "radio", [["shared", "shared", state.scale === "shared"],
    ["each", "own", state.scale === "each"]], (event) => {
    Object.assign(state, { scale: event.target.value });
    write();
    match.rescale();
  });
  at("feature").replaceChildren(...store.features.map((f) =>
    new Option(f.name === "mean" ? f.about : f.name, f.name, false, f.name === state.feature)));
  about();
  at("count").replaceChildren(...COUNTS.map((n) =>
    new Option(`${n} images`, n, false, n === state.count)));
  at("count").disabled = at("shuffle").disabled = state.near === "pinned";
  at("opacity").value = state.opacity;
  at("search").value = state.q;
  at("pin").setAttribute("aria-pressed", state.pins.includes(state.image));
  at("pin").textContent = state.pins.includes(state.image) ? "Pinned" : "Pin";
}

function about() {
  const feature = store.features.find((f) => f.name === state.feature);
  at("about").textContent = feature?.name.startsWith("run ") ? feature.about : "";
}

function comboChips(key, kind) {
  const combos = store.combos.filter((c) => c.kind === kind);
  options("combos", "checkbox", combos.map((c, i) => {
    const about = Object.entries(c.settings).map(([k, v]) => `${k}: ${JSON.stringify(v)}`);
    const title = [`${i < 9 ? `key ${i + 1}` : ""}`, ...about,
      `extracted for ${c.done} of ${store.images} images`].filter(Boolean).join("\n");
    return [c.name, c.name, state[key].includes(c.name), { title }];
  }), (event) => toggle(key, kind, event.target.value));
}

function toggle(key, kind, name) {
  const chosen = new Set(state[key]);
  if (!chosen.delete(name)) chosen.add(name);
  update({ [key]: named(kind).filter((n) => chosen.has(n)) });
}

function wordChips() {
  const plain = new Set(plainWords().map(([, i]) => i));
  const sought = at("word").value.trim().toLowerCase();
  const every = prompt().map((word, i) => [word, i]).filter(([word, i]) =>
    sought ? word.toLowerCase().includes(sought) : plain.has(i) || state.words.includes(i));
  options("words", "checkbox", every.map(([word, i]) => [i, word, state.words.includes(i),
    { title: `token ${i}`, class: plain.has(i) ? "" : "plain" }]), (event) => {
    const word = Number(event.target.value);
    const words = state.words.includes(word) ? state.words.filter((w) => w !== word)
      : [...state.words, word].sort((a, b) => a - b);
    update({ words });
  });
}

// ----------------------------------------------------------------------------------- changes

function update(changes) {
  Object.assign(state, changes);
  if ("attention" in changes) state.words = state.words.filter((w) => w < prompt().length);
  write();
  refocused(controls);
  return maps.show(store, point);
}

function retarget(changes) {
  Object.assign(state, changes);
  write();
  refocused(controls);
  return match.targets(go, point);
}

// Controls are made anew; whoever had the focus keeps it.
function refocused(work) {
  const { name, value, id } = document.activeElement ?? {};
  work();
  const again = name ? [...document.getElementsByName(name)].find((e) => e.value === value)
    : id ? at(id) : null;
  again?.focus({ preventScroll: true });
}

function point(chosen) {
  state.point = chosen;
  write();
  maps.marks();
  return match.match();
}

function choose(id) {
  if (state.image && id !== state.image) state.point = null;
  state.image = id;
  write();
  at("images").classList.remove("open");
  at("show-list").setAttribute("aria-expanded", false);
  return openImage();
}

async function openImage() {
  list.current(choose);
  const problem = await maps.open(store);
  if (problem === null) return undefined;  // another image is wanted by now
  note(problem || (store.originals ? "" : "The images are not here: maps stand in for them."));
  if (problem) return undefined;
  refocused(controls);
  await Promise.all([maps.show(store, point), match.targets(go, point)]);
}

// To an image; or with none, the list of pinned ones without `dropped`.
function go(id, dropped) {
  if (id) return choose(id);
  match.pin(dropped);
  return retarget({});
}

function pinned() {
  match.pin(state.image);
  refocused(controls);
  return state.near === "pinned" ? match.targets(go, point) : null;
}

async function step(by) {
  const id = await list.neighbour(by);
  if (id) await choose(id);
}

function note(text) {
  at("note").textContent = text;
}

function listen() {
  list.listen(choose);
  let pause = 0;
  at("search").addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => {
      state.q = at("search").value;
      write();
      list.search(choose);
    }, 150);
  });
  at("word").addEventListener("input", wordChips);
  at("before").addEventListener("click", () => step(-1));
  at("after").addEventListener("click", () => step(1));
  at("shuffle").addEventListener("click", () => retarget({ seed: state.seed + 1 }));
  at("pin").addEventListener("click", pinned);
  at("count").addEventListener("change", () => retarget({ count: Number(at("count").value) }));
  at("feature").addEventListener("change", () => {
    state.feature = at("feature").value;
    about();
    write();
    match.match();
  });
  at("opacity").addEventListener("input", () => {
    state.opacity = Number(at("opacity").value);
    write();
    match.fade();
    maps.fade();
  });
  at("show-list").addEventListener("click", () => {
    const open = at("images").classList.toggle("open");
    at("show-list").setAttribute("aria-expanded", open);
    if (open) list.current(choose);
  });
  document.addEventListener("keydown", keys);
}

function keys(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("select, input:not([type=radio]):not([type=checkbox])")) return;
  const arrows = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 };
  if (key in arrows && !target.matches("input")) step(arrows[key]);
  else if (/^[1-9]$/.test(key)) {
    const kind = state.show === "maps" ? "conv" : "attention";
    const name = named(kind)[key - 1];
    if (name) toggle(kind === "conv" ? "combos" : "attention", kind, name);
  } else if (key === "m" || key === "a") {
    const show = key === "m" ? "maps" : "attention";
    if (named(show === "maps" ? "conv" : "attention").length) update({ show });
  } else if (key === "p") pinned();
  else if (key === "r" && state.near !== "pinned") retarget({ seed: state.seed + 1 });
  else if (key === "/") at("search").focus();
  else return;
  event.preventDefault();
}

start();
