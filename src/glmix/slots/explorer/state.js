// What the person looks at, and what follows from it. Everything on the page is drawn from this one object.

export const MAX_PINS = 6;

export const state = {
  position: 0, // of the slider: a block, or with two models their blocks at the same depth
  view: "assignment",
  ownScale: false,
  head: -1, // of the attention; -1 for the mean of all
  label: null, // the class whose evidence is shown; null for each model's likeliest
  point: null, // { x, y } from 0 to 1
  held: null, // { model, slot }: pointed at in the sheet and not in the image
  cross: false, // the keyboard points
  pins: [], // { model, block, slot, colour }
};

/** How many places the slider has. */
export function positions(models) {
  return Math.max(...models.map((model) => model.blocks.length));
}

/** Which of a model's blocks is shown: models of other depths are taken at the same share of the way. */
export function blockIndex(models, model) {
  const last = positions(models) - 1;
  const own = models[model].blocks.length - 1;
  return last === 0 ? 0 : Math.round((state.position * own) / last);
}

/** The slot of a model that is pointed at, or -1. */
export function focusedSlot(models, model) {
  if (state.point === null) return -1;
  if (state.held !== null && state.held.model === model) return state.held.slot;
  const block = models[model].blocks[blockIndex(models, model)];
  return block.strongest[block.pixelAt(state.point.x, state.point.y)];
}

/** The place among a model's classes of the one that is shown: its likeliest, unless it knows the chosen one. */
export function classIndex(model) {
  const index = model.classes.findIndex((entry) => entry.label === state.label);
  return state.label !== null || model.classes.length === 0 ? index : 0;
}

export function pinIndex(model, block, slot) {
  return state.pins.findIndex((pin) => pin.model === model && pin.block === block && pin.slot === slot);
}

/** What a view shows of a slot over the pixels of a block, from dark to full light; null where there is nothing. */
export function slotValues(block, slot) {
  if (state.view === "attention") {
    if (!block.attention) return null;
    const values = block.listenedPixels(slot, Math.min(state.head, block.heads - 1));
    return { values, scale: scaleOf(Math.min(...values), Math.max(...values), 1 / block.pixels) };
  }
  const rows = state.view === "clustering" ? block.clustering : block.assignment;
  return { values: rows.row(slot), scale: scaleOf(rows.low[slot], rows.high[slot], evenShare(block)) };
}

/** What every slot has of a pixel, or every pixel of a slot, where nothing is told apart. */
export function evenShare(block) {
  return state.view === "clustering" ? 1 / block.pixels : 1 / block.slots;
}

/** Values' own range where that is asked for; otherwise from zero, and to no less than twice an even share. */
export function scaleOf(low, high, even) {
  return state.ownScale ? { low, high } : { low: 0, high: Math.max(high, 2 * even) };
}
