"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const figure = Object.fromEntries(data.figures.map(f => [f.name, f]));
let all = false;  // whether images beyond the study's most unusual are listed without a filter

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}
const number = (value, digits) => value === null ? "–" : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
const shown = (name, value) => value === null ? "–" : number(value, figure[name].digits) + (figure[name].unit ? " " + figure[name].unit : "");
const cut = size => Math.floor(size * 10 + 1e-6) / 10;  // so that no z below a threshold is shown as the threshold
const signed = z => (z < 0 ? "−" : "+") + (Math.abs(z) < 100 ? number(cut(Math.abs(z)), 1) : number(Math.abs(z), 0));
const lower = text => text[0].toLowerCase() + text.slice(1);
const ruleName = rule => rule.replace(/^(.*)_(min|max)$/, (_, name, end) => (figure[name] ? figure[name].title : "|z|") + (end === "min" ? " too small" : " too large"));

function pictures(image, attributes = {}) {
  const said = `Sagittal, coronal and axial slice of ${image.id}`;
  return element("button", {type: "button", class: "pictures", "aria-label": said + ", enlarge", ...attributes},
    element("img", {src: image.picture, alt: said, decoding: "async"}), element("img", {src: image.outline, alt: "", class: "outline", decoding: "async"}));
}
function enlarge(image) {
  const box = $("large"), close = () => box.close();
  box.replaceChildren(pictures(image, {onclick: close, "aria-label": "Close"}),
    element("div", {class: "foot"}, element("span", {}, element("b", {}, image.id), " " + image.cohort), element("button", {type: "button", onclick: close}, "Close")));
  box.showModal();
}
function draw(image) {
  const main = image.figures.find(f => f.name === image.why);
  const group = image.group === "all" ? `${number(image.size, 0)} images of ${image.cohort}` : `${number(image.size, 0)} images of ${image.cohort} aged ${image.group}`;
  const others = image.figures.filter(f => f.name !== image.why && image.reasons.includes(f.name));
  const ledger = element("a", {href: "#ledger-" + image.id, class: "to-ledger"}, "Ledger row");
  const title = element("h3", {}, image.id, element("span", {}, image.cohort + (image.age === null ? "" : `, ${number(image.age, 1)} years`)));
  return element("article", {class: "card" + (image.rule ? " out" : ""), id: "image-" + image.id, "data-id": image.id, tabindex: "-1"},
    pictures(image, {onclick: () => enlarge(image)}),
    element("div", {class: "said"}, title,
      image.rule ? element("p", {}, element("span", {class: "chip worse"}, "left out: " + ruleName(image.rule))) : null,
      image.flag ? element("p", {}, element("span", {class: "chip flag"}, "flagged, stays in"), " " + image.flag) : null,
      element("p", {class: "why"}, `${figure[image.why].title} `, element("b", {}, shown(image.why, main.value)), `, z `, element("b", {}, main.z === null ? "–" : signed(main.z)),
        `; the median of the ${group} is ${shown(image.why, main.median)}.`),
      others.length ? element("p", {class: "others"}, "Also: " + others.map(f => `${lower(figure[f.name].title)} ${shown(f.name, f.value)} (z ${signed(f.z)})`).join(", ")) : null,
      element("div", {class: "links"}, ledger)));
}
function options(select, any, entries) {
  select.replaceChildren(element("option", {value: ""}, any), ...entries.map(([value, text]) => element("option", {value}, text)));
}
const fits = image => {
  const text = $("search").value.trim().toLowerCase(), cohort = $("cohort").value, reason = $("reason").value;
  if (text && !image.id.toLowerCase().includes(text)) return false;
  if (cohort && image.cohort !== cohort) return false;
  if (reason === "excluded") return image.rule !== null;
  if (reason === "flagged") return image.flag !== null;
  if (reason.startsWith("rule:")) return image.rule === reason.slice(5);
  return !reason || image.reasons.includes(reason);
};
const filtered = () => Boolean($("search").value.trim() || $("cohort").value || $("reason").value);
function list() {
  const found = data.cards.filter(fits), visible = filtered() || all ? found : found.filter(image => image.first);
  const old = new Map([...$("cards").children].map(made => [made.dataset.id, made]));
  $("cards").replaceChildren(...visible.map(image => old.get(image.id) || draw(image)));
  $("none").hidden = visible.length > 0;
  $("count").textContent = `${number(visible.length, 0)} of ${number(data.cards.length, 0)} images with pictures`;
  const rest = found.length - visible.length;
  $("more").hidden = rest === 0;
  $("more").textContent = `Show ${number(rest, 0)} more: the most unusual of each cohort`;
}
function show(id) {
  if (!document.getElementById("image-" + id)) { $("search").value = ""; $("cohort").value = ""; $("reason").value = ""; all = true; list(); }
  const made = document.getElementById("image-" + id);
  document.querySelectorAll(".here").forEach(other => other.classList.remove("here"));
  made.classList.add("here");
  made.scrollIntoView({block: "center"});
  made.focus({preventScroll: true});
}
function ledger() {
  $("rows").replaceChildren(...data.cards.map(image => {
    const row = image.ledger || {};
    const cell = (label, content, attributes = {}) => element("td", {"data-label": label, ...attributes}, element("span", {}, content ?? "–"));
    const status = image.rule ? `${row.status ?? "–"}, then left out` : row.status;
    return element("tr", {id: "ledger-" + image.id},
      element("th", {scope: "row"}, element("a", {href: "#image-" + image.id, onclick: event => { event.preventDefault(); show(image.id); }}, image.id)),
      cell("status", status), cell("reason", image.rule ? ruleName(image.rule) : row.reason), cell("detail", image.rule ? image.detail : row.detail, {class: "detail"}),
      cell("engine", row.engine), cell("version", row.engine_version),
      cell("file and line", row.file ? element("a", {href: row.file}, `${row.file.replace("../preprocessed/", "")}, line ${row.line}`) : null));
  }));
}
function plot(name) {
  const lines = data.cohorts.filter(cohort => cohort.quantiles[name]);
  const dots = data.cards.map(image => [image, image.figures.find(f => f.name === name).value]).filter(([, value]) => value !== null);
  const values = [...lines.flatMap(cohort => cohort.quantiles[name]), ...dots.map(([, value]) => value)];
  let low = Math.min(...values), high = Math.max(...values);
  if (!(high > low)) { low -= 1; high += 1; }
  const at = value => 100 * (value - low) / (high - low);
  const rows = lines.map(cohort => {
    const q = cohort.quantiles[name];
    const bar = (kind, from, to) => element("i", {class: kind, style: `left:${at(from)}%;width:${at(to) - at(from)}%`});
    const marks = dots.filter(([image]) => image.cohort === cohort.name).map(([image, value]) => {
      const said = `${image.id}: ${shown(name, value)}`;
      return element("button", {type: "button", class: image.reasons.includes(name) ? null : "dim", style: `left:${at(value)}%`, title: said, "aria-label": said, onclick: () => show(image.id)});
    });
    const said = `${cohort.name}: median ${shown(name, q[2])}, middle half ${shown(name, q[1])} to ${shown(name, q[3])}, middle 98 % ${shown(name, q[0])} to ${shown(name, q[4])}`;
    return element("div", {class: "row"}, element("span", {title: said}, cohort.name + " ", element("small", {}, number(cohort.images, 0))),
      element("div", {class: "track", role: "group", title: said, "aria-label": said}, bar("whisker", q[0], q[4]), bar("middle", q[1], q[3]), element("i", {class: "median", style: `left:${at(q[2])}%`}), ...marks));
  });
  const ticks = [0, .25, .5, .75, 1].map(share => element("span", {style: `left:${100 * share}%`}, shown(name, low + share * (high - low))));
  $("plot").replaceChildren(...rows, element("div", {class: "row"}, element("span"), element("div", {class: "axis"}, ...ticks)));
  for (const tab of $("tabs").children) tab.setAttribute("aria-pressed", tab.dataset.name === name);
}
const count = test => data.cards.filter(test).length;
options($("cohort"), "All cohorts", data.cohorts.map(c => [c.name, c.name]));
const rules = [...new Set(data.cards.map(c => c.rule).filter(Boolean))].sort();
options($("reason"), "Any reason", [
  ...data.figures.map(f => [f.name, `${f.title} (${count(c => c.reasons.includes(f.name))})`]).filter(([name]) => count(c => c.reasons.includes(name))),
  ...(rules.length ? [["excluded", `Left out, any rule (${count(c => c.rule)})`]] : []),
  ...(count(c => c.flag) ? [["flagged", `Flagged and kept (${count(c => c.flag)})`]] : []),
  ...rules.map(rule => ["rule:" + rule, `Left out: ${ruleName(rule)} (${count(c => c.rule === rule)})`])]);
const drawn = data.figures.filter(f => data.cohorts.some(cohort => cohort.quantiles[f.name]));
$("figures").closest("section").hidden = drawn.length === 0;
$("tabs").replaceChildren(...drawn.map(f => element("button", {type: "button", "data-name": f.name, onclick: () => plot(f.name)}, f.title)));
for (const id of ["search", "cohort", "reason"]) $(id).addEventListener("input", list);
$("tools").addEventListener("submit", event => event.preventDefault());
$("outline").addEventListener("change", event => document.body.classList.toggle("bare", !event.target.checked));
$("more").addEventListener("click", () => { all = true; list(); });
list(); ledger();
if (drawn.length) plot(drawn[0].name);
