// Colours: colour maps for the light and the dark theme, and one colour per pin.

const dark = matchMedia("(prefers-color-scheme: dark)");

export const PIN_COLOURS = ["#4c9be8", "#3fbf8f", "#d977b8", "#e3c53c", "#9a86f0", "#e8685f"];
export const ACTIVE = "#ffb347";

const EMBER = {
  light: [[239, 236, 229], [247, 203, 134], [224, 122, 50], [158, 52, 28], [74, 18, 26]],
  dark: [[30, 31, 36], [96, 38, 30], [193, 84, 32], [245, 171, 76], [255, 243, 214]],
};
const AGAINST = {
  light: [[239, 236, 229], [158, 197, 224], [68, 134, 187], [30, 82, 138], [16, 40, 84]],
  dark: [[30, 31, 36], [28, 62, 98], [44, 110, 168], [110, 178, 226], [222, 241, 255]],
};

function table(stops) {
  const colours = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) {
      colours[3 * i + c] = stops[at][c] + (place - at) * (stops[at + 1][c] - stops[at][c]);
    }
  }
  return colours;
}

const tables = {
  light: { plus: table(EMBER.light), minus: table(AGAINST.light) },
  dark: { plus: table(EMBER.dark), minus: table(AGAINST.dark) },
};

/** Return the colour of a value from -1 to 1: warm above zero, cool below zero, the background colour at zero. */
export function colourOf(value) {
  const side = tables[dark.matches ? "dark" : "light"][value < 0 ? "minus" : "plus"];
  const at = 3 * Math.round(255 * Math.min(1, Math.abs(value)));
  return [side[at], side[at + 1], side[at + 2]];
}

export function cssColour(value) {
  return `rgb(${colourOf(value).join(" ")})`;
}

/** Call `then` whenever the system changes between the light and the dark theme. */
export function onThemeChange(then) {
  dark.addEventListener("change", then);
}
