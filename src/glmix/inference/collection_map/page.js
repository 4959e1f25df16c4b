"use strict";

const element = (id) => document.getElementById(id);
const limit = (value) => Math.min(1.2, Math.max(-0.2, value));
const range = (values) => [Math.min(...values), Math.max(...values)];

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const plot = element("plot");
  const canvas = plot.querySelector("canvas");
  const context = canvas.getContext("2d");
  const tip = element("tip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const total = data.keys.length;
  const many = data.labels.length > 1;
  // the folder of all images is not searched
  const apart = data.keys.reduce((end, key) => {
    while (!key.startsWith(data.keys[0].slice(0, end))) {
      end = data.keys[0].lastIndexOf("/", end - 2) + 1;
    }
    return end;
  }, data.keys[0].lastIndexOf("/") + 1);
  const searchable = data.keys.map((key, i) => `${key.slice(apart)}\n${data.labels[data.label[i]]}`.toLowerCase());
  const MARGIN = 28;
  const MOST = 4000; // times the scale at which everything fits
  const PIXELS = 65535; // range of the coordinates in the data

  const view = { scale: 1, x: 0.5, y: 0.5 }; // the point (x, y) of the map, from 0 to 1, is in the centre
  const state = { hover: -1, selected: -1, labels: new Set(), query: "", matches: null };
  let width = 1;
  let height = 1;

  // Colours: ten for the largest labels, then hues that differ as much as possible.
  const PALETTE = ["#4c86d9", "#e0812b", "#3aa66a", "#cf4f63", "#8e6fd1", "#b98a2f", "#2fa5b5", "#d673b4", "#7c9a33", "#8a7768"];
  const colours = data.labels.map((_, i) => PALETTE[i] ?? `hsl(${Math.round((i * 137.508) % 360)} 50% ${i % 2 ? 45 : 60}%)`);
  const colourOf = (i) => colours[data.label[i]];
  let theme = {};
  const readTheme = () => {
    const style = getComputedStyle(document.documentElement);
    theme = Object.fromEntries(["ink", "faint", "raised", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
  };

  const sheets = data.sheets.map((uri) => {
    const image = new Image();
    image.addEventListener("load", () => {
      redraw();
      paintSelection();
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

  /** Show a thumbnail in a canvas of its own, which is hidden if there is none. */
  function showThumbnail(target, i, side) {
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

  const unit = () => Math.max(1, Math.min(width, height) - 2 * MARGIN);
  const screenX = (i) => width / 2 + (data.x[i] / PIXELS - view.x) * unit() * view.scale;
  const screenY = (i) => height / 2 + (data.y[i] / PIXELS - view.y) * unit() * view.scale;
  const isShown = (i) => (!state.labels.size || state.labels.has(data.label[i])) && (!state.matches || state.matches[i]);

  let pending = false;
  function redraw() {
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
    // thumbnails have room if the points in sight would cover less than half of the canvas
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
  function pointAt(x, y, reach) {
    let [best, distance] = [-1, reach * reach];
    for (let i = 0; i < total; i++) {
      const away = (screenX(i) - x) ** 2 + (screenY(i) - y) ** 2;
      if (away < distance && isShown(i)) {
        [best, distance] = [i, away];
      }
    }
    return best;
  }
  const reach = () => (plot.dataset.pictures === "1" ? 42 : 14);

  function zoom(times, x = width / 2, y = height / 2) {
    const scale = Math.min(MOST, Math.max(0.5, view.scale * times));
    const size = unit();
    view.x += ((x - width / 2) / size) * (1 / view.scale - 1 / scale);
    view.y += ((y - height / 2) / size) * (1 / view.scale - 1 / scale);
    view.scale = scale;
    changed();
  }
  function pan(dx, dy) {
    view.x = limit(view.x - dx / (unit() * view.scale));
    view.y = limit(view.y - dy / (unit() * view.scale));
    changed();
  }
  function changed() {
    plot.dataset.scale = view.scale.toFixed(3);
    plot.dataset.centre = `${view.x.toFixed(4)} ${view.y.toFixed(4)}`;
    redraw();
  }
  /** Show some points, or everything. */
  function fit(points) {
    const [left, right] = points ? range(points.map((i) => data.x[i] / PIXELS)) : [0, 1];
    const [top, bottom] = points ? range(points.map((i) => data.y[i] / PIXELS)) : [0, 1];
    view.x = (left + right) / 2;
    view.y = (top + bottom) / 2;
    view.scale = Math.min(12, 1 / Math.max(right - left, bottom - top, 1e-6));
    changed();
  }

  function setHover(i, x, y) {
    canvas.classList.toggle("pointing", i >= 0);
    tip.hidden = i < 0;
    if (i !== state.hover) {
      state.hover = i;
      redraw();
      if (i >= 0) {
        tip.querySelector(".name").textContent = nameOf(i);
        tip.querySelector(".of").textContent = many ? data.labels[data.label[i]] : "";
        showThumbnail(tip.querySelector("canvas"), i, Math.min(160, 2 * data.side));
      }
    }
    if (i >= 0) {
      const left = x + 16 + tip.offsetWidth > width ? x - 16 - tip.offsetWidth : x + 16;
      tip.style.left = `${Math.max(4, Math.min(left, width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${Math.max(4, Math.min(y + 16, height - tip.offsetHeight - 4))}px`;
    }
  }
  const nameOf = (i) => data.keys[i].slice(data.keys[i].lastIndexOf("/") + 1) || data.keys[i];

  function select(i) {
    state.selected = i;
    element("selection").hidden = i < 0;
    if (i >= 0) {
      element("selection").querySelector(".name").textContent = data.keys[i];
      element("selection").querySelector(".of").textContent = many ? data.labels[data.label[i]] : "";
      const buttons = data.similar[i].map((other) => {
        const button = document.createElement("button");
        button.title = data.keys[other];
        button.setAttribute("aria-label", nameOf(other));
        const small = document.createElement("canvas");
        button.append(small);
        if (!data.shapes[other]) {
          button.append(nameOf(other));
        }
        button.style.borderColor = colourOf(other);
        button.addEventListener("click", () => select(other));
        return button;
      });
      element("similar").replaceChildren(...buttons);
      paintSelection();
      document.querySelector("aside").scrollTop = 0;
    }
    redraw();
  }
  function paintSelection() {
    if (state.selected >= 0) {
      showThumbnail(element("large"), state.selected, Math.min(220, Math.max(120, 2 * data.side)));
      element("similar")
        .querySelectorAll("canvas")
        .forEach((small, place) => showThumbnail(small, data.similar[state.selected][place], 88));
    }
  }

  // Pointers: drag to pan, two fingers to zoom, click or tap to select.
  const pointers = new Map();
  let moved = 0;
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
    moved = pointers.size > 1 ? Infinity : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = position(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") {
        setHover(pointAt(...now, reach()), ...now);
      }
      return;
    }
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (other) {
      const distance = (from) => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
      zoom(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    } else if (moved > 4) {
      canvas.classList.add("dragging");
      setHover(-1);
      pan(now[0] - before[0], now[1] - before[1]);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (pointers.delete(event.pointerId) && moved <= 4) {
      select(pointAt(...position(event), event.pointerType === "mouse" ? reach() : 28));
    }
    canvas.classList.remove("dragging");
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => setHover(-1));
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...position(event));
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => zoom(2, ...position(event)));
  canvas.addEventListener("keydown", (event) => {
    const step = 60;
    const actions = {
      ArrowLeft: () => pan(step, 0),
      ArrowRight: () => pan(-step, 0),
      ArrowUp: () => pan(0, step),
      ArrowDown: () => pan(0, -step),
      "+": () => zoom(1.5),
      "=": () => zoom(1.5),
      "-": () => zoom(1 / 1.5),
      0: () => fit(null),
    };
    if (actions[event.key] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      actions[event.key]();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      select(-1);
    }
  });
  element("in").addEventListener("click", () => zoom(1.6));
  element("out").addEventListener("click", () => zoom(1 / 1.6));
  element("all").addEventListener("click", () => fit(null));
  element("close").addEventListener("click", () => select(-1));
  element("pictures").addEventListener("change", redraw);

  // Filters: text and labels.
  function filter() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    state.matches = words.length ? searchable.map((text) => words.every((word) => text.includes(word))) : null;
    const found = data.keys.reduce((count, _, i) => count + isShown(i), 0);
    const filtered = state.matches !== null || state.labels.size > 0;
    element("count").textContent = filtered ? `${found.toLocaleString("en")} of ${total.toLocaleString("en")} images` : "";
    element("clear").hidden = !state.labels.size;
    element("legend").classList.toggle("filtered", state.labels.size > 0);
    redraw();
  }
  element("search").addEventListener("input", (event) => {
    state.query = event.target.value;
    filter();
  });
  element("search").addEventListener("keydown", (event) => {
    const found = data.keys.map((_, i) => i).filter(isShown);
    if (event.key === "Enter" && found.length) {
      fit(found);
      if (found.length === 1) {
        select(found[0]);
      }
    }
  });
  const sizes = data.labels.map(() => 0);
  for (const label of data.label) {
    sizes[label] += 1;
  }
  const entries = data.labels.map((name, label) => {
    const button = document.createElement("button");
    button.setAttribute("aria-pressed", "false");
    button.title = name;
    const [swatch, text, size] = ["i", "span", "small"].map((kind) => document.createElement(kind));
    swatch.style.background = colours[label];
    text.textContent = name || "(no label)";
    size.textContent = sizes[label].toLocaleString("en");
    button.append(swatch, text, size);
    button.addEventListener("click", () => {
      const pressed = state.labels.delete(label) ? "false" : "true";
      if (pressed === "true") {
        state.labels.add(label);
      }
      button.setAttribute("aria-pressed", pressed);
      filter();
    });
    return button;
  });
  element("labels").append(...entries);
  element("legend").hidden = !many;
  element("clear").addEventListener("click", () => {
    state.labels.clear();
    for (const button of entries) {
      button.setAttribute("aria-pressed", "false");
    }
    filter();
  });

  const left = data.left ? `, a random choice; ${data.left.toLocaleString("en")} are not shown` : "";
  element("summary").textContent = `${total.toLocaleString("en")} images${left}. ${data.projection}.`;
  document.querySelector(".check").hidden = data.side === 0;
  dark.addEventListener("change", () => {
    readTheme();
    redraw();
  });
  function resize() {
    const ratio = devicePixelRatio || 1;
    [width, height] = [plot.clientWidth, plot.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    draw();
  }
  readTheme();
  resize();
  changed();
  new ResizeObserver(resize).observe(plot);
})();
