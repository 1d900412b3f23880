// The list of images: only what is in sight is in the page, and asked for in parts.
import { Latest, get, picture } from "./api.js";
import { element } from "./draw.js";
import { state } from "./state.js";

const TALL = 46, SPARE = 4, PART = 100;
const box = document.getElementById("list");
const rows = document.getElementById("rows");
const asking = new Latest();
let total = 0, index = -1, q = "", ids = new Map(), coming = new Map();

export async function search(choose) {
  await asking.run(async (signal) => {
    const words = state.q;
    const found = await get("images", { q: words, id: state.image }, signal);
    if (found.problem) return;
    ({ total, index } = found);
    q = words;
    ids = new Map();
    coming = new Map();
    keep(0, found.ids);
    rows.style.height = `${Math.max(total, 1) * TALL}px`;
    document.getElementById("total").textContent = String(total);
    render(choose);
    reveal();
  });
}

export function listen(choose) {
  let waiting = false;
  box.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      render(choose);
    });
  });
  new ResizeObserver(() => render(choose)).observe(box);
}

// The image some steps before or after the one that is shown, in the list as it is searched.
export async function neighbour(step) {
  const wanted = index < 0 ? 0 : Math.min(Math.max(index + step, 0), total - 1);
  if (wanted === index || !total) return null;
  if (!ids.has(wanted)) await part(Math.floor(wanted / PART));
  return ids.get(wanted) ?? null;
}

export function current(choose) {
  for (const [i, id] of ids) if (id === state.image) index = i;
  if (ids.get(index) !== state.image) index = -1;
  render(choose);
  reveal();
}

export function first() {
  return ids.get(0) ?? null;
}

function reveal() {
  if (index < 0 || !box.clientHeight) return;
  const top = index * TALL;
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + TALL > box.scrollTop + box.clientHeight) box.scrollTop = top + TALL - box.clientHeight;
}

function keep(from, found) {
  found.forEach((id, i) => ids.set(from + i, id));
}

// Whether a part of the list came; one that did not is asked for again when it is next in sight.
function part(number) {
  if (!coming.has(number)) coming.set(number, ask(number));
  return coming.get(number);
}

async function ask(number) {
  const asked = coming, from = number * PART;
  const { ids: found = [] } = await get("images", { q, first: from });
  if (asked !== coming) return false; // another list by now
  keep(from, found);
  if (found.length >= Math.min(PART, total - from)) return true;
  coming.delete(number);
  return false;
}

function render(choose) {
  const from = Math.max(Math.floor(box.scrollTop / TALL) - SPARE, 0);
  const to = Math.min(Math.ceil((box.scrollTop + box.clientHeight) / TALL) + SPARE, total);
  const held = document.activeElement?.closest?.("#rows li")?.dataset.index;
  const old = new Map([...rows.children].map((row) => [row.dataset.id + row.dataset.index, row]));
  const shown = [];
  for (let i = from; i < to; i++) {
    if (!ids.has(i)) {
      part(Math.floor(i / PART)).then((came) => came && render(choose));
      i = (Math.floor(i / PART) + 1) * PART - 1;
      continue;
    }
    shown.push(old.get(ids.get(i) + i) ?? row(i, ids.get(i), choose));
  }
  for (const each of old.values()) if (!shown.includes(each)) each.remove();
  // A row that stays is not taken out: a press that began on it would not become a click.
  shown.forEach((each, i) => rows.children[i] !== each && rows.insertBefore(each, rows.children[i]));
  for (const each of shown) {
    const here = each.dataset.id === state.image;
    each.firstChild.setAttribute("aria-current", here);
    each.firstChild.tabIndex = here || (index < 0 && each === shown[0]) ? 0 : -1;
    if (each.dataset.index === held) each.firstChild.focus({ preventScroll: true });
  }
}

// An id may be broken after a slash and before its suffix.
function broken(id) {
  return id.split(/(?<=\/)|(?=\.[^./]*$)/).flatMap((part) => [part, document.createElement("wbr")]);
}

function row(i, id, choose) {
  const made = element("li", {}, element("button", { title: id, onclick: () => choose(id) },
    element("img", { src: picture(id, "thumb"), alt: "", loading: "lazy", decoding: "async" }),
    element("span", {}, ...broken(id))));
  made.style.top = `${i * TALL}px`;
  Object.assign(made.dataset, { index: i, id });
  return made;
}
