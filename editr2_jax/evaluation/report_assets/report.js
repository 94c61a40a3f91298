"use strict";
// What every part of the page uses. Data reaches the document as text only, never as markup.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function drawn(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace(/-/g, "\u2212");
}

function fixed(value, digits) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "\u2212") : "–";
}

const mean = (values) => { const found = values.filter(isNumber); return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null; };
const sum = (values) => values.reduce((a, b) => a + b, 0);
const words = (name) => String(name).replaceAll("_", " ");
const tone = (value) => (!isNumber(value) ? "even" : value >= 0.75 ? "up" : value <= 0.25 ? "down" : "half");
const signTone = (value) => (!isNumber(value) || value === 0 ? "even" : value > 0 ? "up" : "down");
const gainTone = (value, digits) => signTone(isNumber(value) ? Number(value.toFixed(digits)) : value); // what is told as zero has no colour
const signed = (value, digits = 2) => (isNumber(value) && value > 0 ? "+" : "") + fixed(value, digits);

function photo(image) { if (image.naturalWidth > 192) image.classList.add("photo"); } // small pictures keep their pixels

function picture(address, alt) {
  const source = typeof address === "string" && address.startsWith("@") ? document.getElementById(address.slice(1))?.src : address;
  if (!source) return element("div", { class: "picture absent" }, "no picture");
  return element("img", { class: "picture", src: source, alt, loading: "lazy", decoding: "async", onload: (event) => photo(event.target) });
}

// A fault of this script is told on the page: nobody looks into a browser's console.
function confess(message) {
  const place = document.getElementById("script-error");
  place.hidden = false;
  place.textContent = `A part of this page does not work: ${message}`;
}

function startTheme() {
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

function startReport() {
  window.addEventListener("error", (event) => confess(event.message));
  window.addEventListener("unhandledrejection", (event) => confess(event.reason));
  document.querySelectorAll("img.picture").forEach((image) => {
    if (image.complete) photo(image);
    image.addEventListener("load", () => photo(image));
  });
  const attempt = (start) => { try { start(); } catch (error) { confess(error); } };
  [startTheme, startCharts].forEach(attempt);
  document.addEventListener("DOMContentLoaded", () => attempt(startInspector)); // its sessions follow this script: the page is read meanwhile
}
