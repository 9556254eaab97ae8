// Puts the parts of the page together.

const PLANES = {
  "teff-logg": { x: "teff", y: "logg", invertX: true, invertY: true },
  "age-mass": { x: "age", y: "mass" },
  "feh-age": { x: "feh", y: "age" },
  "feh-alpha": { x: "feh", y: "alpha" },
  "snr-age_error": { x: "snr", y: "age_error" },
};

function plots(sample, actions) {
  const made = [];
  for (const host of document.querySelectorAll(".plot[data-figure]")) {
    const { figure, title } = host.dataset;
    if (figure.startsWith("histogram-")) made.push(new Histogram(host, figure.slice("histogram-".length), sample, title));
    else if (figure === "ra-dec") made.push(new Sky(host, { x: "ra", y: "dec", title, ratio: 0.52 }, sample, actions));
    else {
      const spec = { ...PLANES[figure], title, colour: facts.planes[figure] };
      made.push(new Scatter(host, spec, sample, actions));
    }
  }
  return made;
}

function finder(sample, panel) {
  const input = document.getElementById("find-key"), message = document.getElementById("find-message");
  document.getElementById("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = input.value.trim();
    const star = sample.key ? sample.key.indexOf(wanted) : sample.row.indexOf(Number(wanted));
    message.textContent = star < 0 ? `${wanted} is not among the ${count(sample.row.length)} rows in this page.` : "";
    if (star >= 0) panel.open(star, input);
  });
}

function examples(sample, panel, withSpectrum) {
  const list = document.getElementById("example-list");
  if (!list) return;
  for (const star of withSpectrum) {
    const button = list.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = sample.key ? sample.key[star] : `row ${sample.row[star]}`;
    button.addEventListener("click", () => panel.open(star, button));
  }
}

async function start() {
  const sample = await unpack("sample-arrays", "sample-block");
  if (!sample.row) {
    document.documentElement.classList.remove("js");
    return;
  }
  const panel = new StarPanel(sample);
  const place = new Map(Array.from(sample.row, (row, star) => [row, star]));
  const withSpectrum = (facts.spectra?.rows ?? []).map((row) => place.get(row)).filter((star) => star !== undefined);
  const actions = { open: (star, from) => panel.open(star, from), describe: (star) => panel.describe(star), withSpectrum };
  const drawn = plots(sample, actions);
  finder(sample, panel);
  examples(sample, panel, withSpectrum);
  new Selection(sample, (chosen) => drawn.forEach((plot) => plot.update(chosen))).apply();
  document.documentElement.dataset.ready = "yes";
}

// Without the means to unpack, the static figures stay.
start().catch((error) => {
  document.documentElement.classList.remove("js");
  console.error(error);
});
