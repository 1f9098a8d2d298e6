"use strict";
// Everything of the recording is set as text or as the address of a picture in the page itself, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg", SHOWN = 300;

function add(parent, tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  parent.append(node);
  return node;
}

function addSvg(parent, tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

for (const note of data.notes) add(byId("notes"), "li", note);
for (const [id, rows] of [["facts", data.facts], ["leaves", data.leaves]])
  for (const [name, value] of rows) {
    const row = add(byId(id), "tr");
    add(row, "th", name);
    add(row, "td", value);
  }

// The table of episodes: sorted by a click on a column, filtered by words and comparisons.
const columns = [["episode", (i) => i], ["length", (i) => data.length[i]], ["end", (i) => data.end[i]]];
if (data.returns) columns.splice(2, 0, ["return", (i) => data.returns[i]]);
const getters = Object.fromEntries(columns);
let sortedBy = "episode", falling = false, chosen = -1;

function compare(a, b) { // what is not finite comes last, whichever way
  if (a === null || b === null) return (a === null) - (b === null);
  return (falling ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0);
}

function passes(i, words) {
  return words.every((word) => {
    const found = word.match(/^(episode|length|return)(<=|>=|<|>|=)(-?[\d.]+(?:e[+-]?\d+)?)$/i);
    if (!found) return data.end[i].includes(word);
    const value = (getters[found[1]] || (() => null))(i), limit = Number(found[3]);
    if (value === null) return false;
    return {"<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit}[found[2]];
  });
}

function list() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean), get = getters[sortedBy];
  const kept = data.length.map((_, i) => i).filter((i) => passes(i, words));
  kept.sort((a, b) => compare(get(a), get(b)) || a - b);
  const more = kept.length > SHOWN ? `; the first ${SHOWN} are listed` : "";
  byId("count").textContent = `${kept.length} of ${data.length.length} episodes${more}`;
  const head = byId("episodes").tHead.rows[0], body = byId("episodes").tBodies[0];
  head.replaceChildren();
  for (const [name] of columns) {
    const arrow = name === sortedBy ? (falling ? " \u25be" : " \u25b4") : "";
    add(head, "th", name + arrow, name === "end" ? "" : "number").onclick = () => {
      falling = name === sortedBy ? !falling : name === "length" || name === "return";
      sortedBy = name;
      list();
    };
  }
  body.replaceChildren();
  for (const i of kept.slice(0, SHOWN)) {
    const row = add(body, "tr", undefined, i >= data.episodes.length ? "bare" : "");
    row.classList.toggle("chosen", i === chosen);
    row.dataset.episode = i;
    for (const [name, value] of columns) {
      const found = value(i);
      add(row, "td", found === null ? "not finite" : String(found), name === "end" ? "" : "number");
    }
    row.onclick = () => choose(i);
  }
}

// The chosen episode: frames and curves, with one cursor for all.
let cursors = [], player = null;

function lastAt(at, step) {
  let low = 0, high = at.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (at[middle] <= step) low = middle; else high = middle - 1;
  }
  return low;
}

function addCurve(curve, last) {
  const box = add(byId("curves"), "div", undefined, "curve"), label = add(box, "b", curve.name);
  const finite = curve.values.filter((x) => x !== null);
  const low = Math.min(...finite), high = Math.max(...finite), range = high > low ? high - low : 1;
  add(box, "span", finite.length ? `${low} to ${high}` : "not finite", "range");
  const value = add(box, "span", ""), svg = addSvg(box, "svg", {viewBox: "0 0 1000 100", preserveAspectRatio: "none"});
  addSvg(svg, "rect", {x: 0, y: 0, width: 1000, height: 100, class: "frame"});
  const x = (step) => (1000 * step) / Math.max(last, 1);
  let path = "", pen = false;
  curve.values.forEach((y, i) => {
    if (y === null) { pen = false; return; }
    const at = x(curve.at[i]).toFixed(1), up = (high > low ? 96 - (92 * (y - low)) / range : 50).toFixed(1);
    path += pen ? (curve.steps ? `H${at}V${up}` : `L${at} ${up}`) : `M${at} ${up}h0.1`;
    pen = true;
  });
  addSvg(svg, "path", {d: path, class: "line"});
  const line = addSvg(svg, "line", {y1: 0, y2: 100, class: "cursor"});
  label.title = curve.name;
  cursors.push((step) => {
    for (const end of ["x1", "x2"]) line.setAttribute(end, x(step));
    const found = curve.values[lastAt(curve.at, step)];
    value.textContent = `${step > curve.at[curve.at.length - 1] ? "no step" : found === null ? "not finite" : found}`;
  });
}

function choose(i) {
  stop();
  chosen = i;
  for (const row of byId("episodes").tBodies[0].rows) row.classList.toggle("chosen", Number(row.dataset.episode) === i);
  byId("name").textContent = `Episode ${i}`;
  const returned = data.returns ? `, return ${data.returns[i]}` : "";
  const found = data.episodes[i], text = found && found.data ? `; ${found.data}` : "";
  byId("about").textContent = `${data.length[i]} steps${returned}, ${data.end[i]}${text}`;
  for (const id of ["frames", "curves"]) byId(id).replaceChildren();
  byId("info").textContent = found ? "" : "Its curves and frames are not in this page.";
  byId("controls").hidden = !found;
  cursors = [];
  if (!found) return;
  const ends = [...found.curves, ...found.frames].map((each) => each.at[each.at.length - 1]), last = Math.max(data.length[i] - 1, ...ends);
  for (const frames of found.frames) {
    const figure = add(byId("frames"), "figure"), picture = add(figure, "img"), caption = add(figure, "figcaption");
    picture.alt = frames.name;
    cursors.push((step) => {
      const at = lastAt(frames.at, step);
      picture.src = frames.pictures[at];
      caption.textContent = `${frames.name}, step ${frames.at[at]}`;
    });
  }
  for (const curve of found.curves) addCurve(curve, last);
  if (found.infos) cursors.push((step) => {
    const at = lastAt(found.infos.at, step);
    byId("info").textContent = `info of step ${found.infos.at[at]}: ${found.infos.texts[at] || "empty"}`;
  });
  byId("step").max = last;
  moveTo(0);
}

function moveTo(step) {
  byId("step").value = step;
  byId("now").textContent = `step ${step} of ${byId("step").max}`;
  for (const cursor of cursors) cursor(step);
}

function stop() {
  clearInterval(player);
  player = null;
  byId("play").textContent = "Play";
}

byId("play").onclick = () => {
  if (player !== null) { stop(); return; }
  const last = Number(byId("step").max), stride = Math.max(1, Math.round(last / 600));
  if (Number(byId("step").value) >= last) moveTo(0);
  byId("play").textContent = "Pause";
  player = setInterval(() => {
    const step = Number(byId("step").value) + stride;
    moveTo(Math.min(step, last));
    if (step >= last) stop();
  }, 50);
};
byId("step").oninput = () => { stop(); moveTo(Number(byId("step").value)); };
byId("filter").oninput = list;
list();
if (data.length.length) choose(0); else byId("one").hidden = true;
