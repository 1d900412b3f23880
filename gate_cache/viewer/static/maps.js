// The chosen image beside its maps: principal components as colours, or attention by word.
import { Latest, get, post } from "./api.js";
import { card, choosable, cover, element, frame, lay, mark, say } from "./draw.js";
import { state } from "./state.js";

const tiles = document.getElementById("tiles");
const asking = new Latest();
let known = null;  // the image that is shown, with its size

export const shown = () => known;

export async function open(store) {
  const wanted = state.image;
  const found = await get("image", { id: wanted });
  if (wanted !== state.image) return null;
  if (found.problem) return found.problem;
  known = found;
  document.getElementById("image").textContent = known.id;
  const [height, width] = known.size;
  const missing = store.originals && !known.original;
  document.getElementById("size").textContent = `${width} × ${height} px`
    + (missing ? ", not as it was extracted: a map stands in" : "");
  return "";
}

export async function show(store, choose) {
  if (!known) return;
  const wanted = store.combos.filter((c) => state[c.kind === "conv" ? "combos" : "attention"]
    .includes(c.name) && (c.kind === "conv") === (state.show === "maps"));
  await asking.run(async (signal) => {
    const input = frame(known.size, `${known.id}: choose a point`);
    lay(input, known);
    input.id = "input";
    choosable(input, () => state.point, choose);
    const parts = [card(input, store.originals ? "image" : "map in its place")];
    const groups = wanted.map((combo) => group(combo, wanted.length > 1, choose));
    tiles.replaceChildren(...parts, ...groups.flatMap((g) => g.made));
    if (!wanted.length) tiles.append(element("p", {}, "Choose a combo above."));
    const count = groups.reduce((sum, g) => sum + g.cards.length, 1);
    tiles.classList.toggle("few", count <= 4);
    tiles.classList.toggle("levels", groups.some((g) => g.combo.kind === "conv"
      && g.levels.length > 1));
    marks();
    await Promise.all(groups.map((g) => fill(g, signal)));
  });
}

export function marks() {
  for (const each of tiles.querySelectorAll(".frame")) mark(each, state.point, "cross");
}

export function fade() {
  if (state.show !== "attention") return;
  for (const each of tiles.querySelectorAll("canvas")) each.style.opacity = state.opacity;
}

function levelsOf(combo) {
  const all = Object.keys(combo.maps);
  const level = combo.kind === "conv" ? state.level : state.depth;
  return all.includes(level) ? [level] : all;
}

// Cards of one combo, empty at first. One level is a card; all of them are a row with a title.
function group(combo, several, choose) {
  const levels = levelsOf(combo), conv = combo.kind === "conv";
  const tokens = conv ? [] : state.words.filter((t) => t < Object.values(combo.maps)[0][0]);
  const cards = [];
  for (const level of levels) {
    const [channels, height, width] = combo.maps[level];
    const size = `${width}×${height}`;
    for (const token of conv ? [-1] : tokens) {
      const word = conv ? "" : combo.tokens[token] ?? `token ${token}`;
      const name = conv ? (levels.length > 1 ? level : combo.name) : word;
      const value = conv ? (levels.length > 1 ? `${channels}×${size}` : level)
        : (levels.length > 1 ? `${level} ${size}` : level);
      const into = frame(known.size, `${combo.name} ${level} ${word}: choose a point`);
      choosable(into, () => state.point, choose);
      if (!conv) lay(into, known);
      cards.push({ into, made: card(into, name, element("span", { class: "value" }, value)) });
    }
  }
  const title = levels.length > 1 && conv || !conv && several;
  const made = cards.map((c) => c.made);
  return { combo, levels, tokens, cards,
    made: title ? [element("h3", {}, combo.name), ...made] : made };
}

async function fill({ combo, levels, tokens, cards }, signal) {
  if (!cards.length) return;
  const found = await post("maps", { image: known.id, combo: combo.name, maps: levels, tokens },
    signal);
  cards.forEach(({ into }, i) => {
    if (found.problem || found.missing) {
      into.querySelector("img")?.remove();
      say(into, found.problem ?? "not extracted");
      return;
    }
    const tile = found.tiles[i];
    cover(into, tile, found.frame, combo.kind === "conv" ? 1 : state.opacity);
    if (!tile.rgb) into.title = `from ${tile.low.toPrecision(2)} to ${tile.high.toPrecision(2)}`;
    mark(into, state.point, "cross");
  });
}
