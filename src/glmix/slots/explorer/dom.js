// Elements and canvases, made in one line.

/** Make an element: text is text and never markup; handlers are given as "on" and the event's name. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A canvas that has as many pixels as its box on the screen, and tells when they change. */
export function sizedCanvas(attributes, onResize) {
  const canvas = element("canvas", attributes);
  new ResizeObserver(() => {
    const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    const height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    if (canvas.width === width && canvas.height === height) return;
    canvas.width = width;
    canvas.height = height;
    onResize();
  }).observe(canvas);
  return canvas;
}

/** Set an element's text where it differs, so that nothing is laid out again for nothing. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
