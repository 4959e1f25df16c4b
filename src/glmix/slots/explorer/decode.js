// Decoding of the page's data: one compressed buffer, and quantised arrays that are views of it.

/** Decode base64 text. */
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

/** Return the bytes of an array. With a lag, they are stored as differences to the byte `lag` positions before. */
function bytesAt(buffer, place) {
  const bytes = buffer.subarray(place.at, place.at + place.size);
  if (place.lag) for (let i = place.lag; i < bytes.length; i++) bytes[i] += bytes[i - place.lag];
  return bytes;
}

/** Rows of values, quantised to 8 bits, each row with its own range. */
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

  /** Return one row as numbers. */
  row(row) {
    const values = new Float32Array(this.length);
    for (let i = 0; i < values.length; i++) values[i] = this.at(row, i);
    return values;
  }
}

/** One block of one model: its maps, and values that are computed from them on demand. */
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

  /** Return the attention weights from slot `from` to each slot, of one head, or the mean over heads if head is -1. */
  attentionOf(from, head) {
    const weights = new Float32Array(this.slots);
    const heads = head < 0 ? [...Array(this.heads).keys()] : [head];
    for (const h of heads) {
      for (let s = 0; s < this.slots; s++) {
        weights[s] += this.attention.at(h, from * this.slots + s) / heads.length;
      }
    }
    return weights;
  }

  /** Return the attention weight that each slot receives, averaged over all slots. */
  receivedAttention(head) {
    return this.keep(`received ${head}`, () => {
      const sum = new Float32Array(this.slots);
      for (let from = 0; from < this.slots; from++) {
        this.attentionOf(from, head).forEach((weight, s) => (sum[s] += weight / this.slots));
      }
      return sum;
    });
  }

  /** Return the clustering weights of the pixels in all slots, averaged with the attention weights of slot `from`. */
  attendedPixels(from, head) {
    const weights = this.attentionOf(from, head);
    const values = new Float32Array(this.pixels);
    for (let s = 0; s < this.slots; s++) {
      const row = this.keep(`clustering ${s}`, () => this.clustering.row(s));
      for (let n = 0; n < this.pixels; n++) values[n] += weights[s] * row[n];
    }
    return values;
  }

  /** Return the evidence per pixel for class `k`: the mean over slots, weighted by the assignment. */
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

  /** Return the position with the highest assignment of a slot, from 0 to 1 in both directions. */
  peak(slot) {
    let best = 0;
    for (let n = 1; n < this.pixels; n++) {
      if (this.assignment.at(slot, n) > this.assignment.at(slot, best)) best = n;
    }
    return { x: ((best % this.cols) + 0.5) / this.cols, y: (Math.floor(best / this.cols) + 0.5) / this.rows };
  }
}

/** Decode the page's data element. */
export async function decode(text) {
  const data = JSON.parse(text);
  const buffer = await inflate(bytesOf(data.buffer));
  for (const model of data.models) model.blocks = model.blocks.map((entry) => new Block(buffer, entry));
  delete data.buffer;
  return data;
}
