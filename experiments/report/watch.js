// A page that is written anew while its experiment runs: it reloads itself, keeps its place, and can be paused.
(() => {
  const key = `gem-distill ${location.pathname}`;
  const kept = JSON.parse(sessionStorage.getItem(key) || "{}");
  const folds = [...document.querySelectorAll("details")];
  const button = document.getElementById("pause");
  let paused = Boolean(kept.paused);
  let timer;

  function keep() {
    const open = folds.map((fold) => fold.open);
    sessionStorage.setItem(key, JSON.stringify({ paused, open, y: scrollY }));
  }
  function schedule() {
    clearTimeout(timer);
    button.textContent = paused ? "Continue" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
    if (!paused) timer = setTimeout(() => location.reload(), 1000 * seconds);
  }
  const seconds = Number(document.currentScript.dataset.seconds);
  if (kept.open?.length === folds.length) folds.forEach((fold, index) => (fold.open = kept.open[index]));
  if (kept.y) scrollTo(0, kept.y);
  button.addEventListener("click", () => {
    paused = !paused;
    schedule();
  });
  addEventListener("pagehide", keep);
  schedule();
})();
