// The data of the page: one compressed buffer, decoded once, and views into it that know their ranges.

/** Bytes of a base64 text. */
function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The bytes at a place; with a lag they were stored as differences to the byte so far before. */
function bytesAt(buffer, place) {
  const bytes = buffer.subarray(place.at, place.at + place.size);
  if (place.lag) for (let i = place.lag; i < bytes.length; i++) bytes[i] += bytes[i - place.lag];
  return bytes;
}

/** Rows of values in 8 bit, each on its own range. */
class Rows {
  constructor(buffer, entry) {
    this.bytes = bytesAt(buffer, entry);
    this.low = entry.low;
    this.high = entry.high;
    this.count = entry.low.length;
    this.length = this.bytes.length / this.count;
    this.top = Math.max(...entry.high);
  }

  at(row, index) {
    const step = (this.high[row] - this.low[row]) / 255;
    return this.low[row] + this.bytes[row * this.length + index] * step;
  }

  /** One row as numbers. */
  row(row) {
    const values = new Float32Array(this.length);
    for (let i = 0; i < values.length; i++) values[i] = this.at(row, i);
    return values;
  }
}

/** One block of one model: its maps, and what follows from them when it is asked for. */
class Block {
  constructor(buffer, entry) {
    Object.assign(this, entry);
    [this.rows, this.cols] = entry.grid;
    this.pixels = this.rows * this.cols;
    this.slots = entry.slotGrid[0] * entry.slotGrid[1];
    this.assignment = new Rows(buffer, entry.assignment);
    this.clustering = new Rows(buffer, entry.clustering);
    this.effective = new Rows(buffer, entry.effective);
    const pairs = bytesAt(buffer, entry.strongest);
    this.strongest = new Uint16Array(this.pixels);
    for (let n = 0; n < this.pixels; n++) this.strongest[n] = pairs[2 * n] + 256 * pairs[2 * n + 1];
    this.attention = entry.attention && new Rows(buffer, entry.attention);
    this.heads = entry.attention ? entry.attention.heads : 0;
    this.kept = new Map();
  }

  keep(key, make) {
    if (!this.kept.has(key)) this.kept.set(key, make());
    return this.kept.get(key);
  }

  /** How much slot `from` listens to each slot: of one head, or the mean of all with head -1. */
  listening(from, head) {
    const weights = new Float32Array(this.slots);
    const heads = head < 0 ? [...Array(this.heads).keys()] : [head];
    for (const h of heads) {
      for (let s = 0; s < this.slots; s++) {
        weights[s] += this.attention.at(h, from * this.slots + s) / heads.length;
      }
    }
    return weights;
  }

  /** How much each slot is listened to by all slots, on average. */
  heard(head) {
    return this.keep(`heard ${head}`, () => {
      const sum = new Float32Array(this.slots);
      for (let from = 0; from < this.slots; from++) {
        this.listening(from, head).forEach((weight, s) => (sum[s] += weight / this.slots));
      }
      return sum;
    });
  }

  /** The pixels that slot `from` listens to: those of which the slots are made, weighted by its attention. */
  listenedPixels(from, head) {
    const weights = this.listening(from, head);
    const values = new Float32Array(this.pixels);
    for (let s = 0; s < this.slots; s++) {
      const row = this.keep(`clustering ${s}`, () => this.clustering.row(s));
      for (let n = 0; n < this.pixels; n++) values[n] += weights[s] * row[n];
    }
    return values;
  }

  /** Evidence for the class in place `k` handed back to pixels: the mean over the slots that a pixel takes from. */
  evidencePixels(k) {
    return this.keep(`evidence ${k}`, () => {
      const values = new Float32Array(this.pixels);
      for (let s = 0; s < this.slots; s++) {
        if (this.share[s] === 0) continue;
        const density = this.evidence[k][s] / this.share[s];
        for (let n = 0; n < this.pixels; n++) values[n] += density * this.assignment.at(s, n);
      }
      return values;
    });
  }

  pixelAt(x, y) {
    const column = Math.min(this.cols - 1, Math.floor(x * this.cols));
    const row = Math.min(this.rows - 1, Math.floor(y * this.rows));
    return row * this.cols + column;
  }

  /** Where in the image, from 0 to 1 across and down, a slot is strongest. */
  peak(slot) {
    let best = 0;
    for (let n = 1; n < this.pixels; n++) {
      if (this.assignment.at(slot, n) > this.assignment.at(slot, best)) best = n;
    }
    return { x: ((best % this.cols) + 0.5) / this.cols, y: (Math.floor(best / this.cols) + 0.5) / this.rows };
  }
}

/** Everything in the page's data element, ready to be asked. */
export async function decode(text) {
  const data = JSON.parse(text);
  const buffer = await inflate(bytesOf(data.buffer));
  for (const model of data.models) model.blocks = model.blocks.map((entry) => new Block(buffer, entry));
  delete data.buffer;
  return data;
}
