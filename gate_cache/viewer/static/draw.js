// Pictures: an image, a map over it, a mark at a point. Maps cover the model's input, which may
// reach beyond the image or squash it; its `frame` says where it lies, as shares of the image's sides.
import { picture } from "./api.js";

let palette = new Uint8Array(768);

export function usePalette(packed) {
  palette = bytes(packed);
}

export function bytes(packed) {
  return Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Heat is drawn between two numbers, by default its own lowest and highest.
export function paint(canvas, tile, low = tile.low, high = tile.high) {
  const { width, height } = tile;
  Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height);
  const values = bytes(tile.rgb ?? tile.values);
  for (let i = 0; i < width * height; i++) {
    let colour = values.subarray(3 * i, 3 * i + 3);
    if (!tile.rgb) {
      const value = tile.low + (tile.high - tile.low) * values[i] / 255;
      const share = high > low ? (value - low) / (high - low) : 0;
      const at = 3 * Math.round(255 * Math.min(Math.max(share, 0), 1));
      colour = palette.subarray(at, at + 3);
    }
    pixels.data.set(colour, 4 * i);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

export function ramp(canvas) {
  const low = { width: 256, height: 1, low: 0, high: 1,
    values: btoa(String.fromCharCode(...Array(256).keys())) };
  paint(canvas, low);
}

export function frame([height, width], label) {
  const made = element("div", { class: "frame", "aria-label": label });
  made.style.aspectRatio = `${width} / ${height}`;
  return made;
}

// The image itself, or the map that stands in for it.
export function lay(into, { id, size, original }) {
  const cells = !original || Math.max(...size) <= 200 ? "cells" : "";
  into.append(element("img", { src: picture(id), alt: "", class: cells, decoding: "async" }));
}

export function cover(into, tile, frame, opacity = 1) {
  const canvas = element("canvas");
  const [left, top, width, height] = frame.map((share) => `${100 * share}%`);
  Object.assign(canvas.style, { left, top, width, height, opacity });
  paint(canvas, tile);
  into.append(canvas);
  return canvas;
}

export function say(into, text) {
  into.append(element("p", {}, text));
}

export function mark(into, point, kind = "") {
  into.querySelector(".mark")?.remove();
  if (!point) return;
  const made = element("span", { class: `mark ${kind}` });
  Object.assign(made.style, { left: `${100 * point[0]}%`, top: `${100 * point[1]}%` });
  into.append(made);
}

export function card(into, caption, ...more) {
  return element("figure", {}, into,
    element("figcaption", {}, element("span", { class: "name", title: caption }, caption), ...more));
}

// A frame in which a point is chosen, by pointer or by keys.
export function choosable(into, point, choose) {
  into.tabIndex = 0;
  into.setAttribute("role", "application");
  into.setAttribute("aria-roledescription", "picture");
  into.addEventListener("click", (event) => {
    const box = into.getBoundingClientRect();
    choose(bounded([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]));
  });
  into.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
      Enter: [0, 0] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const step = event.shiftKey ? 1 / 8 : 1 / 64;
    const [x, y] = point() ?? [0.5, 0.5];
    choose(bounded([x + step * way[0], y + step * way[1]]));
  });
}

function bounded(point) {
  return point.map((share) => Math.min(Math.max(share, 0), 1));
}
