// The panel of one model: its top predictions, and the grid of all slots with a colour scale.

import { PIN_COLOURS, colourOf, cssColour } from "./colours.js";
import { element, setText, sizedCanvas } from "./dom.js";
import { cellBox, level, paintMap } from "./paint.js";
import { blockIndex, classIndex, focusedSlot, pinIndex, evenShare, scaleOf, state } from "./state.js";
import { percent, pinLetter, signed, slotName, slotPlace } from "./words.js";

export class Panel {
  constructor(app, index) {
    this.app = app;
    this.index = index;
    this.model = app.models[index];
    this.rows = this.model.classes.map((entry) => this.classRow(entry));
    this.canvas = sizedCanvas({ "aria-hidden": "true" }, () => {
      this.drawn = null;
      app.draw();
    });
    this.cells = element("div", { class: "cells", role: "group", "aria-label": `Slots of ${this.model.name}` });
    this.cells.addEventListener("keydown", (event) => this.onKey(event));
    this.cells.addEventListener("pointerdown", (event) => (this.finger = event.pointerType === "touch"));
    this.sheet = element("div", { class: "sheet" }, this.canvas, this.cells);
    this.bar = element("div", { class: "bar" });
    this.low = element("span", {});
    this.high = element("span", {});
    this.legend = element("div", { class: "legend" }, this.low, this.bar, this.high);
    this.note = element("p", { class: "note" });
    this.root = element("section", { class: "panel", "aria-label": `Predictions and slots of ${this.model.name}` });
    if (app.models.length > 1) this.root.append(element("h2", { class: "model" }, this.model.name));
    if (this.rows.length > 0) {
      this.root.append(
        element("h3", {}, "Top predictions"),
        element("ul", { class: "classes" }, ...this.rows.map((row) => row.root)),
      );
    }
    this.root.append(element("h3", {}, "All slots"), this.sheet, this.legend, this.note);
    this.drawn = null;
  }

  classRow(entry) {
    const evidence = element("span", { class: "evidence" });
    const fill = element("span", { class: "fill" });
    fill.style.inlineSize = `${100 * entry.probability}%`;
    const button = element(
      "button",
      {
        type: "button",
        class: "class",
        title: "Show the evidence for this class",
        onclick: () => this.app.chooseClass(entry.label),
      },
      fill,
      element("span", { class: "label" }, entry.label),
      evidence,
      element("span", { class: "probability" }, percent(entry.probability, 0.01)),
    );
    return { root: element("li", {}, button), button, evidence };
  }

  /** Create one button per slot over the canvas. */
  makeCells(block) {
    const [rows, cols] = block.slotGrid;
    const { picture } = this.model;
    this.sheet.style.setProperty("--ratio", (cols * picture.width) / (rows * picture.height));
    this.cells.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${cols}, 1fr)`;
    this.buttons = Array.from({ length: block.slots }, (_, slot) =>
      element("button", {
        type: "button",
        tabindex: slot === 0 ? 0 : -1,
        onpointerenter: (event) => event.pointerType === "mouse" && this.hold(slot),
        onfocus: () => this.hold(slot),
        onclick: () => this.onClick(slot),
      }),
    );
    this.cells.replaceChildren(...this.buttons);
    this.grid = `${rows} ${cols}`;
    this.focused = 0;
  }

  hold(slot) {
    if (this.held(slot)) return;
    this.app.change({ point: this.block.peak(slot), held: { model: this.index, slot }, cross: false });
  }

  held(slot) {
    return state.held !== null && state.held.model === this.index && state.held.slot === slot;
  }

  onClick(slot) {
    this.hold(slot);
    if (!this.finger) this.app.togglePin(this.index);
  }

  onKey(event) {
    this.finger = false;
    const cols = this.block.slotGrid[1];
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.buttons[Math.min(this.buttons.length - 1, Math.max(0, this.focused + step))].focus();
  }

  get block() {
    return this.model.blocks[blockIndex(this.app.models, this.index)];
  }

  draw() {
    const { block } = this;
    const slot = focusedSlot(this.app.models, this.index);
    if (this.grid !== block.slotGrid.join(" ")) this.makeCells(block);
    const key = [
      block.index,
      state.position,
      state.view,
      state.ownScale,
      state.head,
      state.view === "evidence" ? classIndex(this.model) : "",
      state.view === "attention" ? slot : "",
      cssColour(0),
    ].join();
    if (this.drawn !== key && this.canvas.width > 1) {
      this.drawn = key;
      this.drawSheet(block, slot);
    }
    this.mark(block, slot);
    this.drawClasses(block, slot);
  }

  drawSheet(block, slot) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (state.view === "attention") this.drawAttention(context, block, slot);
    else if (state.view === "evidence") this.drawEvidence(context, block);
    else this.drawMaps(context, block);
  }

  drawMaps(context, block) {
    const rows = block[state.view];
    const sameGrid = this.app.panels.map((panel) => panel.block).filter(({ pixels }) => pixels === block.pixels);
    const shared = scaleOf(0, Math.max(...sameGrid.map((other) => other[state.view].top)), evenShare(block));
    for (let s = 0; s < block.slots; s++) {
      const scale = state.ownScale ? scaleOf(rows.low[s], rows.high[s]) : shared;
      paintMap(context, cellBox(this.canvas, block, s), block, (n) => rows.at(s, n), scale);
    }
    this.setLegend(
      state.ownScale ? ["minimum", "maximum of each slot"] : ["0", percent(shared.high)],
      [0, 1],
      state.ownScale
        ? "Each slot has its own scale: do not compare the brightness of slots."
        : `All slots${sameGrid.length > 1 ? " of both models" : ""} share one scale.`,
    );
  }

  drawAttention(context, block, slot) {
    const head = Math.min(state.head, block.heads - 1);
    if (!block.attention) return this.setLegend(null, [0, 1], "This block has no attention between slots.");
    const weights = slot < 0 ? block.receivedAttention(head) : block.attentionOf(slot, head);
    const scale = scaleOf(Math.min(...weights), Math.max(...weights), evenShare(block));
    this.fillCells(context, block, (s) => level(weights[s], scale));
    this.setLegend(
      [percent(scale.low), percent(scale.high)],
      [0, 1],
      slot < 0 ? "Mean attention weight that each slot receives." : `Attention weights from ${slotName(slot)} to each slot.`,
    );
  }

  drawEvidence(context, block) {
    const k = classIndex(this.model);
    if (!block.evidence || k < 0) return this.setLegend(null, [0, 1], "");
    const evidence = block.evidence[k];
    const top = Math.max(...evidence.map(Math.abs)) || 1;
    this.fillCells(context, block, (s) => evidence[s] / top);
    const { label } = this.model.classes[k];
    const relative = this.app.multiLabel ? "" : ", relative to the mean of all classes";
    this.setLegend([signed(-top), signed(top)], [-1, 1], `Evidence for \u201c${label}\u201d in logits${relative}.`);
  }

  fillCells(context, block, valueOf) {
    for (let s = 0; s < block.slots; s++) {
      context.fillStyle = cssColour(valueOf(s));
      context.fillRect(...cellBox(this.canvas, block, s));
    }
  }

  setLegend(ends, [from, to], note) {
    this.legend.hidden = ends === null;
    setText(this.note, note);
    if (ends === null) return;
    setText(this.low, ends[0]);
    setText(this.high, ends[1]);
    const stops = Array.from({ length: 17 }, (_, i) => `rgb(${colourOf(from + ((to - from) * i) / 16).join(" ")})`);
    this.bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }

  /** Draw frames around the selected slot and the pinned slots, and set the labels of all slots. */
  mark(block, slot) {
    const here = blockIndex(this.app.models, this.index);
    this.buttons.forEach((button, s) => {
      const pin = pinIndex(this.index, here, s);
      button.setAttribute("aria-label", `${slotName(s)}, ${slotPlace(block, s)}, ${percent(block.share[s])} of the image`);
      button.setAttribute("aria-pressed", pin >= 0);
      button.classList.toggle("active", s === slot);
      button.style.setProperty("--pin", pin < 0 ? "transparent" : PIN_COLOURS[state.pins[pin].colour]);
      button.dataset.pin = pin < 0 ? "" : pinLetter(pin);
    });
    if (slot >= 0 && slot !== this.focused) {
      this.buttons[this.focused].tabIndex = -1;
      this.buttons[slot].tabIndex = 0;
      this.focused = slot;
    }
  }

  drawClasses(block, slot) {
    const shown = classIndex(this.model);
    this.rows.forEach((row, k) => {
      const value = slot < 0 || !block.evidence ? null : block.evidence[k][slot];
      setText(row.evidence, value === null ? "" : signed(value));
      row.evidence.title = value === null ? "" : `Contribution of ${slotName(slot)} to this class`;
      row.evidence.classList.toggle("against", value !== null && value < 0);
      row.button.setAttribute("aria-pressed", state.view === "evidence" && k === shown);
    });
  }
}
