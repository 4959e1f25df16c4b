// The data of the page, and the map on its canvas.

export const element = (id) => document.getElementById(id);
export const data = JSON.parse(document.getElementById("data").textContent);
export const plot = element("plot");
export const canvas = plot.querySelector("canvas");
const context = canvas.getContext("2d");
export const tip = element("tip");
const dark = matchMedia("(prefers-color-scheme: dark)");
export const total = data.keys.length;
export const many = data.labels.length > 1;
// the folder of all images is not searched
const apart = data.keys.reduce((end, key) => {
  while (!key.startsWith(data.keys[0].slice(0, end))) {
    end = data.keys[0].lastIndexOf("/", end - 2) + 1;
  }
  return end;
}, data.keys[0].lastIndexOf("/") + 1);
export const searchable = data.keys.map((key, i) => `${key.slice(apart)}\n${data.labels[data.label[i]]}`.toLowerCase());
const MARGIN = 28;
export const PIXELS = 65535; // range of the coordinates in the data

export const view = { scale: 1, x: 0.5, y: 0.5 }; // the point (x, y) of the map, from 0 to 1, is in the centre
export const state = { hover: -1, selected: -1, labels: new Set(), query: "", matches: null };
export let width = 1;
export let height = 1;

// Colours: ten for the largest labels, then hues that differ as much as possible.
const PALETTE = ["#4c86d9", "#e0812b", "#3aa66a", "#cf4f63", "#8e6fd1", "#b98a2f", "#2fa5b5", "#d673b4", "#7c9a33", "#8a7768"];
export const colours = data.labels.map((_, i) => PALETTE[i] ?? `hsl(${Math.round((i * 137.508) % 360)} 50% ${i % 2 ? 45 : 60}%)`);
export const colourOf = (i) => colours[data.label[i]];
let theme = {};
const readTheme = () => {
  const style = getComputedStyle(document.documentElement);
  theme = Object.fromEntries(["ink", "faint", "raised", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
};

const sheets = data.sheets.map((uri) => {
  const image = new Image();
  image.addEventListener("load", () => {
    redraw();
    plot.dispatchEvent(new Event("thumbnails"));
  });
  image.src = uri;
  return image;
});

/** Draw the thumbnail of an image into a square of a 2-D context; return its width and height, or null. */
function drawThumbnail(to, i, left, top, side) {
  const shape = data.shapes[i];
  const perSheet = data.columns * data.columns;
  const sheet = sheets[Math.floor(i / perSheet)];
  if (!shape || !sheet?.complete) {
    return null;
  }
  const place = i % perSheet;
  const times = side / Math.max(...shape);
  const size = shape.map((length) => length * times);
  const at = [(place % data.columns) * data.side, Math.floor(place / data.columns) * data.side];
  to.drawImage(sheet, ...at, ...shape, left + (side - size[0]) / 2, top + (side - size[1]) / 2, ...size);
  return size;
}

/** Show a thumbnail in its own canvas, which is hidden if there is no thumbnail. */
export function showThumbnail(target, i, side) {
  const shape = data.shapes[i];
  target.hidden = !shape;
  if (!shape) {
    return;
  }
  const ratio = devicePixelRatio || 1;
  const times = side / Math.max(...shape);
  target.width = Math.round(shape[0] * times * ratio);
  target.height = Math.round(shape[1] * times * ratio);
  target.style.width = `${target.width / ratio}px`;
  const longest = Math.max(target.width, target.height);
  drawThumbnail(target.getContext("2d"), i, (target.width - longest) / 2, (target.height - longest) / 2, longest);
}

export const unit = () => Math.max(1, Math.min(width, height) - 2 * MARGIN);
const screenX = (i) => width / 2 + (data.x[i] / PIXELS - view.x) * unit() * view.scale;
const screenY = (i) => height / 2 + (data.y[i] / PIXELS - view.y) * unit() * view.scale;
export const isShown = (i) => (!state.labels.size || state.labels.has(data.label[i])) && (!state.matches || state.matches[i]);

let pending = false;
export function redraw() {
  if (!pending) {
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      draw();
    });
  }
}

function draw() {
  const ratio = devicePixelRatio || 1;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const shown = [];
  const rest = [];
  for (let i = 0; i < total; i++) {
    const [x, y] = [screenX(i), screenY(i)];
    if (x > -80 && y > -80 && x < width + 80 && y < height + 80) {
      (isShown(i) ? shown : rest).push(i);
    }
  }
  const radius = Math.min(7, Math.max(2.2, (90 / Math.sqrt(total)) * Math.min(2.5, Math.sqrt(view.scale))));
  context.globalAlpha = 1;
  context.fillStyle = theme.faint;
  dots(rest, radius * 0.8);
  // draw thumbnails if those of the visible points would cover less than half of the canvas
  const side = Math.min(84, Math.max(data.side, 48), Math.sqrt((width * height * 0.4) / Math.max(1, shown.length)));
  const pictures = element("pictures").checked && data.side > 0 && side >= 22;
  plot.dataset.pictures = pictures ? "1" : "0";
  plot.dataset.visible = shown.length;
  if (pictures) {
    for (const i of shown) {
      picture(i, side);
    }
  } else {
    const groups = new Map();
    for (const i of shown) {
      const colour = colourOf(i);
      groups.set(colour, groups.get(colour) ?? []);
      groups.get(colour).push(i);
    }
    context.globalAlpha = 0.85;
    for (const [colour, group] of groups) {
      context.fillStyle = colour;
      dots(group, radius);
    }
    context.globalAlpha = 1;
  }
  if (state.selected >= 0) {
    context.strokeStyle = theme.ink;
    context.lineWidth = 1;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (const other of data.similar[state.selected]) {
      context.moveTo(screenX(state.selected), screenY(state.selected));
      context.lineTo(screenX(other), screenY(other));
    }
    context.stroke();
    context.globalAlpha = 1;
    for (const other of data.similar[state.selected]) {
      ring(other, pictures ? 5 : radius + 2, 1.5, theme.ink);
    }
  }
  for (const i of new Set([state.hover, state.selected])) {
    if (i >= 0) {
      if (pictures) {
        picture(i, Math.max(side, 48) * 1.25);
      }
      ring(i, pictures ? 6 : radius + 3, 3, theme.accent);
    }
  }
}

function dots(points, radius) {
  context.beginPath();
  for (const i of points) {
    const [x, y] = [screenX(i), screenY(i)];
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }
  context.fill();
}

function picture(i, side) {
  const [x, y] = [screenX(i), screenY(i)];
  const size = drawThumbnail(context, i, x - side / 2, y - side / 2, side);
  context.fillStyle = colourOf(i);
  if (!size) {
    dots([i], 6);
    return;
  }
  context.strokeStyle = colourOf(i);
  context.lineWidth = 2;
  context.strokeRect(x - size[0] / 2, y - size[1] / 2, ...size);
}

function ring(i, radius, line, colour) {
  context.strokeStyle = colour;
  context.lineWidth = line;
  context.beginPath();
  context.arc(screenX(i), screenY(i), radius, 0, 2 * Math.PI);
  context.stroke();
}

/** Return the point nearest to a place on the canvas, or -1 if none is near. */
export function pointAt(x, y, reach) {
  let [best, distance] = [-1, reach * reach];
  for (let i = 0; i < total; i++) {
    const away = (screenX(i) - x) ** 2 + (screenY(i) - y) ** 2;
    if (away < distance && isShown(i)) {
      [best, distance] = [i, away];
    }
  }
  return best;
}
export const reach = () => (plot.dataset.pictures === "1" ? 42 : 14);

export function resize() {
  const ratio = devicePixelRatio || 1;
  [width, height] = [plot.clientWidth, plot.clientHeight];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  draw();
}

readTheme();
dark.addEventListener("change", () => {
  readTheme();
  redraw();
});
