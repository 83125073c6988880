//! What the page does: values under the pointer, and a switch between light and dark.

/// The script. Texts enter the page as text, never as markup.
pub(super) const SCRIPT: &str = r##"
"use strict";
const root = document.documentElement;
const button = document.getElementById("theme");
const setTheme = (theme) => {
  root.dataset.theme = theme;
  if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
};
const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
setTheme(location.hash === "#dark" || location.hash === "#light" ? location.hash.slice(1) : preferred);
if (button) button.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

for (const figure of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(document.getElementById(figure.dataset.chart).textContent);
  const plot = figure.querySelector(".plot");
  const rule = plot.querySelector(".rule");
  const tip = plot.querySelector(".tip");
  const hide = () => { rule.style.display = tip.style.display = "none"; };
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    let low = 0, high = data.x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.x[middle] < at) low = middle + 1; else high = middle;
    }
    if (low > 0 && at - data.x[low - 1] < data.x[low] - at) low -= 1;
    tip.replaceChildren(element("span", "when", data.names[low]));
    for (const line of data.lines) {
      if (line.text[low] === null) continue;
      const row = element("div");
      row.append(element("i", "swatch " + line.class), element("span", "", line.name), element("span", "", line.text[low]));
      tip.append(row);
    }
    rule.style.display = tip.style.display = "block";
    rule.style.left = 100 * data.x[low] + "%";
    const right = data.x[low] > 0.5;
    tip.style.left = right ? "auto" : "calc(" + 100 * data.x[low] + "% + 12px)";
    tip.style.right = right ? "calc(" + 100 * (1 - data.x[low]) + "% + 12px)" : "auto";
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
"##;
