// The application: controls, keyboard input, and at most one redraw per frame.

import { PIN_COLOURS, onThemeChange } from "./colours.js";
import { decode } from "./decode.js";
import { element, setText } from "./dom.js";
import { Panel } from "./panel.js";
import { Pins } from "./pins.js";
import { Stage } from "./stage.js";
import { MAX_PINS, blockIndex, focusedSlot, pinIndex, positions, state } from "./state.js";
import { VIEWS, blockPosition, blockTitle, pinLetter, slotName } from "./words.js";

const find = (selector) => document.querySelector(selector);

class App {
  constructor(data) {
    Object.assign(this, data);
    this.waiting = false;
    this.stages = this.models.map((_, index) => new Stage(this, index));
    this.panels = this.models.map((_, index) => new Panel(this, index));
    find("#stages").append(...this.stages.map((stage) => stage.root));
    find("#panels").append(...this.panels.map((panel) => panel.root));
    document.body.classList.toggle("compare", this.models.length > 1);
    this.pins = new Pins(this);
    this.makeViews();
    this.makeDepth();
    this.makeHeads();
    find("#own").addEventListener("click", () => this.change({ ownScale: !state.ownScale }));
    addEventListener("keydown", (event) => this.onKey(event));
    onThemeChange(() => this.draw());
  }

  /** Update the state and redraw in the next frame. */
  change(update) {
    Object.assign(state, update);
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      for (const part of [...this.stages, ...this.panels, this.pins]) part.draw();
      this.drawControls();
    });
  }

  announce(text) {
    setText(find("#announce"), text);
  }

  makeViews() {
    this.viewButtons = Object.entries(VIEWS).map(([key, view]) =>
      element("button", { type: "button", "data-view": key, onclick: () => this.change({ view: key }) }, view.name),
    );
    const blocks = this.models.flatMap((model) => model.blocks);
    this.viewButtons[2].disabled = !blocks.some((block) => block.attention);
    this.viewButtons[3].disabled = !blocks.some((block) => block.evidence);
    find("#views").append(...this.viewButtons);
  }

  /** Create the slider, and above it a bar per block that shows the effective slots per pixel. */
  makeDepth() {
    this.slider = find("#depth");
    this.slider.max = positions(this.models) - 1;
    this.slider.addEventListener("input", () => this.goTo(Number(this.slider.value)));
    this.bars = Array.from({ length: positions(this.models) }, (_, position) => {
      const bars = this.models.map((model) => {
        const last = positions(this.models) - 1;
        const block = model.blocks[last === 0 ? 0 : Math.round((position * (model.blocks.length - 1)) / last)];
        const bar = element("i", {});
        bar.style.blockSize = `${Math.max(4, (100 * block.effectivePerPixel) / block.slots)}%`;
        return bar;
      });
      const place = element("span", { onclick: () => this.goTo(position) }, ...bars);
      place.style.setProperty("--at", positions(this.models) === 1 ? 0 : position / (positions(this.models) - 1));
      return place;
    });
    find("#bars").append(...this.bars);
    find("#previous").addEventListener("click", () => this.goTo(state.position - 1));
    find("#next").addEventListener("click", () => this.goTo(state.position + 1));
  }

  makeHeads() {
    this.heads = find("#head");
    const most = Math.max(...this.models.flatMap((model) => model.blocks.map((block) => block.heads)));
    const heads = Array.from({ length: most }, (_, head) => element("option", { value: head }, `head ${head}`));
    this.heads.append(element("option", { value: -1 }, "all heads"), ...heads);
    this.heads.addEventListener("change", () => this.change({ head: Number(this.heads.value) }));
  }

  drawControls() {
    for (const button of this.viewButtons) button.setAttribute("aria-pressed", button.dataset.view === state.view);
    setText(find("#what"), VIEWS[state.view].what);
    this.slider.value = state.position;
    const block = this.stages[0].block;
    this.slider.setAttribute("aria-valuetext", blockTitle(block));
    const all = this.models[0].blocks;
    setText(find("#where"), blockPosition(this.stages.map((stage) => stage.block), all[0], all.at(-1)));
    this.bars.forEach((bar, position) => bar.classList.toggle("here", position === state.position));
    find("#previous").disabled = state.position === 0;
    find("#next").disabled = state.position === this.bars.length - 1;
    find("#own").setAttribute("aria-pressed", state.ownScale);
    find("#own").disabled = state.view === "evidence";
    this.heads.hidden = state.view !== "attention";
    for (const option of this.heads.options) option.hidden = Number(option.value) >= block.heads;
  }

  /** Go to a block. The selected pixel stays, so the slot becomes the strongest slot of that pixel in the new block. */
  goTo(position) {
    const inside = Math.min(this.bars.length - 1, Math.max(0, position));
    if (inside === state.position) return;
    this.change({ position: inside, held: null });
    this.announce(blockTitle(this.stages[0].block));
  }

  chooseClass(label) {
    this.change(
      state.view === "evidence" && state.label === label ? { view: "assignment", label: null } : { view: "evidence", label },
    );
  }

  /** Pin the selected slot of a model, or remove its pin. */
  togglePin(model) {
    const slot = focusedSlot(this.models, model);
    if (slot < 0) return;
    const block = blockIndex(this.models, model);
    const index = pinIndex(model, block, slot);
    if (index >= 0) {
      this.removePin(index);
    } else if (state.pins.length === MAX_PINS) {
      this.announce(`At most ${MAX_PINS} slots can be pinned: remove a pin first.`);
    } else {
      const colour = PIN_COLOURS.findIndex((_, at) => state.pins.every((pin) => pin.colour !== at));
      this.change({ pins: [...state.pins, { model, block, slot, colour }] });
      this.announce(`Pinned ${slotName(slot)} as ${pinLetter(state.pins.length - 1)}.`);
    }
  }

  removePin(index) {
    this.change({ pins: state.pins.filter((_, at) => at !== index) });
    this.announce(`Removed pin ${pinLetter(index)}.`);
  }

  showPin(pin) {
    const last = this.bars.length - 1;
    const own = this.models[pin.model].blocks.length - 1;
    const position = own === 0 ? state.position : Math.round((pin.block * last) / own);
    const point = this.models[pin.model].blocks[pin.block].peak(pin.slot);
    this.change({ position, point, held: { model: pin.model, slot: pin.slot }, cross: false });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const views = Object.keys(VIEWS);
    const actions = {
      ArrowLeft: () => this.goTo(state.position - 1),
      ArrowRight: () => this.goTo(state.position + 1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.bars.length - 1),
      p: () => this.togglePin(state.held ? state.held.model : 0),
      o: () => this.change({ ownScale: !state.ownScale }),
      Escape: () => this.change({ point: null, held: null, cross: false }),
      "?": () => find("#help").toggleAttribute("open"),
    };
    views.forEach((_, index) => (actions[index + 1] = () => this.viewButtons[index].click()));
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

try {
  const app = new App(await decode(find("#data").textContent));
  app.draw();
} catch (error) {
  setText(find("#trouble"), `This page needs a browser of 2023 or later. (${error.message})`);
  find("#trouble").hidden = false;
}
