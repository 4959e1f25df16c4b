// Texts of the page: descriptions, names and number formats.

export const VIEWS = {
  assignment: {
    name: "Assignment",
    what: "Weight of the slot in each pixel. The weights of all slots in a pixel sum to 100\u202f%.",
  },
  clustering: {
    name: "Clustering",
    what: "Weight of each pixel in the slot. The weights of all pixels in a slot sum to 100\u202f%.",
  },
  attention: {
    name: "Attention",
    what: "Attention weights from the slot to all slots; in the image, the pixels of these slots.",
  },
  evidence: {
    name: "Evidence",
    what: "Contribution of each slot's pixels to a class: warm colours are positive, cool colours negative.",
  },
};

/** Format a fraction as a percentage with two or three digits and a non-breaking space before the sign. */
export function percent(share, least = 0.0001) {
  const value = 100 * share;
  if (value > 0 && value < least) return `<\u202f${least}\u202f%`;
  if (value > 0 && value < 0.1) return `${Number(value.toPrecision(2))}\u202f%`;
  const digits = value >= 99.95 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}\u202f%`;
}

/** Format a number with its sign, using a minus sign instead of a hyphen. */
export function signed(value) {
  const digits = Math.abs(value) >= 9.95 ? 1 : Math.abs(value) >= 0.0995 || value === 0 ? 2 : 3;
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "\u2212" : "+"}${text}`;
}

/** Format a fractional count such as 3.4. */
export function count(value) {
  return value.toFixed(value < 9.95 ? 1 : 0);
}

// Blocks, slots and heads are numbered from 0, as in Python; sizes are width × height.

export function slotName(slot) {
  return `slot ${slot}`;
}

/** Return the name of a block, with its index in the order of execution. */
export function blockName(block) {
  return `block ${block.index}`;
}

/** Return the index of a block and its name in the network. */
export function blockTitle(block) {
  return `Block ${block.index}, ${block.name}`;
}

/** Return the indices of the displayed blocks; for a single index, add the range of all blocks. */
export function blockPosition(blocks, first, last) {
  const numbers = [...new Set(blocks.map((block) => block.index))];
  if (numbers.length > 1) return `Blocks ${numbers.join(" and ")}`;
  const range = first === last ? "" : ` of ${first.index}\u2013${last.index}`;
  return `Block ${numbers[0]}${range}`;
}

/** Describe the view of the image and the size of the model input. */
export function inputSizeText(model) {
  return `The model sees the ${model.view} at ${model.size.width} \u00d7 ${model.size.height} pixels.`;
}

/** Return the position of a slot in the slot grid, which is also the position of its seed in the image. */
export function slotPlace(block, slot) {
  return `row ${Math.floor(slot / block.slotGrid[1])}, column ${slot % block.slotGrid[1]}`;
}

export function pinLetter(index) {
  return String.fromCharCode(65 + index);
}

/** Describe a block in one line. */
export function blockFacts(block) {
  const [rows, cols] = block.fullGrid;
  const shown = block.rows === rows ? "" : ` (shown ${block.cols} \u00d7 ${block.rows})`;
  const facts = [
    blockTitle(block),
    `${cols} \u00d7 ${rows} pixels${shown}, ${block.slotGrid[1]} \u00d7 ${block.slotGrid[0]} slots`,
    `${count(block.effectivePerPixel)} effective slots per pixel, ${count(block.effectivePerImage)} per image`,
  ];
  if (block.scale !== null) facts.push(`scale\u00a0${Number(block.scale.toPrecision(3))}`);
  return facts.join(" \u00b7 ");
}
