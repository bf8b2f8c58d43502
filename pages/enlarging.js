"use strict";
for (const button of document.querySelectorAll("button.enlarge")) {
  button.addEventListener("click", () => {
    const large = button.closest("figure").classList.toggle("large");
    button.setAttribute("aria-expanded", String(large));
  });
}
