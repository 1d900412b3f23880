// What the page shows, kept in the address: a link brings it back.

export const state = {
  image: "", show: "maps", level: "", depth: "", combos: [], attention: [], words: [],
  feature: "", point: null, near: "category", count: 6, seed: 0, pins: [], opacity: 0.5,
  scale: "shared", q: "",
};

const TEXTS = ["image", "show", "level", "depth", "feature", "near", "scale", "q"];
const LISTS = ["combos", "attention", "pins"];
const CHOICES = { show: ["maps", "attention"], near: ["category", "random", "pinned"],
  scale: ["shared", "each"] };
export const COUNTS = [4, 6, 8, 12, 24];

export function write() {
  const told = new URLSearchParams();
  for (const key of TEXTS) if (state[key]) told.set(key, state[key]);
  for (const key of LISTS) for (const value of state[key]) told.append(key, value);
  for (const word of state.words) told.append("words", word);
  if (state.point) told.set("point", state.point.map((share) => share.toFixed(4)).join(","));
  for (const key of ["count", "seed", "opacity"]) told.set(key, state[key]);
  history.replaceState(null, "", `#${told}`);
}

export function read() {
  const told = new URLSearchParams(location.hash.slice(1));
  for (const key of TEXTS) {
    const value = told.get(key);
    if (value !== null && (CHOICES[key] ?? [value]).includes(value)) state[key] = value;
  }
  for (const key of LISTS) if (told.has(key)) state[key] = told.getAll(key);
  if (told.has("words")) state.words = told.getAll("words").map(Number).filter(Number.isInteger);
  state.count = within(told.get("count"), COUNTS[0], COUNTS.at(-1), state.count);
  if (!COUNTS.includes(state.count)) state.count = 6;
  state.seed = Math.round(within(told.get("seed"), 0, 2 ** 31, state.seed));
  state.opacity = within(told.get("opacity"), 0, 1, state.opacity);
  const point = (told.get("point") ?? "").split(",").map(Number);
  state.point = point.length === 2 && point.every((v) => v >= 0 && v <= 1) ? point : null;
}

function within(text, low, high, otherwise) {
  const number = text === null || text === "" ? NaN : Number(text);
  return number >= low && number <= high ? number : otherwise;
}
