// The page's data: facts as JSON, numbers as one compressed block.

const facts = JSON.parse(document.getElementById("facts").textContent);
const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u2: Uint16Array, u4: Uint32Array };

async function unpack(arraysId, blockId) {
  const arrays = JSON.parse(document.getElementById(arraysId).textContent);
  const text = document.getElementById(blockId).textContent;
  if (!text) return {};
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = await new Response(stream).arrayBuffer();
  const result = {};
  for (const [name, { type, offset, bytes, length }] of Object.entries(arrays)) {
    if (type === "text") {
      const lines = new TextDecoder().decode(new Uint8Array(content, offset, bytes)).split("\n");
      result[name] = length ? lines : [];
    } else {
      result[name] = new KINDS[type](content, offset, length);
    }
  }
  return result;
}

// Decoded at the first star that is opened: most readers never need it.
let spectraPromise = null;
function spectra() {
  spectraPromise ??= unpack("spectra-arrays", "spectra-block");
  return spectraPromise;
}

function label(role) {
  return facts.roles[role].label;
}

function columnName(role) {
  const { name, unit } = facts.roles[role];
  return unit ? `${name} [${unit}]` : name;
}

function show(value, role = "") {
  if (value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (role === "ra" || role === "dec") return value.toFixed(5);
  if (role === "teff") return value.toFixed(0);
  if (Math.abs(value) >= 100) return value.toFixed(1);
  return Math.abs(value) >= 10 ? value.toFixed(2) : value.toFixed(3);
}

function count(value) {
  return value.toLocaleString("en-US");
}

function flagNames(value) {
  return facts.flags.filter((flag) => (value >> flag.bit) & 1).map((flag) => flag.name);
}
