// Creation of elements and canvases.

/** Create an element. Strings become text nodes, never markup. Attributes that begin with "on" are event handlers. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Create a canvas whose resolution follows its size on the screen; `onResize` is called after each change. */
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

/** Set the text of an element if it differs, to avoid a needless layout. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
