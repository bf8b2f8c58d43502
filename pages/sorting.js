"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...Array.from(head.childNodes));
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const body = table.tBodies[0];
      const compare = (first, second) => {
        const a = key(first), b = key(second);
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = a.localeCompare(b, "en", { numeric: true });
        const numbers = Number(a) - Number(b);
        return (up ? 1 : -1) * (Number.isNaN(numbers) ? order : numbers);
      };
      body.append(...Array.from(body.rows).sort(compare));
    });
  });
}
