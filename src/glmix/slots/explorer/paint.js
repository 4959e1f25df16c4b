// Painting on canvases: the image with a highlighted slot, outlines of slots, and the grid of all slots.

import { ACTIVE, colourOf } from "./colours.js";

const VEIL = [9, 10, 14];
const VEIL_ALPHA = 0.84;
const WARM = [[255, 190, 104], 0.16];
const COOL = [[40, 120, 230], 0.6];

const stamp = document.createElement("canvas");

/** Return a picture of a block's grid; `fill(bytes, at, n)` writes the colour of pixel n. The next call reuses it. */
function gridPicture(block, fill) {
  stamp.width = block.cols;
  stamp.height = block.rows;
  const context = stamp.getContext("2d", { willReadFrequently: true });
  const picture = context.createImageData(block.cols, block.rows);
  for (let n = 0; n < block.pixels; n++) fill(picture.data, 4 * n, n);
  context.putImageData(picture, 0, 0);
  return stamp;
}

function fit(context, picture, smooth) {
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, context.canvas.width, context.canvas.height);
}

/** Map a value to 0 to 1 on the scale; an empty range gives 1. */
export function level(value, scale) {
  if (scale.high <= scale.low) return 1;
  return Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
}

export function paintImage(context, image, pixelated) {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  fit(context, image, !pixelated);
}

/** Darken the image where `strengthAt(n)` is 0, and tint it in a warm colour at 1 and in a cool colour at -1. */
function paintLight(context, block, strengthAt) {
  const veil = gridPicture(block, (bytes, at, n) => {
    const strength = strengthAt(n);
    const [colour, most] = strength < 0 ? COOL : WARM;
    const dark = VEIL_ALPHA * (1 - Math.abs(strength));
    const glow = most * Math.abs(strength);
    for (let c = 0; c < 3; c++) bytes[at + c] = (VEIL[c] * dark + colour[c] * glow) / (dark + glow);
    bytes[at + 3] = 255 * (dark + glow);
  });
  fit(context, veil, block.scale !== null);
}

/** Highlight the pixels whose values are high on the scale. */
export function paintSpotlight(context, block, values, scale) {
  paintLight(context, block, (n) => level(values[n], scale));
}

/** Highlight the pixels whose values are far from zero: warm colours above zero, cool colours below. */
export function paintSigned(context, block, values) {
  const top = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  paintLight(context, block, (n) => values[n] / top);
}

/** Return the edges between pixels for which `inside(n)` differs, as a path in canvas pixels. */
function edges(block, canvas, inside) {
  const path = new Path2D();
  const across = canvas.width / block.cols;
  const down = canvas.height / block.rows;
  for (let r = 0; r < block.rows; r++) {
    for (let c = 0; c < block.cols; c++) {
      const n = r * block.cols + c;
      if (c + 1 < block.cols && inside(n) !== inside(n + 1)) {
        path.moveTo((c + 1) * across, r * down);
        path.lineTo((c + 1) * across, (r + 1) * down);
      }
      if (r + 1 < block.rows && inside(n) !== inside(n + block.cols)) {
        path.moveTo(c * across, (r + 1) * down);
        path.lineTo((c + 1) * across, (r + 1) * down);
      }
    }
  }
  return path;
}

/** Draw thin lines between the segments of the strongest slots. More effective slots per pixel give fainter lines. */
export function paintBoundaries(context, block) {
  const path = edges(block, context.canvas, (n) => block.strongest[n]);
  context.lineCap = "square";
  context.lineWidth = devicePixelRatio;
  const sure = 1 - (block.effectivePerPixel - 1) / Math.max(1, block.slots - 1);
  context.strokeStyle = `rgb(255 255 255 / ${0.12 + 0.38 * sure})`;
  context.stroke(path);
}

/** Draw an outline around the pixels whose strongest slot is `slot`. */
export function paintOutline(context, block, slot, colour = ACTIVE) {
  const path = edges(block, context.canvas, (n) => block.strongest[n] === slot);
  context.lineCap = "round";
  context.lineJoin = "round";
  const width = devicePixelRatio * Math.min(2, Math.max(1, context.canvas.width / block.cols / devicePixelRatio / 7));
  context.lineWidth = 2 * width;
  context.strokeStyle = "rgb(9 10 14 / 0.65)";
  context.stroke(path);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke(path);
}

/** Draw a letter on a disc at the position where a pinned slot is strongest. */
export function paintMark(context, place, letter, colour) {
  const radius = 9 * devicePixelRatio;
  const { width, height } = context.canvas;
  const x = Math.min(width - radius, Math.max(radius, place.x * width));
  const y = Math.min(height - radius, Math.max(radius, place.y * height));
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#111318";
  context.font = `600 ${11 * devicePixelRatio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(letter, x, y + 0.5 * devicePixelRatio);
}

/** Draw a cross at the position selected with the keyboard. */
export function paintCross(context, point) {
  const { width, height } = context.canvas;
  const reach = 10 * devicePixelRatio;
  const path = new Path2D();
  path.moveTo(point.x * width - reach, point.y * height);
  path.lineTo(point.x * width + reach, point.y * height);
  path.moveTo(point.x * width, point.y * height - reach);
  path.lineTo(point.x * width, point.y * height + reach);
  for (const [line, colour] of [[4, "rgb(9 10 14 / 0.7)"], [1.5, "#fff"]]) {
    context.lineWidth = line * devicePixelRatio;
    context.strokeStyle = colour;
    context.stroke(path);
  }
}

/** Return the box (x, y, width, height) of a slot in the slot grid on the canvas, with a gap between slots. */
export function cellBox(canvas, block, slot) {
  const [rows, cols] = block.slotGrid;
  const gap = Math.max(1, Math.round(2 * devicePixelRatio));
  const left = Math.round(((slot % cols) * canvas.width) / cols);
  const right = Math.round((((slot % cols) + 1) * canvas.width) / cols);
  const row = Math.floor(slot / cols);
  const top = Math.round((row * canvas.height) / rows);
  const bottom = Math.round(((row + 1) * canvas.height) / rows);
  return [left, top, right - left - gap, bottom - top - gap];
}

/** Draw a map in a box, with the colour map. */
export function paintMap(context, box, block, valueAt, scale) {
  const picture = gridPicture(block, (bytes, at, n) => {
    [bytes[at], bytes[at + 1], bytes[at + 2]] = colourOf(level(valueAt(n), scale));
    bytes[at + 3] = 255;
  });
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "medium";
  context.drawImage(picture, ...box);
}
