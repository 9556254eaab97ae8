// Which rows are shown: exact counts from the table of all combinations, points from the sample.

class Selection {
  constructor(sample, onChange) {
    Object.assign(this, { sample, onChange });
    this.flags = [...document.querySelectorAll("select[data-flag]")];
    this.statuses = [...document.querySelectorAll("input[data-status]")];
    for (const control of [...this.flags, ...this.statuses]) control.addEventListener("change", () => this.apply());
    document.getElementById("choose-good").addEventListener("click", () => this.preset(true));
    document.getElementById("choose-all").addEventListener("click", () => this.preset(false));
  }

  preset(good) {
    const bad = new Set(facts.flags.filter((flag) => flag.level === "bad").map((flag) => String(flag.bit)));
    for (const control of this.flags) control.value = good && bad.has(control.dataset.flag) ? "without" : "any";
    for (const control of this.statuses) control.checked = true;
    this.apply();
  }

  rule() {
    let required = 0, refused = 0;
    for (const { value, dataset } of this.flags) {
      if (value === "with") required |= 1 << Number(dataset.flag);
      if (value === "without") refused |= 1 << Number(dataset.flag);
    }
    const statuses = new Set(this.statuses.filter((control) => control.checked).map((control) => Number(control.dataset.status)));
    const any = !this.statuses.length;
    return (flag, status) => (flag & required) === required && !(flag & refused) && (any || statuses.has(status));
  }

  apply() {
    const passes = this.rule(), { flag, status, row } = this.sample;
    const chosen = new Uint8Array(row.length);
    for (let star = 0; star < chosen.length; star += 1) chosen[star] = passes(flag?.[star] ?? 0, status?.[star] ?? -1) ? 1 : 0;
    let rows = 0, found = 0;
    const byStatus = new Map(), byFlag = new Map();
    for (const [state, bits, hasResult, number] of facts.states) {
      if (!passes(bits, state)) continue;
      rows += number;
      if (hasResult) found += number;
      byStatus.set(state, (byStatus.get(state) ?? 0) + number);
      for (const { bit } of facts.flags) if ((bits >> bit) & 1) byFlag.set(bit, (byFlag.get(bit) ?? 0) + number);
    }
    const points = chosen.reduce((sum, one) => sum + one, 0);
    const sampled = row.length < facts.rows ? ` · ${count(points)} of them in the sample` : "";
    const words = document.getElementById("selected");
    words.innerHTML = `<b id="selected-rows"></b> of ${count(facts.rows)} rows selected${facts.result ? `, ${count(found)} with ${facts.result.words}` : ""}${sampled}`;
    document.getElementById("selected-rows").textContent = count(rows);
    for (const cell of document.querySelectorAll("[data-flag-count]")) cell.textContent = count(byFlag.get(Number(cell.dataset.flagCount)) ?? 0);
    for (const cell of document.querySelectorAll("[data-status-count]")) cell.textContent = count(byStatus.get(Number(cell.dataset.statusCount)) ?? 0);
    for (const control of this.flags) control.closest("tr").classList.toggle("changed", control.value !== "any");
    this.onChange(chosen);
  }
}
