// What test_browser.py looks at on every page, and which buttons it works.
addEventListener("load", () => {
  const found = [];
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  for (const frame of document.querySelectorAll("iframe")) {
    const { document: page, innerWidth } = frame.contentWindow;
    const one = { page: frame.dataset.page, width: +frame.width };
    found.push(one);
    one.overflow = page.documentElement.scrollWidth - innerWidth;
    one.broken = [...page.images].filter((i) => !i.naturalWidth).length;
    one.styled = getComputedStyle(page.querySelector("h1")).fontWeight;
    const key = (target, name) => target.dispatchEvent(
      new frame.contentWindow.KeyboardEvent("keydown", { key: name, bubbles: true }));

    const root = page.documentElement, theme = page.querySelector(".theme");
    theme.click();
    one.first = root.dataset.theme;
    one.paper = [getComputedStyle(page.body).backgroundColor];
    theme.click();
    one.second = root.dataset.theme;
    one.paper.push(getComputedStyle(page.body).backgroundColor);

    const heading = page.querySelector(".table thead button")?.closest("th");
    if (heading) {
      const place = [...heading.parentNode.cells].indexOf(heading);
      const column = () => [...heading.closest("table").tBodies[0].rows].map((r) => r.textContent);
      const before = column();
      one.sorts = [];
      for (let k = 0; k < 3; k++) {
        heading.querySelector("button").click();
        one.sorts.push(heading.getAttribute("aria-sort"));
      }
      one.restored = String(column()) === String(before);
      one.focusable = heading.querySelector("button").tabIndex === 0 && place >= 0;
    }

    const place = page.querySelector(".compare"), own = frame.contentWindow;
    if (place) {
      const at = (is) => place.querySelector(`[data-is="${is}"]`);
      const set = (is, to, event) => (at(is).value = to, at(is).dispatchEvent(new Event(event)));
      const see = (is, x) => (pixel.drawImage(at(is), x, 230, 1, 1, 0, 0, 1, 1),
        String(pixel.getImageData(0, 0, 1, 1).data));
      const isA = (x) => see("both", x) === see("paneA", x);
      const shown = () => Object.values(JSON.parse(place.dataset.shown));
      [one.compared, one.scores] = [shown(), at("scores").textContent];
      one.slid = [0, 50, 100].map((to) => (set("split", to, "input"), [190, 570].map(isA)));
      one.keys = ["ArrowRight", "+", "0"].map((k) => (key(at("map"), k), shown().slice(4)));
      one.maps = ["gain", "difference"].map((k) => (set("kind", k, "change"), see("map", 384)));
      own.history.replaceState(null, "", "#image=x4/photos/a%20cat/typical&a=hr");
      own.dispatchEvent(new Event("hashchange"));
      at("swap").click();
      one.asked = [...shown(), decodeURIComponent(own.location.hash)];
      page.querySelector("figure a").dispatchEvent(new Event("click", { bubbles: true }));
    }

    const figure = page.querySelector("figure"), zoom = page.querySelector("dialog.zoom");
    one.figures = page.querySelectorAll("figure").length;
    if (figure) {
      one.zoom = [zoom.open];
      figure.click();
      one.zoom.push(zoom.open && zoom.childElementCount === 1);
      zoom.click();
      one.zoom.push(zoom.open);
      key(figure, "Enter");
      one.zoom.push(zoom.open);
      zoom.close();
    }
  }
  document.body.dataset.found = JSON.stringify(found);
});
