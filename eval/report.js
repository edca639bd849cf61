"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.querySelector(".controls");
const table = document.getElementById("query-table");
const dialog = document.getElementById("query");
const body = document.getElementById("query-body");

/** An element with attributes and children; strings become text, never HTML. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const fixed = (value) => value.toFixed(4).replace("-", "\u2212");
const signed = (value) => (value > 0 ? "+" : "") + fixed(value);
const direction = (value) => (value > 0 ? "up" : value < 0 ? "down" : "");
const number = (text, value, kind = "") =>
  make("td", { class: `number ${kind}`.trim(), "data-value": value }, text);

// Sorting: the first click on a column of numbers puts the highest first, what has none is last.

function sortable(table) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = heading.classList.contains("number") ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      sort(table, heading, heading.getAttribute("aria-sort") === first ? other : first);
    });
  }
}

function sort(table, heading, order) {
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const numeric = heading.classList.contains("number");
  const key = (row) => {
    const cell = row.cells[heading.cellIndex];
    if (!numeric) return cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const keyed = Array.from(table.tBodies[0].rows, (row) => [key(row), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

// The list of queries.

const chosen = (name) => Number(form.elements[name].value || 0);
const compared = () => data.systems.length > 1;

function fill(name, labels, start = 0) {
  const select = form.elements[name];
  select.append(...labels.slice(start).map((text, i) => make("option", { value: i + start }, text)));
  if (labels.length - start < 2) select.parentElement.hidden = true;
  select.parentElement.style.display = select.parentElement.hidden ? "none" : "";
}

function list() {
  const [place, measure, system] = ["dataset", "measure", "system"].map(chosen);
  for (const plot of document.querySelectorAll("[data-dataset]")) {
    plot.hidden = Number(plot.dataset.dataset) !== place;
  }
  const sorted = table.querySelector("[aria-sort]");
  const kept = sorted && [sorted.cellIndex, sorted.getAttribute("aria-sort")];
  const head = ["query", "text", ...(compared() ? ["difference"] : []), ...data.systems];
  table.tHead.rows[0].replaceChildren(
    ...head.map((text, i) => make("th", { scope: "col", class: i > 1 ? "number" : null }, text)),
  );
  const { label, queries } = data.datasets[place];
  table.caption.textContent = `Queries of ${label} by ${data.measures[measure]}`;
  table.tBodies[0].replaceChildren(
    ...queries.map((query, i) => {
      const values = query.values[measure];
      const cells = values.map((value) => number(fixed(value), value));
      if (compared()) {
        const difference = values[system] - values[0];
        cells.unshift(number(signed(difference), difference, direction(difference)));
      }
      const open = make("button", { type: "button", class: "open" }, query.id);
      const row = make("tr", {}, make("td", {}, open), make("td", { class: "text" }, query.text), ...cells);
      row.dataset.query = i;
      return row;
    }),
  );
  sortable(table);
  if (kept) sort(table, table.tHead.rows[0].cells[kept[0]], kept[1]);
  else if (compared()) sort(table, table.tHead.rows[0].cells[2], "descending");
  filter();
}

function filter() {
  const wanted = form.elements.filter.value.trim().toLowerCase();
  const rows = Array.from(table.tBodies[0].rows);
  for (const row of rows) {
    const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
    row.hidden = !text.includes(wanted);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("count").textContent =
    `${shown} of ${rows.length} queries. Open one for the documents that each system found.`;
}

// One query.

let current = null; // its row

function open(row) {
  current = row;
  const place = chosen("dataset");
  body.replaceChildren(...queryView(data.datasets[place].queries[Number(row.dataset.query)]));
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.disabled = neighbour(Number(button.dataset.step)) === undefined;
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function neighbour(step) {
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
  return rows[rows.indexOf(current) + step];
}

function queryView(query) {
  return [
    make("h2", { id: "query-text" }, query.text || query.id),
    make("p", { class: "note" }, `Query ${query.id}`),
    scroll("Values by system", valuesTable(query)),
    make("div", { class: "lists", tabindex: 0, role: "region", "aria-label": "Documents by system" },
      ...data.systems.map((name, system) => hitsView(query, name, system))),
    scroll("Ranks of relevant documents", relevantTable(query)),
  ];
}

const scroll = (label, content) =>
  make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);

function grid(caption, head, names, rows) {
  const cells = head.map((text, i) => make("th", { scope: "col", class: i < names ? null : "number" }, text));
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...rows));
}

function valuesTable(query) {
  const rows = data.systems.map((name, system) =>
    make("tr", {}, make("th", { scope: "row" }, name),
      ...query.values.map((values) => number(fixed(values[system]), values[system]))));
  return grid("Values", ["system", ...data.measures], 1, rows);
}

function relevantTable(query) {
  const more = query.more ? `, the first ${query.relevant.length} of ${query.relevant.length + query.more}` : "";
  const rows = query.relevant.map(([id, grade, ranks]) =>
    make("tr", {}, make("th", { scope: "row" }, titled(query, id)), number(String(grade), grade),
      ...ranks.map((rank) => number(rank === null ? "\u2013" : String(rank), rank ?? ""))));
  return grid(`Relevant documents and their ranks among the first ${data.kept}${more}`, ["document", "grade", ...data.systems], 1, rows);
}

// Own keys only: a document may be called "constructor".
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const documentOf = (query, id) => own(query.documents, id) ?? ["", ""];

function titled(query, id) {
  const [title] = documentOf(query, id);
  const short = title.length > 60 ? `${title.slice(0, 60)}\u2026` : title;
  return title && title !== id ? `${short} (${id})` : id;
}

function hitsView(query, name, system) {
  const hits = query.hits[system].map(([id, score]) => hitView(query, system, id, score));
  return make("section", {}, make("h3", {}, name),
    hits.length ? make("ol", {}, ...hits) : make("p", { class: "note" }, "No documents found."));
}

function hitView(query, system, id, score) {
  const [title, text] = documentOf(query, id);
  const grade = own(query.grades, id);
  const relevant = query.relevantFrom <= grade;
  const reasons = query.reasons && own(query.reasons[system], id);
  return make("li", { class: relevant ? "relevant" : null },
    make("div", { class: "title" }, ...marked(title && title !== id ? title : id, query.words)),
    make("div", { class: "facts" }, make("span", {}, id), make("span", {}, `score ${score}`),
      grade === undefined ? null
        : make("span", { class: "grade" }, relevant ? `relevant, grade ${grade}` : `judged, grade ${grade}`)),
    text ? make("p", {}, ...marked(text, query.words)) : null,
    reasons ? reasonsView(reasons) : null);
}

/** `text` with the words of the query marked. */
function marked(text, words) {
  return text.split(/([\p{L}\p{N}_]+)/u).map((part) =>
    words.includes(part.toLowerCase()) ? make("mark", {}, part) : part);
}

function reasonsView(reasons) {
  const rows = reasons.map(([term, added, share, expanded]) => {
    const meter = make("span");
    meter.style.width = `${Math.min(100, 100 * share)}%`;
    return make("tr", { class: expanded ? "expanded" : null },
      make("th", { scope: "row" }, term, expanded ? make("small", {}, `not in the ${expanded}`) : null),
      make("td", { class: "meter" }, meter),
      number(added.toFixed(2), added));
  });
  return make("details", { class: "reasons" }, make("summary", {}, "Terms and what they added"),
    make("table", {}, make("tbody", {}, ...rows)));
}

// Start.

document.querySelectorAll("table.sortable").forEach((each) => each !== table && sortable(each));
fill("dataset", data.datasets.map((dataset) => dataset.label));
fill("measure", data.measures);
fill("system", data.systems, 1);
form.hidden = table.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dataset", "measure", "system"]) form.elements[name].addEventListener("change", list);
form.elements.filter.addEventListener("input", filter);
table.tBodies[0].addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) open(row);
});
dialog.addEventListener("click", (event) => {
  const { step, close } = event.target.dataset;
  if (step) open(neighbour(Number(step)));
  if (close !== undefined || event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => current.querySelector("button").focus());
list();
