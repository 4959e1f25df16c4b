// Zoom, selection and filters.

import { PIXELS, canvas, colourOf, colours, data, element, height, isShown, many, plot, pointAt, reach, redraw, resize, searchable, showThumbnail, state, tip, total, unit, view, width } from "./draw.js";

const MOST = 4000; // times the scale at which everything fits
const limit = (value) => Math.min(1.2, Math.max(-0.2, value));
const range = (values) => [Math.min(...values), Math.max(...values)];

function zoom(times, x = width / 2, y = height / 2) {
  const scale = Math.min(MOST, Math.max(0.5, view.scale * times));
  const size = unit();
  view.x += ((x - width / 2) / size) * (1 / view.scale - 1 / scale);
  view.y += ((y - height / 2) / size) * (1 / view.scale - 1 / scale);
  view.scale = scale;
  changed();
}
function pan(dx, dy) {
  view.x = limit(view.x - dx / (unit() * view.scale));
  view.y = limit(view.y - dy / (unit() * view.scale));
  changed();
}
function changed() {
  plot.dataset.scale = view.scale.toFixed(3);
  plot.dataset.centre = `${view.x.toFixed(4)} ${view.y.toFixed(4)}`;
  redraw();
}
/** Show some points, or everything. */
function fit(points) {
  const [left, right] = points ? range(points.map((i) => data.x[i] / PIXELS)) : [0, 1];
  const [top, bottom] = points ? range(points.map((i) => data.y[i] / PIXELS)) : [0, 1];
  view.x = (left + right) / 2;
  view.y = (top + bottom) / 2;
  view.scale = Math.min(12, 1 / Math.max(right - left, bottom - top, 1e-6));
  changed();
}

function setHover(i, x, y) {
  canvas.classList.toggle("pointing", i >= 0);
  tip.hidden = i < 0;
  if (i !== state.hover) {
    state.hover = i;
    redraw();
    if (i >= 0) {
      tip.querySelector(".name").textContent = nameOf(i);
      tip.querySelector(".of").textContent = many ? data.labels[data.label[i]] : "";
      showThumbnail(tip.querySelector("canvas"), i, Math.min(160, 2 * data.side));
    }
  }
  if (i >= 0) {
    const left = x + 16 + tip.offsetWidth > width ? x - 16 - tip.offsetWidth : x + 16;
    tip.style.left = `${Math.max(4, Math.min(left, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 16, height - tip.offsetHeight - 4))}px`;
  }
}
const nameOf = (i) => data.keys[i].slice(data.keys[i].lastIndexOf("/") + 1) || data.keys[i];

function select(i) {
  state.selected = i;
  element("selection").hidden = i < 0;
  if (i >= 0) {
    element("selection").querySelector(".name").textContent = data.keys[i];
    element("selection").querySelector(".of").textContent = many ? data.labels[data.label[i]] : "";
    const buttons = data.similar[i].map((other) => {
      const button = document.createElement("button");
      button.title = data.keys[other];
      button.setAttribute("aria-label", nameOf(other));
      const small = document.createElement("canvas");
      button.append(small);
      if (!data.shapes[other]) {
        button.append(nameOf(other));
      }
      button.style.borderColor = colourOf(other);
      button.addEventListener("click", () => select(other));
      return button;
    });
    element("similar").replaceChildren(...buttons);
    paintSelection();
    document.querySelector("aside").scrollTop = 0;
  }
  redraw();
}
function paintSelection() {
  if (state.selected >= 0) {
    showThumbnail(element("large"), state.selected, Math.min(220, Math.max(120, 2 * data.side)));
    element("similar")
      .querySelectorAll("canvas")
      .forEach((small, place) => showThumbnail(small, data.similar[state.selected][place], 88));
  }
}

// Pointers: drag to pan, two fingers to zoom, click or tap to select.
const pointers = new Map();
let moved = 0;
const position = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, position(event));
  moved = pointers.size > 1 ? Infinity : 0;
});
canvas.addEventListener("pointermove", (event) => {
  const now = position(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") {
      setHover(pointAt(...now, reach()), ...now);
    }
    return;
  }
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, now);
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (other) {
    const distance = (from) => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
    zoom(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  } else if (moved > 4) {
    canvas.classList.add("dragging");
    setHover(-1);
    pan(now[0] - before[0], now[1] - before[1]);
  }
});
canvas.addEventListener("pointerup", (event) => {
  if (pointers.delete(event.pointerId) && moved <= 4) {
    select(pointAt(...position(event), event.pointerType === "mouse" ? reach() : 28));
  }
  canvas.classList.remove("dragging");
});
canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
canvas.addEventListener("pointerleave", () => setHover(-1));
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...position(event));
  },
  { passive: false },
);
canvas.addEventListener("dblclick", (event) => zoom(2, ...position(event)));
canvas.addEventListener("keydown", (event) => {
  const step = 60;
  const actions = {
    ArrowLeft: () => pan(step, 0),
    ArrowRight: () => pan(-step, 0),
    ArrowUp: () => pan(0, step),
    ArrowDown: () => pan(0, -step),
    "+": () => zoom(1.5),
    "=": () => zoom(1.5),
    "-": () => zoom(1 / 1.5),
    0: () => fit(null),
  };
  if (actions[event.key] && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    actions[event.key]();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    select(-1);
  }
});
element("in").addEventListener("click", () => zoom(1.6));
element("out").addEventListener("click", () => zoom(1 / 1.6));
element("all").addEventListener("click", () => fit(null));
element("close").addEventListener("click", () => select(-1));
element("pictures").addEventListener("change", redraw);

// Filters: text and labels.
function filter() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  state.matches = words.length ? searchable.map((text) => words.every((word) => text.includes(word))) : null;
  const found = data.keys.reduce((count, _, i) => count + isShown(i), 0);
  const filtered = state.matches !== null || state.labels.size > 0;
  element("count").textContent = filtered ? `${found.toLocaleString("en")} of ${total.toLocaleString("en")} images` : "";
  element("clear").hidden = !state.labels.size;
  element("legend").classList.toggle("filtered", state.labels.size > 0);
  redraw();
}
element("search").addEventListener("input", (event) => {
  state.query = event.target.value;
  filter();
});
element("search").addEventListener("keydown", (event) => {
  const found = data.keys.map((_, i) => i).filter(isShown);
  if (event.key === "Enter" && found.length) {
    fit(found);
    if (found.length === 1) {
      select(found[0]);
    }
  }
});
const sizes = data.labels.map(() => 0);
for (const label of data.label) {
  sizes[label] += 1;
}
const entries = data.labels.map((name, label) => {
  const button = document.createElement("button");
  button.setAttribute("aria-pressed", "false");
  button.title = name;
  const [swatch, text, size] = ["i", "span", "small"].map((kind) => document.createElement(kind));
  swatch.style.background = colours[label];
  text.textContent = name || "(no label)";
  size.textContent = sizes[label].toLocaleString("en");
  button.append(swatch, text, size);
  button.addEventListener("click", () => {
    const pressed = state.labels.delete(label) ? "false" : "true";
    if (pressed === "true") {
      state.labels.add(label);
    }
    button.setAttribute("aria-pressed", pressed);
    filter();
  });
  return button;
});
element("labels").append(...entries);
element("legend").hidden = !many;
element("clear").addEventListener("click", () => {
  state.labels.clear();
  for (const button of entries) {
    button.setAttribute("aria-pressed", "false");
  }
  filter();
});

const left = data.left ? `, a random choice; ${data.left.toLocaleString("en")} are not shown` : "";
element("summary").textContent = `${total.toLocaleString("en")} images${left}. ${data.projection}.`;
document.querySelector(".check").hidden = data.side === 0;
resize();
changed();
new ResizeObserver(resize).observe(plot);
plot.addEventListener("thumbnails", paintSelection);
