// One star: its values, spectrum, and what is known of its age and mass.

class StarPanel {
  constructor(sample) {
    this.sample = sample;
    this.panel = document.getElementById("star");
    this.title = document.getElementById("star-title");
    this.body = document.getElementById("star-body");
    this.spectrumOf = new Map((facts.spectra?.rows ?? []).map((row, index) => [row, index]));
    document.getElementById("star-close").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !this.panel.hidden) this.close(); });
  }

  name(star) {
    return this.sample.key ? `${facts.roles.key.name} ${this.sample.key[star]}` : `row ${this.sample.row[star]}`;
  }

  describe(star) {
    const lines = [this.name(star)];
    const pair = (role, error) => {
      if (!this.sample[role]) return;
      const spread = this.sample[error] ? ` ± ${show(this.sample[error][star], error)}` : "";
      lines.push(`${facts.roles[role].name} ${show(this.sample[role][star], role)}${spread} ${facts.roles[role].unit}`);
    };
    pair("age", "age_error");
    pair("mass", "mass_error");
    const others = ["teff", "logg", "feh", "snr"], result = facts.result?.role;
    if (result && !["age", "mass", ...others].includes(result)) pair(result, "");
    for (const role of others) pair(role, "");
    if (this.sample.flag?.[star]) lines.push(flagNames(this.sample.flag[star]).join(", "));
    return lines.join("\n");
  }

  async open(star, from) {
    this.from = from;
    this.title.textContent = this.name(star);
    this.body.replaceChildren(this.values(star));
    this.panel.hidden = false;
    this.panel.focus({ preventScroll: true });
    const posteriors = document.createElement("div");
    posteriors.className = "posteriors";
    this.body.prepend(posteriors);
    for (const quantity of ["age", "mass"]) this.posterior(posteriors, star, quantity);
    this.joint(posteriors, star);
    const index = this.spectrumOf.get(this.sample.row[star]);
    if (index === undefined) {
      const note = document.createElement("p");
      note.textContent = facts.spectra ? "Its spectrum is not in this page; ringed stars have theirs." : "This page holds no spectra.";
      this.body.prepend(note);
    } else {
      await this.spectrum(index);
    }
  }

  close() {
    this.panel.hidden = true;
    this.from?.focus({ preventScroll: true });
  }

  values(star) {
    const list = document.createElement("dl");
    list.className = "values";
    const add = (name, value) => {
      const line = list.appendChild(document.createElement("div"));
      line.appendChild(document.createElement("dt")).textContent = name;
      line.appendChild(document.createElement("dd")).textContent = value;
    };
    add("row", String(this.sample.row[star]));
    for (const role of Object.keys(facts.roles)) {
      const values = this.sample[role];
      if (!values || role === "key") continue;
      if (role === "flag") add(facts.roles.flag.name, `${values[star]} ${flagNames(values[star]).join(" ")}`.trim());
      else if (role === "status") add(facts.roles.status.name, facts.statuses[values[star]]?.[0] ?? String(values[star]));
      else add(columnName(role), show(values[star], role) || "–");
    }
    return list;
  }

  // 16th, 50th and 84th percentile, from the error where they are not kept; null if nothing is known.
  percentiles(star, quantity) {
    const read = (role) => this.sample[role]?.[star] ?? NaN;
    const named = ["low", "median", "high"].map((name) => read(`${quantity}_${name}`));
    if (named.every(Number.isFinite)) return named;
    const value = read(quantity), error = read(`${quantity}_error`);
    return Number.isFinite(value) && error > 0 ? [value - error, value, value + error] : null;
  }

  host(parent, words) {
    const box = parent.appendChild(document.createElement("div"));
    const caption = parent.ownerDocument.createElement("small");
    const place = box.appendChild(document.createElement("div"));
    caption.textContent = words;
    box.appendChild(caption);
    return place;
  }

  posterior(parent, star, quantity) {
    const limits = facts.roles[quantity] && this.percentiles(star, quantity);
    if (!limits) return;
    const [low, middle, high] = limits, left = Math.max(middle - low, 1e-9), right = Math.max(high - middle, 1e-9);
    const place = this.host(parent, `${show(middle)} (+${show(right)}, −${show(left)}) ${facts.roles[quantity].unit}; 68 % shaded`);
    const draw = () => {
      const x = { low: Math.max(0, middle - 3.2 * left), high: middle + 3.2 * right, label: label(quantity) };
      const frame = new Frame(canvas, x, { low: 0, high: 1.1, hidden: true }, { left: 10 }), { pen } = canvas;
      const curve = (from, to) => {
        pen.beginPath();
        for (let step = 0; step <= 120; step += 1) {
          const at = from + ((to - from) * step) / 120, z = (at - middle) / (at < middle ? left : right);
          pen[step ? "lineTo" : "moveTo"](frame.across(at), frame.up(Math.exp((-z * z) / 2)));
        }
      };
      canvas.clear();
      frame.draw();
      pen.fillStyle = "rgb(213 94 0 / 0.3)";
      curve(Math.max(low, x.low), high);
      pen.lineTo(frame.across(high), frame.bottom);
      pen.lineTo(frame.across(Math.max(low, x.low)), frame.bottom);
      pen.fill();
      pen.strokeStyle = ORANGE;
      pen.lineWidth = 1.5;
      curve(x.low, x.high);
      pen.stroke();
    };
    const canvas = new Canvas(place, 0.72, draw);
    if (canvas.fit()) draw();
  }

  // Ellipses of one and two standard deviations in the age-mass plane.
  joint(parent, star) {
    const read = (role) => this.sample[role]?.[star] ?? NaN;
    const [age, mass, da, dm, rho] = ["age", "mass", "age_error", "mass_error", "correlation"].map(read);
    if (![age, mass, da, dm, rho].every(Number.isFinite)) return;
    const place = this.host(parent, `correlation ${show(rho)}; 1 and 2 standard deviations`);
    const draw = () => {
      const range = (value, error, role) => ({ low: value - 2.6 * error, high: value + 2.6 * error, label: label(role) });
      const frame = new Frame(canvas, range(age, da, "age"), range(mass, dm, "mass"), { left: 50 }), { pen } = canvas;
      canvas.clear();
      frame.draw();
      frame.clip();
      pen.strokeStyle = ORANGE;
      pen.lineWidth = 1.5;
      for (const size of [1, 2]) {
        pen.beginPath();
        for (let step = 0; step <= 72; step += 1) {
          const angle = (step * Math.PI) / 36, first = Math.cos(angle), second = rho * first + Math.sqrt(1 - rho * rho) * Math.sin(angle);
          pen[step ? "lineTo" : "moveTo"](frame.across(age + size * da * first), frame.up(mass + size * dm * second));
        }
        pen.stroke();
      }
      pen.restore();
    };
    const canvas = new Canvas(place, 0.72, draw);
    if (canvas.fit()) draw();
  }

  async spectrum(index) {
    const data = await spectra(), { pixels, missing, wavelength_unit, flux_unit } = facts.spectra;
    const coded = data.flux.subarray(index * pixels, (index + 1) * pixels);
    const flux = Float64Array.from(coded, (code) => (code === missing ? NaN : data.low[index] + code * data.step[index]));
    const place = document.createElement("div");
    place.id = "spectrum";
    this.body.prepend(place);
    const draw = () => {
      const known = Array.from(data.wavelength).filter((_, pixel) => Number.isFinite(flux[pixel]));
      const x = { low: known[0], high: known[known.length - 1], label: `wavelength [${wavelength_unit}]` };
      const [low, high] = bulk(flux), room = 0.1 * (high - low);
      const y = { low: low - room, high: high + room, label: flux_unit ? `flux [${flux_unit}]` : "flux" };
      const frame = new Frame(canvas, x, y, { left: 66 }), { pen } = canvas;
      canvas.clear();
      frame.draw();
      frame.clip();
      pen.strokeStyle = BLUE;
      pen.beginPath();
      let drawing = false;
      for (let pixel = 0; pixel < pixels; pixel += 1) {
        const here = Number.isFinite(flux[pixel]);
        if (here) pen[drawing ? "lineTo" : "moveTo"](frame.across(data.wavelength[pixel]), frame.up(flux[pixel]));
        drawing = here;
      }
      pen.stroke();
      pen.restore();
    };
    const canvas = new Canvas(place, 0.48, draw);
    canvas.element.setAttribute("role", "img");
    canvas.element.setAttribute("aria-label", "spectrum: flux against wavelength");
    if (canvas.fit()) draw();
  }
}
