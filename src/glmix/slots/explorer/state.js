// The state of the page, and values derived from it. Everything on the page is drawn from this object.

export const MAX_PINS = 6;

export const state = {
  position: 0, // position of the slider: a block, or with two models the blocks at the same relative depth
  view: "assignment",
  ownScale: false,
  head: -1, // attention head; -1 for the mean of all heads
  label: null, // class whose evidence is shown; null for the most probable class of each model
  point: null, // selected position { x, y } from 0 to 1
  held: null, // { model, slot }: slot selected in the slot grid instead of the image
  cross: false, // show a cross, because the keyboard moves the selection
  pins: [], // { model, block, slot, colour }
};

/** Return the number of positions of the slider. */
export function positions(models) {
  return Math.max(...models.map((model) => model.blocks.length));
}

/** Return the position of the displayed block of a model; models of different depth share the relative depth. */
export function blockIndex(models, model) {
  const last = positions(models) - 1;
  const own = models[model].blocks.length - 1;
  return last === 0 ? 0 : Math.round((state.position * own) / last);
}

/** Return the selected slot of a model, or -1. */
export function focusedSlot(models, model) {
  if (state.point === null) return -1;
  if (state.held !== null && state.held.model === model) return state.held.slot;
  const block = models[model].blocks[blockIndex(models, model)];
  return block.strongest[block.pixelAt(state.point.x, state.point.y)];
}

/** Return the position of the selected class among a model's classes, -1 if it is missing; 0 if none is selected. */
export function classIndex(model) {
  const index = model.classes.findIndex((entry) => entry.label === state.label);
  return state.label !== null || model.classes.length === 0 ? index : 0;
}

export function pinIndex(model, block, slot) {
  return state.pins.findIndex((pin) => pin.model === model && pin.block === block && pin.slot === slot);
}

/** Return the values of a slot in the current view per pixel, and their scale; null if there are none. */
export function slotValues(block, slot) {
  if (state.view === "attention") {
    if (!block.attention) return null;
    const values = block.attendedPixels(slot, Math.min(state.head, block.heads - 1));
    return { values, scale: scaleOf(Math.min(...values), Math.max(...values), 1 / block.pixels) };
  }
  const rows = state.view === "clustering" ? block.clustering : block.assignment;
  return { values: rows.row(slot), scale: scaleOf(rows.low[slot], rows.high[slot], evenShare(block)) };
}

/** Return the uniform weight: 1 / number of pixels for clustering, 1 / number of slots otherwise. */
export function evenShare(block) {
  return state.view === "clustering" ? 1 / block.pixels : 1 / block.slots;
}

/** Return the own range of the values if selected; otherwise a scale from 0 to at least twice the uniform weight. */
export function scaleOf(low, high, even) {
  return state.ownScale ? { low, high } : { low: 0, high: Math.max(high, 2 * even) };
}
