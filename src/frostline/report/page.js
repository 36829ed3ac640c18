"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const { dataset, textContent } = row.cells[column];
      return "value" in dataset ? Number(dataset.value) : textContent;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
  }));
}
for (const map of document.querySelectorAll(".map")) {
  const points = JSON.parse(document.getElementById("points").textContent);
  const tip = map.querySelector(".tip"), circles = [...map.querySelectorAll("circle")];
  let on = -1;
  const show = (i) => {
    if (on >= 0) circles[on].classList.remove("on");
    on = i;
    tip.hidden = i < 0;
    if (i < 0) return;
    const point = points[i], circle = circles[i];
    circle.classList.add("on");
    tip.replaceChildren();
    if (point.picture) {
      const image = document.createElement("img");
      image.alt = "";
      image.src = "data:image/jpeg;base64," + point.picture;
      tip.append(image);
    }
    tip.append(point.name + ": " + point.label);
    const box = map.getBoundingClientRect(), at = circle.getBoundingClientRect();
    tip.style.left = Math.max(0, Math.min(at.left - box.left + 10, box.width - tip.offsetWidth)) + "px";
    tip.style.top = Math.max(0, Math.min(at.top - box.top + 12, box.height - tip.offsetHeight)) + "px";
  };
  map.addEventListener("pointermove", (event) => {
    const circle = event.target.closest("circle");
    show(circle ? Number(circle.dataset.i) : -1);
  });
  map.addEventListener("pointerleave", () => show(-1));
  map.addEventListener("blur", () => show(-1));
  map.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step || !points.length) return;
    event.preventDefault();
    show((on + step + points.length) % points.length);
  });
}
