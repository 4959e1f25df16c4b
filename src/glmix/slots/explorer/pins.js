// The pinned slots: a card with map and numbers for each, and a table of their similarity.

import { PIN_COLOURS } from "./colours.js";
import { element, sizedCanvas } from "./dom.js";
import { paintImage, paintOutline, paintSpotlight } from "./paint.js";
import { classIndex, slotValues, state } from "./state.js";
import { blockName, percent, pinLetter, signed, slotName } from "./words.js";

const SAMPLES = 48; // number of sample points per side at which slots of different grids are compared

export class Pins {
  constructor(app) {
    this.app = app;
    this.cards = element("div", { class: "cards" });
    this.similarity = element("div", { class: "similarity" });
    this.root = document.querySelector("#pins");
    this.root.append(this.cards, this.similarity);
    this.drawn = null;
  }

  draw() {
    const key = JSON.stringify([state.pins, state.view, state.ownScale, state.head, state.label]);
    if (this.drawn === key) return;
    this.drawn = key;
    this.root.hidden = state.pins.length === 0;
    this.cards.replaceChildren(...state.pins.map((pin, index) => this.card(pin, index)));
    const attention = state.view === "attention";
    const caption = attention
      ? "Attention weight from the slot of the row to the slot of the column, within one block"
      : "Overlap of two slots: intersection over union of their assignments";
    const table = () => [element("p", { class: "note" }, caption), this.table(caption, attention)];
    this.similarity.replaceChildren(...(state.pins.length > 1 ? table() : []));
  }

  blockOf(pin) {
    return this.app.models[pin.model].blocks[pin.block];
  }

  nameOf(pin) {
    const where = blockName(this.blockOf(pin));
    return this.app.models.length > 1 ? `${this.app.models[pin.model].name}, ${where}` : where;
  }

  card(pin, index) {
    const block = this.blockOf(pin);
    const model = this.app.models[pin.model];
    const canvas = sizedCanvas({ "aria-hidden": "true" }, () => this.paint(canvas, pin));
    canvas.style.aspectRatio = `${model.picture.width} / ${model.picture.height}`;
    const letter = pinLetter(index);
    const facts = [`${percent(block.share[pin.slot])} of the image`, `spread over ${percent(block.extent[pin.slot])}`];
    const k = classIndex(model);
    if (block.evidence && k >= 0) facts.push(`${signed(block.evidence[k][pin.slot])} to ${model.classes[k].label}`);
    const show = element(
      "button",
      {
        type: "button",
        class: "show",
        "aria-label": `Show pin ${letter}: ${slotName(pin.slot)}, ${this.nameOf(pin)}`,
        onclick: () => this.app.showPin(pin),
      },
      canvas,
      element("span", { class: "name" }, element("b", {}, letter), ` Slot ${pin.slot}`),
      element("span", { class: "where" }, this.nameOf(pin)),
      ...facts.map((fact) => element("span", { class: "fact" }, fact)),
    );
    const remove = element(
      "button",
      { type: "button", class: "remove", "aria-label": `Remove pin ${letter}`, onclick: () => this.app.removePin(index) },
      "\u00d7",
    );
    const card = element("article", { class: "card" }, show, remove);
    card.style.setProperty("--pin", PIN_COLOURS[pin.colour]);
    return card;
  }

  paint(canvas, pin) {
    const context = canvas.getContext("2d");
    const block = this.blockOf(pin);
    paintImage(context, this.app.stages[pin.model].image, this.app.models[pin.model].picture.pixelated);
    const found = slotValues(block, pin.slot);
    if (found) paintSpotlight(context, block, found.values, found.scale);
    paintOutline(context, block, pin.slot, PIN_COLOURS[pin.colour]);
  }

  /** Create a table of all pairs of pins: attention weights in the attention view, otherwise overlap. */
  table(caption, attention) {
    const letters = state.pins.map((_, index) => element("th", { scope: "col" }, pinLetter(index)));
    const rows = state.pins.map((from, index) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, pinLetter(index)),
        ...state.pins.map((to) => element("td", {}, attention ? this.attention(from, to) : this.overlap(from, to))),
      ),
    );
    return element(
      "table",
      { "aria-label": caption },
      element("thead", {}, element("tr", {}, element("td", {}), ...letters)),
      element("tbody", {}, ...rows),
    );
  }

  attention(from, to) {
    const block = this.blockOf(from);
    if (block !== this.blockOf(to) || !block.attention) return "\u2013";
    return percent(block.attentionOf(from.slot, Math.min(state.head, block.heads - 1))[to.slot]);
  }

  overlap(one, other) {
    if (one === other) return "\u2013";
    let shared = 0;
    let either = 0;
    for (let i = 0; i < SAMPLES ** 2; i++) {
      const x = ((i % SAMPLES) + 0.5) / SAMPLES;
      const y = (Math.floor(i / SAMPLES) + 0.5) / SAMPLES;
      const [a, b] = [one, other].map((pin) => {
        const block = this.blockOf(pin);
        return block.assignment.at(pin.slot, block.pixelAt(x, y));
      });
      shared += Math.min(a, b);
      either += Math.max(a, b);
    }
    return percent(either > 0 ? shared / either : 0);
  }
}
