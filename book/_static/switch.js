// A link to a picture that its switch hides turns the switch first.
{
  const turn = () => {
    const there = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const side = there?.closest(".ibv-switch > .sd-tab-content");
    if (!side) return;
    document.querySelector(`label[aria-controls="${side.id}"]`).click();
    there.scrollIntoView();
  };
  addEventListener("load", turn);
  addEventListener("hashchange", turn);
}
