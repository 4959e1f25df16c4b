// The image of one model, with the selected slot highlighted and a description below.

import { ACTIVE, PIN_COLOURS } from "./colours.js";
import { element, setText, sizedCanvas } from "./dom.js";
import { paintBoundaries, paintCross, paintImage, paintMark, paintOutline, paintSigned, paintSpotlight } from "./paint.js";
import { blockIndex, classIndex, focusedSlot, pinIndex, slotValues, state } from "./state.js";
import { blockFacts, count, percent, pinLetter, inputSizeText, signed, slotName } from "./words.js";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const inside = (value) => Math.min(0.9999, Math.max(0, value));

/** Move a coordinate from 0 to 1 by a number of grid cells, to the centre of a cell. */
function cellsOn(value, steps, cells) {
  return (Math.min(cells - 1, Math.max(0, Math.floor(value * cells) + steps)) + 0.5) / cells;
}

export class Stage {
  constructor(app, index) {
    this.app = app;
    this.index = index;
    this.model = app.models[index];
    const { picture } = this.model;
    this.image = new Image(picture.width, picture.height);
    this.image.src = picture.uri;
    this.image.decode().then(() => app.draw());
    this.canvas = sizedCanvas(
      {
        tabindex: 0,
        role: "application",
        "aria-roledescription": "slot image",
        "aria-label": `${app.title}, model ${this.model.name}. Arrow keys move the selected pixel, Enter pins its slot.`,
        onpointermove: (event) => this.onPointer(event),
        onpointerdown: (event) => this.onPointer(event),
        onclick: () => this.onClick(),
        onmousedown: (event) => event.preventDefault(), // keep the focus, so that the arrow keys still change the block
        onkeydown: (event) => this.onKey(event),
        onblur: () => app.change({ cross: false }),
      },
      () => app.draw(),
    );
    this.facts = element("p", { class: "facts" });
    this.inputSize = element("p", { class: "input-size" }, inputSizeText(this.model));
    this.line = element("p", { class: "line" });
    this.pin = element("button", { type: "button", class: "quiet", onclick: () => app.togglePin(index) });
    this.frame = element("div", { class: "frame" }, this.canvas);
    this.root = element(
      "figure",
      { class: "stage", "aria-label": this.model.name },
      element("h2", { class: "model" }, this.model.name),
      this.frame,
      element("figcaption", {}, element("div", { class: "caption" }, this.line, this.pin), this.facts, this.inputSize),
    );
    this.root.style.setProperty("--ratio", picture.width / picture.height);
  }

  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: inside((event.clientX - box.left) / box.width), y: inside((event.clientY - box.top) / box.height) };
  }

  onPointer(event) {
    this.finger = event.pointerType === "touch";
    this.app.change({ point: this.placeOf(event), held: null, cross: false });
  }

  onClick() {
    if (!this.finger) this.app.togglePin(this.index); // on a touch screen, a tap only selects; the button pins
  }

  onKey(event) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.app.togglePin(this.index);
      return;
    }
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { block } = this;
    const from = state.point ?? { x: 0.5, y: 0.5 };
    const point = { x: cellsOn(from.x, step[0], block.cols), y: cellsOn(from.y, step[1], block.rows) };
    this.app.change({ point, held: null, cross: true });
    this.app.announce(this.sentence());
  }

  get block() {
    return this.model.blocks[blockIndex(this.app.models, this.index)];
  }

  get slot() {
    return focusedSlot(this.app.models, this.index);
  }

  draw() {
    const { block, slot } = this;
    const context = this.canvas.getContext("2d");
    paintImage(context, this.image, this.model.picture.pixelated);
    const found = this.paintView(context, block, slot);
    if (slot < 0 && found === null) paintBoundaries(context, block);
    const here = blockIndex(this.app.models, this.index);
    state.pins.forEach((pin, at) => {
      if (pin.model !== this.index || pin.block !== here) return;
      paintOutline(context, block, pin.slot, PIN_COLOURS[pin.colour]);
      paintMark(context, block.peak(pin.slot), pinLetter(at), PIN_COLOURS[pin.colour]);
    });
    if (slot >= 0 && pinIndex(this.index, here, slot) < 0) paintOutline(context, block, slot, ACTIVE);
    if (state.cross && state.point) paintCross(context, state.point);
    setText(this.facts, blockFacts(block));
    setText(this.line, this.sentence() + this.light(found));
    this.pin.hidden = slot < 0;
    setText(this.pin, pinIndex(this.index, here, slot) < 0 ? "Pin" : "Unpin");
    this.pin.setAttribute("aria-label", slot < 0 ? "Pin" : `${this.pin.textContent} ${slotName(slot)}`);
    this.root.dataset.slot = slot;
  }

  /** Paint the view of this slot, or of all slots, and return its values; null if there is nothing to paint. */
  paintView(context, block, slot) {
    if (state.view === "evidence") {
      const k = classIndex(this.model);
      if (!block.evidence || k < 0) return null;
      const values = block.evidencePixels(k);
      paintSigned(context, block, values);
      return { values, scale: null };
    }
    const found = slot < 0 ? null : slotValues(block, slot);
    if (found) paintSpotlight(context, block, found.values, found.scale);
    return found;
  }

  /** Describe which values full brightness and darkness represent. */
  light(found) {
    if (!found || !found.scale) return "";
    const dark = found.scale.low > 0 ? `, darkness is ${percent(found.scale.low)}` : "";
    return ` Full brightness is ${percent(found.scale.high)}${dark}.`;
  }

  /** Describe the selected slot. */
  sentence() {
    const { block, slot } = this;
    if (state.view === "attention" && !block.attention) return "This block has no attention between slots.";
    if (state.view === "evidence" && classIndex(this.model) < 0) {
      return `${state.label} is not among this model's top classes.`;
    }
    if (slot < 0) return "Point at the image or at a slot in the grid.";
    const name = `Slot ${slot}`;
    if (state.view === "attention") return `${name} attends most to ${this.topAttention(block, slot)}.`;
    if (state.view === "evidence") return `${name} contributes ${this.evidence(block, slot)}.`;
    if (state.view === "clustering") return `${name} is spread over about ${percent(block.extent[slot])} of the image.`;
    const n = block.pixelAt(state.point.x, state.point.y);
    const effective = `${count(block.effective.at(0, n))} effective slots`;
    const pixel = `${percent(block.assignment.at(slot, n))} of this pixel (${effective})`;
    return `${name} has ${percent(block.share[slot])} of the image and ${pixel}.`;
  }

  topAttention(block, slot) {
    const weights = block.attentionOf(slot, Math.min(state.head, block.heads - 1));
    const order = [...weights.keys()].toSorted((a, b) => weights[b] - weights[a]).slice(0, 3);
    return order.map((s) => `${s === slot ? "itself" : slotName(s)} (${percent(weights[s])})`).join(", ");
  }

  evidence(block, slot) {
    const k = classIndex(this.model);
    const all = block.evidence[k].reduce((sum, value) => sum + value, 0);
    return `${signed(block.evidence[k][slot])} to \u201c${this.model.classes[k].label}\u201d, all slots ${signed(all)}`;
  }
}
