// What the page says: explanations, names and numbers.

export const VIEWS = {
  assignment: {
    name: "Assignment",
    what: "How much each pixel takes from the slot. Over all slots, a pixel adds up to 100\u202f%.",
  },
  clustering: {
    name: "Clustering",
    what: "Which pixels the slot is made of. Over the image, its weights add up to 100\u202f%.",
  },
  attention: {
    name: "Attention",
    what: "Which slots it listens to; in the image, the pixels that they are made of.",
  },
  evidence: {
    name: "Evidence",
    what: "How much the pixels of each slot speak for a class, warm, or against it, cool.",
  },
};

/** A share as a percentage with two or three digits; the space before the sign does not break. */
export function percent(share, least = 0.0001) {
  const value = 100 * share;
  if (value > 0 && value < least) return `<\u202f${least}\u202f%`;
  if (value > 0 && value < 0.1) return `${Number(value.toPrecision(2))}\u202f%`;
  const digits = value >= 99.95 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}\u202f%`;
}

/** A number with its sign, a real minus and not a hyphen. */
export function signed(value) {
  const digits = Math.abs(value) >= 9.95 ? 1 : Math.abs(value) >= 0.0995 || value === 0 ? 2 : 3;
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "\u2212" : "+"}${text}`;
}

/** A count such as 3.4 of 64. */
export function count(value) {
  return value.toFixed(value < 9.95 ? 1 : 0);
}

// Blocks, slots and heads are numbered from 0, as in Python; sizes are width × height.

export function slotName(slot) {
  return `slot ${slot}`;
}

/** A block's number in the order of execution. */
export function blockName(block) {
  return `block ${block.index}`;
}

/** A block's number and its name in the network. */
export function blockTitle(block) {
  return `Block ${block.index}, ${block.name}`;
}

/** The numbers of the blocks that are shown, one for each model, and for one model the first and the last block. */
export function blockPosition(blocks, first, last) {
  const numbers = [...new Set(blocks.map((block) => block.index))];
  if (numbers.length > 1) return `Blocks ${numbers.join(" and ")}`;
  const range = first === last ? "" : ` of ${first.index}\u2013${last.index}`;
  return `Block ${numbers[0]}${range}`;
}

/** What part of the image the model was given, and at which size. */
export function seenBy(model) {
  return `The model sees the ${model.view} at ${model.size.width} \u00d7 ${model.size.height} pixels.`;
}

/** Where among the slots' grid a slot stands, which is where in the image it starts from. */
export function slotPlace(block, slot) {
  return `row ${Math.floor(slot / block.slotGrid[1])}, column ${slot % block.slotGrid[1]}`;
}

export function pinLetter(index) {
  return String.fromCharCode(65 + index);
}

/** What a block is, in one line. */
export function blockFacts(block) {
  const [rows, cols] = block.fullGrid;
  const shown = block.rows === rows ? "" : ` (shown ${block.cols} \u00d7 ${block.rows})`;
  const facts = [
    blockTitle(block),
    `${cols} \u00d7 ${rows} pixels${shown}, ${block.slotGrid[1]} \u00d7 ${block.slotGrid[0]} slots`,
    `${count(block.effectivePerPixel)} slots share a pixel, ${count(block.effectivePerImage)} the image`,
  ];
  if (block.scale !== null) facts.push(`scale\u00a0${Number(block.scale.toPrecision(3))}`);
  return facts.join(" \u00b7 ");
}
