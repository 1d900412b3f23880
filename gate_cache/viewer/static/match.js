// One point against other images: similarity as heat, the best match as a ring.
import { Latest, get, post } from "./api.js";
import { card, choosable, cover, element, frame, lay, mark, paint, say } from "./draw.js";
import { shown } from "./maps.js";
import { state, write } from "./state.js";

const grid = document.getElementById("targets");
const told = document.getElementById("told");
const asking = new Latest();
let turn = 0;
let cards = [];  // of the targets: frame, value, and what was found

export async function targets(go, choose) {
  const known = shown();
  if (!known) return;
  const mine = turn += 1;
  asking.stop();
  grid.inert = true;  // what is there belongs to what was chosen before
  const ids = state.near === "pinned" ? state.pins : (await get("others", {
    id: known.id, near: state.near, count: state.count, seed: state.seed })).ids ?? [];
  const infos = await Promise.all(ids.map((id) => get("image", { id })));
  if (shown() !== known || mine !== turn) return;
  grid.inert = false;
  const query = frame(known.size, `${known.id}: choose a point`);
  lay(query, known);
  choosable(query, () => state.point, choose);
  query.id = "query";
  cards = infos.filter((info) => !info.problem).map((info) => target(info, go));
  grid.replaceChildren(card(query, "query"), ...cards.map((c) => c.made));
  grid.classList.toggle("few", cards.length < 4);
  if (state.near === "pinned" && !cards.length) {
    grid.append(element("p", {}, "No image is pinned yet: open one and press “Pin”."));
  }
  await match();
}

function target(info, go) {
  const into = frame(info.size, info.id);
  into.classList.add("still");
  lay(into, info);
  const value = element("span", { class: "value" });
  const drop = state.near !== "pinned" ? [] : [element("button",
    { class: "drop", "aria-label": `Unpin ${info.id}`, onclick: () => go("", info.id) }, "×")];
  const name = element("button", { class: "name", title: `Go to ${info.id}`,
    onclick: () => go(info.id) }, element("bdi", {}, info.id));
  const made = element("figure", {}, into, element("figcaption", {}, name, value, ...drop));
  return { info, into, value, made };
}

export async function match() {
  const known = shown(), query = grid.querySelector("#query");
  if (!query || grid.inert) return;  // it comes once the targets are there
  mark(query, state.point, "cross");
  for (const each of cards) clear(each);
  await asking.run((signal) => state.point ? compare(known, signal) : prepare(known, signal));
}

async function compare(known, signal) {
  const [x, y] = state.point;
  const line = [...cards], began = cards;
  told.textContent = "…";
  const worker = async () => {
    for (let each = line.shift(); each; each = line.shift()) {
      const found = await post("match", { image: known.id, target: each.info.id, x, y,
        feature: state.feature }, signal);
      if (cards !== began) return;
      draw(each, found);
    }
  };
  await Promise.all([worker(), worker()]);
  summary();
}

// Nothing is clicked yet: read what a click will need.
async function prepare(known, signal) {
  const ids = [known.id, ...cards.map((c) => c.info.id)];
  for (const [i, id] of ids.entries()) {
    told.textContent = `Click a point in a picture (read ${i} of ${ids.length})`;
    await post("prepare", { image: id, feature: state.feature }, signal);
  }
  told.textContent = "Click a point in a picture";
}

function clear(each) {
  each.found = null;
  each.into.querySelector("canvas")?.remove();
  each.into.querySelector("p")?.remove();
  mark(each.into, null);
  each.value.textContent = "";
}

function draw(each, found) {
  if (found.problem || found.missing) {
    say(each.into, found.problem ?? "not extracted");
    return;
  }
  each.found = found;
  each.canvas = cover(each.into, found.tile, found.frame, state.opacity);
  mark(each.into, [found.x, found.y]);
  each.value.textContent = `${found.similarity.toFixed(2)} · ${Math.round(found.ms)} ms`;
  each.value.title = `similarity ${found.similarity.toFixed(4)}, ${found.ms} ms, `
    + (found.held ? "descriptors in memory" : "read from the store");
  each.into.setAttribute("aria-label", `${each.info.id}: best match, similarity `
    + `${found.similarity.toFixed(2)}, at ${Math.round(100 * found.x)} % and `
    + `${Math.round(100 * found.y)} %`);
  Object.assign(each.made.dataset, { x: found.x, y: found.y, similarity: found.similarity });
  rescale();
}

export function rescale() {
  const found = cards.filter((c) => c.found);
  const legend = document.getElementById("legend");
  legend.hidden = !found.length || state.scale !== "shared";
  if (!found.length) return;
  const low = Math.min(...found.map((c) => c.found.tile.low));
  const high = Math.max(...found.map((c) => c.found.tile.high));
  document.getElementById("low").textContent = low.toFixed(2);
  document.getElementById("high").textContent = high.toFixed(2);
  for (const { canvas, found: { tile } } of found) {
    if (state.scale === "shared") paint(canvas, tile, low, high);
    else paint(canvas, tile);
  }
}

export function fade() {
  for (const each of grid.querySelectorAll("canvas")) each.style.opacity = state.opacity;
}

function summary() {
  const found = cards.filter((c) => c.found);
  if (!found.length) {
    told.textContent = cards.length ? "no match" : "";
    return;
  }
  const mean = found.reduce((sum, c) => sum + c.found.ms, 0) / found.length;
  told.textContent = `${found.length} matches, ${mean.toFixed(0)} ms each`;
}

export function pin(id) {
  state.pins = state.pins.includes(id) ? state.pins.filter((p) => p !== id) : [...state.pins, id];
  write();
}
