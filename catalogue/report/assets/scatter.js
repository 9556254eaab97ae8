// Points in a plane, or on the sky: hover, arrow keys, click.

class Scatter {
  constructor(host, spec, sample, actions) {
    Object.assign(this, { host, spec, sample, actions });
    this.canvas = new Canvas(host, spec.ratio ?? 0.74, () => this.draw());
    this.tip = host.appendChild(document.createElement("div"));
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.cursor = -1;
    this.size = sample.row.length;
    this.places = [new Float32Array(this.size), new Float32Array(this.size)];
    this.listen();
  }

  // Axes and colours that hold the chosen stars; all of them where none is chosen.
  range() {
    const { x, y, colour, invertX, invertY } = this.spec;
    const placed = this.sample[x].map((value, star) => (this.chosen[star] ? value + this.sample[y][star] : NaN));
    const shown = (values) => values.map((value, star) => (Number.isFinite(placed[star]) ? value : NaN));
    this.x = this.axis(x, shown(this.sample[x]), invertX);
    this.y = this.axis(y, shown(this.sample[y]), invertY);
    if (colour) [this.low, this.high] = colourRange(shown(this.sample[colour]));
  }

  axis(role, values, inverted = false) {
    const logarithmic = facts.logarithmic.includes(role);
    const [low, high] = bulk(logarithmic ? values.map((value) => (value > 0 ? Math.log10(value) : NaN)) : values);
    return { low, high, logarithmic, inverted, label: label(role) };
  }

  listen() {
    const { element } = this.canvas;
    element.tabIndex = 0;
    element.setAttribute("role", "application");
    element.setAttribute("aria-label", `${this.spec.title}: arrow keys move from star to star, Enter opens a star`);
    const place = (event) => [event.offsetX, event.offsetY];
    element.addEventListener("pointermove", (event) => this.point(this.nearest(...place(event), 16)));
    element.addEventListener("pointerleave", () => this.point(-1));
    element.addEventListener("blur", () => this.point(-1));
    element.addEventListener("click", (event) => {
      const star = this.nearest(...place(event), 24);
      if (star >= 0) this.actions.open(star, element);
    });
    element.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) {
      event.preventDefault();
      this.point(this.cursor < 0 ? this.central() : this.beside(...ways[event.key]));
    } else if ((event.key === "Enter" || event.key === " ") && this.cursor >= 0) {
      event.preventDefault();
      this.actions.open(this.cursor, this.canvas.element);
    }
  }

  visible(star) {
    return this.chosen[star] && Number.isFinite(this.places[0][star]) && Number.isFinite(this.places[1][star]);
  }

  nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let star = 0; star < this.size; star += 1) {
      if (!this.visible(star)) continue;
      const far = (this.places[0][star] - x) ** 2 + (this.places[1][star] - y) ** 2;
      if (far < least) [best, least] = [star, far];
    }
    return best;
  }

  central() {
    return this.nearest(this.canvas.width / 2, this.canvas.height / 2, 1e5);
  }

  // The nearest star within 45 degrees of a direction; the same star if there is none.
  beside(right, down) {
    const [xs, ys] = this.places;
    let best = this.cursor, least = Infinity;
    for (let star = 0; star < this.size; star += 1) {
      if (star === this.cursor || !this.visible(star)) continue;
      const dx = xs[star] - xs[this.cursor], dy = ys[star] - ys[this.cursor];
      const along = dx * right + dy * down, aside = Math.abs(dx * down) + Math.abs(dy * right);
      if (along < 0.5 || aside > along) continue;
      const far = along * along + 4 * aside * aside;
      if (far < least) [best, least] = [star, far];
    }
    return best;
  }

  point(star) {
    if (star === this.cursor) return;
    this.cursor = star;
    this.draw();
    this.tip.hidden = star < 0;
    if (star < 0) return;
    this.tip.textContent = this.actions.describe(star);
    const [x, y] = [this.places[0][star], this.places[1][star]];
    this.tip.style.left = `${Math.max(0, Math.min(x + 14, this.canvas.width - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${y + 14 + this.tip.offsetHeight > this.canvas.height ? y - 14 - this.tip.offsetHeight : y + 14}px`;
    this.canvas.element.setAttribute("aria-description", this.tip.textContent);
  }

  update(chosen) {
    this.chosen = chosen;
    this.range();
    if (this.cursor >= 0 && !chosen[this.cursor]) this.point(-1);
    this.draw();
  }

  // Draws the axes and says where every star is.
  arrange() {
    const frame = new Frame(this.canvas, this.x, this.y, { right: this.spec.colour ? 66 : 12 });
    frame.draw();
    const first = this.sample[this.spec.x], second = this.sample[this.spec.y];
    for (let star = 0; star < this.size; star += 1) {
      this.places[0][star] = frame.across(first[star]);
      this.places[1][star] = frame.up(second[star]);
    }
    frame.clip();
    return frame;
  }

  draw() {
    if (!this.chosen || (!this.canvas.width && !this.canvas.fit())) return;
    this.canvas.clear();
    const frame = this.arrange(), { pen } = this.canvas;
    const shown = this.chosen.reduce((sum, one) => sum + one, 0);
    const radius = Math.max(1.3, Math.min(4, 90 / Math.sqrt(shown + 1)));
    this.points(radius, shown > 3000 ? 0.6 : 0.85);
    pen.strokeStyle = INK;
    for (const star of this.actions.withSpectrum) {
      if (this.visible(star)) this.ring(star, radius + 1.2);
    }
    if (this.cursor >= 0 && this.visible(this.cursor)) {
      pen.strokeStyle = ORANGE;
      pen.lineWidth = 3;
      this.ring(this.cursor, radius + 4);
    }
    pen.restore();
    this.finish(frame);
  }

  points(radius, alpha) {
    const { pen } = this.canvas, values = this.spec.colour ? this.sample[this.spec.colour] : null;
    const table = values ? facts.colours[this.spec.colour] : [BLUE], groups = table.map(() => []), unknown = [];
    for (let star = 0; star < this.size; star += 1) {
      if (!this.visible(star)) continue;
      const part = values ? (values[star] - this.low) / (this.high - this.low) : 0;
      if (Number.isNaN(part)) unknown.push(star);
      else groups[Math.max(0, Math.min(table.length - 1, Math.floor(part * table.length)))].push(star);
    }
    pen.globalAlpha = alpha;
    [[GREY, unknown], ...table.map((colour, index) => [colour, groups[index]])].forEach(([colour, stars]) => {
      pen.fillStyle = colour;
      for (const star of stars) {
        pen.beginPath();
        pen.arc(this.places[0][star], this.places[1][star], radius, 0, 2 * Math.PI);
        pen.fill();
      }
    });
    pen.globalAlpha = 1;
  }

  ring(star, radius) {
    const { pen } = this.canvas;
    pen.beginPath();
    pen.arc(this.places[0][star], this.places[1][star], radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  // The colour scale.
  finish(frame) {
    if (!this.spec.colour) return;
    const { canvas } = this, { pen } = canvas, table = facts.colours[this.spec.colour];
    const left = frame.right + 14, tall = frame.bottom - frame.top;
    table.forEach((colour, index) => {
      pen.fillStyle = colour;
      pen.fillRect(left, frame.bottom - ((index + 1) * tall) / table.length, 10, tall / table.length + 1);
    });
    for (const [value, words] of steps(this.low, this.high, tall / 60)) {
      canvas.text(words, left + 14, frame.bottom - ((value - this.low) / (this.high - this.low)) * tall, { align: "left" });
    }
    canvas.text(label(this.spec.colour), canvas.width - 8, (frame.top + frame.bottom) / 2, { colour: INK, turn: -Math.PI / 2 });
  }
}

// Mollweide projection, right ascension increasing to the left.
class Sky extends Scatter {
  range() {}

  project(ra, dec) {
    const latitude = (dec * Math.PI) / 180, longitude = ((((ra + 180) % 360) - 180) * Math.PI) / 180;
    let angle = latitude;
    for (let round = 0; round < 12 && Math.abs(dec) < 89.99; round += 1) {
      angle -= (2 * angle + Math.sin(2 * angle) - Math.PI * Math.sin(latitude)) / (2 + 2 * Math.cos(2 * angle));
    }
    if (Math.abs(dec) >= 89.99) angle = (Math.sign(dec) * Math.PI) / 2;
    const half = this.canvas.height / 2 - 14, middle = this.canvas.width / 2;
    const wide = Math.min(middle - 24, 2 * half);
    return [middle - (wide * longitude * Math.cos(angle)) / Math.PI, this.canvas.height / 2 - (wide / 2) * Math.sin(angle)];
  }

  arrange() {
    const { pen } = this.canvas;
    const line = (from) => {
      pen.beginPath();
      from.forEach(([ra, dec], index) => pen[index ? "lineTo" : "moveTo"](...this.project(ra, dec)));
      pen.stroke();
    };
    const along = (low, high) => Array.from({ length: 61 }, (_, index) => low + ((high - low) * index) / 60);
    pen.strokeStyle = LINE;
    for (const dec of [-60, -30, 0, 30, 60]) line(along(-179.999, 179.999).map((ra) => [ra, dec]));
    for (const ra of [-120, -60, 0, 60, 120]) line(along(-90, 90).map((dec) => [ra, dec]));
    pen.strokeStyle = SOFT;
    for (const ra of [-179.999, 179.999]) line(along(-90, 90).map((dec) => [ra, dec]));
    const { ra, dec } = this.sample;
    if (this.placedFor !== this.canvas.width) {
      for (let star = 0; star < this.size; star += 1) {
        [this.places[0][star], this.places[1][star]] = Number.isFinite(ra[star] + dec[star]) ? this.project(ra[star], dec[star]) : [NaN, NaN];
      }
      this.placedFor = this.canvas.width;
    }
    pen.save();
    return null;
  }

  finish() {
    for (const ra of [-120, -60, 0, 60, 120]) {
      const [x, y] = this.project(ra, 0);
      this.canvas.text(`${(ra + 360) % 360}°`, x, y + 9, { halo: true, colour: INK });
    }
    for (const dec of [-60, -30, 30, 60]) {
      const [x, y] = this.project(179.999, dec);
      this.canvas.text(`${dec > 0 ? "+" : "−"}${Math.abs(dec)}°`, x - 18, y + (dec > 0 ? -8 : 8), { halo: true, colour: INK });
    }
  }
}
