// Axes on a canvas, sharp on every display.

const INK = "#1c2430", SOFT = "#5b6470", LINE = "#e3e6ea", BLUE = "#0072b2", ORANGE = "#d55e00", GREY = "#9aa1ab";
const FONT = '12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';

function steps(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? rough;
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) ticks.push(index * step);
  return ticks.map((value) => [value, tidy(value, step)]);
}

function tidy(value, step) {
  let digits = 0;
  while (digits < 8 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits += 1;
  return (Math.abs(value) < step / 1e6 ? 0 : value).toFixed(digits).replace("-", "−");
}

// Ticks of a logarithmic axis, whose ends are given in dex.
function powers(low, high) {
  const factors = high - low > 2.2 ? [1] : high - low > 1 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    for (const factor of factors) {
      const at = power + Math.log10(factor);
      if (at >= low && at <= high) ticks.push([at, String(Number((factor * 10 ** power).toPrecision(3)))]);
    }
  }
  return ticks;
}

// Interval that holds the bulk of the finite values, with a margin.
function bulk(values) {
  const finite = Float64Array.from(values).filter(Number.isFinite).sort();
  if (!finite.length) return [0, 1];
  const trim = finite.length > 1000 ? 0.005 : 0;
  const low = finite[Math.floor(trim * (finite.length - 1))], high = finite[Math.ceil((1 - trim) * (finite.length - 1))];
  const margin = 0.04 * (high - low) || 0.5;
  return [low - margin, high + margin];
}

// Ends of a colour scale: the outermost fiftieth of the values does not stretch it.
function colourRange(values) {
  const finite = Float64Array.from(values).filter(Number.isFinite).sort();
  if (!finite.length) return [0, 1];
  const low = finite[Math.floor(0.02 * (finite.length - 1))], high = finite[Math.ceil(0.98 * (finite.length - 1))];
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

class Canvas {
  constructor(host, ratio, redraw) {
    this.element = host.appendChild(document.createElement("canvas"));
    this.pen = this.element.getContext("2d");
    this.ratio = ratio;
    this.width = this.height = 0;
    new ResizeObserver(() => { if (this.fit()) redraw(); }).observe(host);
  }

  // Whether the size changed.
  fit() {
    const width = this.element.parentElement.clientWidth;
    if (!width || width === this.width) return false;
    const sharp = window.devicePixelRatio || 1;
    this.width = width;
    this.height = Math.round(width * this.ratio);
    this.element.style.height = `${this.height}px`;
    this.element.width = Math.round(this.width * sharp);
    this.element.height = Math.round(this.height * sharp);
    this.pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    return true;
  }

  clear() {
    this.pen.clearRect(0, 0, this.width, this.height);
    this.pen.font = FONT;
    this.pen.lineWidth = 1;
    this.pen.globalAlpha = 1;
  }

  text(words, x, y, { align = "center", base = "middle", colour = SOFT, turn = 0, halo = false } = {}) {
    this.pen.save();
    this.pen.translate(x, y);
    this.pen.rotate(turn);
    this.pen.textAlign = align;
    this.pen.textBaseline = base;
    if (halo) {
      this.pen.strokeStyle = "rgb(255 255 255 / 0.85)";
      this.pen.lineWidth = 4;
      this.pen.strokeText(words, 0, 0);
    }
    this.pen.fillStyle = colour;
    this.pen.fillText(words, 0, 0);
    this.pen.restore();
  }
}

// The rectangle of a plot and the way from values to places in it.
class Frame {
  constructor(canvas, x, y, { right = 12, left = 54 } = {}) {
    this.canvas = canvas;
    this.x = x;
    this.y = y;
    this.left = left;
    this.right = canvas.width - right;
    this.top = 10;
    this.bottom = canvas.height - 44;
  }

  across(value) {
    const { low, high, logarithmic, inverted } = this.x;
    const part = ((logarithmic ? Math.log10(value) : value) - low) / (high - low);
    return this.left + (inverted ? 1 - part : part) * (this.right - this.left);
  }

  up(value) {
    const { low, high, logarithmic, inverted } = this.y;
    const part = ((logarithmic ? Math.log10(value) : value) - low) / (high - low);
    return this.bottom - (inverted ? 1 - part : part) * (this.bottom - this.top);
  }

  draw() {
    const { canvas, left, right, top, bottom } = this, { pen } = canvas;
    const ticks = (axis, room) => (axis.logarithmic ? powers(axis.low, axis.high) : steps(axis.low, axis.high, room));
    const value = (axis, at) => (axis.logarithmic ? 10 ** at : at);
    pen.strokeStyle = LINE;
    pen.beginPath();
    for (const [at, words] of ticks(this.x, Math.max(3, (right - left) / 75))) {
      const place = this.across(value(this.x, at));
      pen.moveTo(place, top);
      pen.lineTo(place, bottom);
      canvas.text(words, place, bottom + 14);
    }
    for (const [at, words] of this.y.hidden ? [] : ticks(this.y, Math.max(3, (bottom - top) / 45))) {
      const place = this.up(value(this.y, at));
      pen.moveTo(left, place);
      pen.lineTo(right, place);
      canvas.text(words, left - 6, place, { align: "right" });
    }
    pen.stroke();
    pen.strokeStyle = SOFT;
    pen.beginPath();
    pen.moveTo(left, top);
    pen.lineTo(left, bottom);
    pen.lineTo(right, bottom);
    pen.stroke();
    canvas.text(this.x.label, (left + right) / 2, bottom + 34, { colour: INK });
    if (this.y.label) canvas.text(this.y.label, 12, (top + bottom) / 2, { colour: INK, turn: -Math.PI / 2 });
  }

  clip() {
    const { pen } = this.canvas;
    pen.save();
    pen.beginPath();
    pen.rect(this.left, this.top, this.right - this.left, this.bottom - this.top);
    pen.clip();
  }
}
