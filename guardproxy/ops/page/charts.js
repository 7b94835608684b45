// The last hour, drawn by uPlot: servers stacked by what keeps them, and who waited.

import { USES, colour, duration, number } from "./words.js";

const HOUR = 3600;
const LEAST = 600; // a guard that has just begun shows its first minutes wide enough to see
const HEIGHT = 130;

export class Charts {
  constructor(servers, waiting) {
    this.places = { servers, waiting };
    this.samples = null;
    this.draw();
    new ResizeObserver(() => this.resize()).observe(servers);
  }

  // Columns of samples, to be added to those that are there.
  add(columns) {
    if (!columns.at.length && this.samples) return;
    if (!this.samples) this.samples = columns;
    else for (const name of Object.keys(columns)) {
      if (Array.isArray(columns[name])) this.samples[name].push(...columns[name]);
    }
    const old = this.samples.at.findIndex((at) => at > this.latest - HOUR - 10);
    if (old > 0) for (const name of Object.keys(this.samples)) {
      if (Array.isArray(this.samples[name])) this.samples[name].splice(0, old);
    }
    this.show();
  }

  get latest() {
    const at = this.samples?.at;
    return at?.length ? at[at.length - 1] : 0;
  }

  // Anew, for colours are asked for once.
  draw() {
    this.servers?.destroy();
    this.waiting?.destroy();
    const sync = { key: "hour" };
    this.servers = this.chart(this.places.servers, sync, [
      ...USES.slice().reverse().map(([key]) => ({
        stroke: colour(key), fill: colour(key), width: 0, points: { show: false },
      })),
      { stroke: colour("muted"), width: 1.5, dash: [5, 4], points: { show: false } },
    ], (at) => this.tellServers(at));
    this.waiting = this.chart(this.places.waiting, sync, [
      { stroke: colour("waiting"), fill: colour("waiting") + "33", width: 1.5, points: { show: false } },
    ], (at) => `${number(this.samples.waiting[at])} waiting, the longest ${duration(this.samples.longest_wait[at])}`);
    this.show();
  }

  chart(place, sync, series, tell) {
    const axis = {
      stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    return new uPlot({
      width: place.clientWidth || 300, height: HEIGHT, padding: [6, 8, 0, 0],
      legend: { show: false },
      cursor: { sync, y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: {
        x: { range: () => [this.begin(), this.end()] },
        y: { range: (_, low, high) => [0, Math.max(high * 1.08, 4)] },
      },
      axes: [
        { ...axis, size: 24, space: 70, values: (_, ticks) => ticks.map(clock) },
        { ...axis, size: 38, space: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
      ],
      series: [{}, ...series],
      plugins: [tooltip((at) => (this.samples ? `${clock(this.samples.at[at])}\n${tell(at)}` : ""))],
    }, this.empty(series.length), place);
  }

  begin() {
    const first = this.samples?.at[0] ?? this.end();
    return Math.max(this.end() - HOUR, Math.min(first, this.end() - LEAST));
  }

  end() {
    return this.latest || Date.now() / 1000;
  }

  empty(count) {
    return [[], ...Array.from({ length: count }, () => [])];
  }

  show() {
    if (!this.samples) return;
    const { at, cap, waiting } = this.samples;
    this.servers.setData([at, ...stacked(this.samples), cap]);
    this.waiting.setData([at, waiting]);
  }

  tellServers(at) {
    const said = USES.filter(([key]) => this.samples[key][at])
      .map(([key, words]) => `${number(this.samples[key][at])} ${words}`);
    return [...said, `cap ${number(this.samples.cap[at])}`].join("\n");
  }

  resize() {
    for (const name of ["servers", "waiting"]) {
      this[name].setSize({ width: this.places[name].clientWidth, height: HEIGHT });
    }
  }
}

// Each layer is the sum of those below it; the highest is drawn first, so that all can be seen.
function stacked(samples) {
  const sum = new Array(samples.at.length).fill(0);
  const layers = USES.map(([key]) => samples[key].map((value, at) => (sum[at] += value)));
  return layers.reverse();
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

function tooltip(tell) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  return {
    hooks: {
      init: (chart) => chart.over.append(tip),
      setCursor: (chart) => {
        const { left, top, idx } = chart.cursor;
        tip.hidden = idx === null || idx === undefined || left < 0;
        if (tip.hidden) return;
        tip.textContent = tell(idx);
        const beyond = left > chart.over.clientWidth / 2;
        tip.style.left = beyond ? "auto" : `${left + 12}px`;
        tip.style.right = beyond ? `${chart.over.clientWidth - left + 12}px` : "auto";
        tip.style.top = `${Math.max(0, Math.min(top, 60))}px`;
      },
    },
  };
}
