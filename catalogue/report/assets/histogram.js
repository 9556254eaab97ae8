// Counts of the chosen stars per bin; points are what is expected if every star is spread by its own error.

// Probability that a standard normal is below z: Abramowitz & Stegun 26.2.17, good to 7.5e-8.
function below(z) {
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const tail = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const upper = 0.3989422804014327 * Math.exp((-z * z) / 2) * tail;
  return z < 0 ? upper : 1 - upper;
}

class Histogram {
  constructor(host, role, sample, title) {
    Object.assign(this, { role, sample });
    this.canvas = new Canvas(host, 0.6, () => this.draw());
    this.canvas.element.setAttribute("role", "img");
    this.canvas.element.setAttribute("aria-label", title);
    this.logarithmic = facts.logarithmic.includes(role);
    this.edges = this.logarithmic ? facts.bins[role].map(Math.log10) : facts.bins[role];
    this.name = sample.row.length < facts.rows ? "sampled rows per bin" : "rows per bin";
  }

  update(chosen) {
    this.chosen = chosen;
    this.draw();
  }

  counts() {
    const { edges } = this, last = edges.length - 1, scale = last / (edges[last] - edges[0]);
    const counts = new Float64Array(last), values = this.sample[this.role];
    for (let star = 0; star < values.length; star += 1) {
      if (!this.chosen[star]) continue;
      const value = this.logarithmic ? Math.log10(values[star]) : values[star];
      const bin = Math.floor((value - edges[0]) * scale);
      if (bin >= 0 && bin < last) counts[bin] += 1;
    }
    return counts;
  }

  expected() {
    const errors = this.sample[`${this.role}_error`];
    if (!errors) return null;
    const { edges } = this, values = this.sample[this.role], expected = new Float64Array(edges.length - 1);
    const scale = expected.length / (edges[expected.length] - edges[0]);
    const bin = (value) => Math.max(0, Math.min(expected.length, Math.floor((value - edges[0]) * scale)));
    for (let star = 0; star < values.length; star += 1) {
      if (!this.chosen[star] || !Number.isFinite(values[star])) continue;
      const error = errors[star] > 0 ? errors[star] : 1e-9;
      const stop = Math.min(expected.length, bin(values[star] + 5 * error) + 1);
      let from = bin(values[star] - 5 * error), before = below((edges[from] - values[star]) / error);
      for (; from < stop; from += 1) {
        const after = below((edges[from + 1] - values[star]) / error);
        expected[from] += after - before;
        before = after;
      }
    }
    return expected;
  }

  draw() {
    if (!this.chosen || (!this.canvas.width && !this.canvas.fit())) return;
    const counts = this.counts(), expected = this.expected(), { edges } = this, { pen } = this.canvas;
    const tallest = Math.max(1, ...counts, ...(expected ?? []).map((value) => value + Math.sqrt(value)));
    let first = counts.findIndex((value) => value > 0), last = counts.findLastIndex((value) => value > 0);
    if (first < 0) [first, last] = [0, counts.length - 1];
    const axis = { low: edges[Math.max(0, first - 1)], high: edges[Math.min(counts.length, last + 2)], label: label(this.role) };
    const frame = new Frame(this.canvas, axis, { low: 0, high: 1.06 * tallest, label: this.name });
    this.canvas.clear();
    // Edges are in dex already: only the ticks are to be written as powers.
    axis.logarithmic = this.logarithmic;
    frame.draw();
    axis.logarithmic = false;
    frame.clip();
    pen.fillStyle = "rgb(0 114 178 / 0.35)";
    pen.strokeStyle = BLUE;
    for (let bin = 0; bin < counts.length; bin += 1) {
      if (!counts[bin]) continue;
      const box = [frame.across(edges[bin]), frame.up(counts[bin])];
      box.push(frame.across(edges[bin + 1]) - box[0], frame.bottom - box[1]);
      pen.fillRect(...box);
      pen.strokeRect(...box);
    }
    pen.strokeStyle = pen.fillStyle = ORANGE;
    (expected ?? []).forEach((value, bin) => {
      if (value < 0.05) return;
      const x = frame.across((edges[bin] + edges[bin + 1]) / 2), spread = Math.sqrt(value);
      pen.beginPath();
      pen.moveTo(x, frame.up(Math.max(0, value - spread)));
      pen.lineTo(x, frame.up(value + spread));
      pen.stroke();
      pen.beginPath();
      pen.arc(x, frame.up(value), 2.2, 0, 2 * Math.PI);
      pen.fill();
    });
    pen.restore();
  }
}
