// Sphinx's search finds pages, and asks for each to show the words around the match. A page from a disk may not ask.
// This searches the sections (SEARCH_TEXTS of search_text.py) for what was typed or for the book's own words for it
// (SEARCH_SYNONYMS), and shows the best. Names of the library are looked up in Sphinx's index.
const MOST = 30; // hits
const MANY = 3; // letters of a word that may be the beginning of another
const SMALL = new Set(
  "a am an and any are as at be by can do does for from get has have how i if in into is it its many me much my not of on " +
    "or our so such that the their then there these they this to use was we what when where which who why will with you your",
);
const stemmer = new Stemmer();
const STEMS = new Map();
const stem = (word) => {
  if (!STEMS.has(word)) STEMS.set(word, stemmer.stemWord(word));
  return STEMS.get(word);
};
const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\d]+/gu) ?? [];
const escaped = (text) => Object.assign(document.createElement("i"), { textContent: text }).innerHTML;

// All sections, with the places of each stem, made when the first question is asked.
const sections = () =>
  Object.entries(SEARCH_TEXTS).flatMap(([page, parts]) =>
    parts.map(([anchor, title, text], n) => {
      const places = new Map();
      const stems = [...wordsOf(title), "", ...wordsOf(text)].map((word) => stem(word));
      stems.forEach((each, at) => places.set(each, [...(places.get(each) ?? []), at]));
      const top = new Set(wordsOf(parts[0][1]).map(stem));
      const library = page.startsWith("book/api/");
      return { page, anchor: n ? anchor : "", title, text, stems, places, top, library, names: wordsOf(title).length };
    }),
  );

// What may be meant, a list of groups: for each group one of its phrases has to be found.
const meant = (query) => {
  let words = wordsOf(query);
  const groups = [];
  const keys = Object.keys(SEARCH_SYNONYMS).sort((a, b) => wordsOf(b).length - wordsOf(a).length);
  for (const key of keys) {
    const known = wordsOf(key).map(stem);
    for (let at = 0; at + known.length <= words.length; at++) {
      if (known.every((each, n) => stem(words[at + n]) === each)) {
        // the book's own words first, and what was typed where the book has it
        groups.push([key, ...SEARCH_SYNONYMS[key]].map((phrase) => wordsOf(phrase).map(stem)));
        words = [...words.slice(0, at), ...words.slice(at + known.length)];
        at = -1;
      }
    }
  }
  const left = words.filter((word) => !SMALL.has(word));
  return [...groups, ...(left.length || groups.length ? left : words).map((word) => [[stem(word)]])];
};

const search = (query) => {
  const all = (sections.kept ??= sections());
  const seen = (word) => (seen[word] ??= all.filter((each) => each.places.has(word)).length);
  const rare = (word) => Math.log(1 + all.length / (1 + seen(word)));
  const begun = (word) => {
    if (seen(word) || word.length < MANY) return [word];
    const longer = new Set(all.flatMap((each) => [...each.places.keys()].filter((key) => key.startsWith(word))));
    return longer.size ? [...longer] : [word];
  };
  // How well a section holds a phrase: its words, in a title for more, and side by side for more.
  const worth = (section, phrase) => {
    let sum = 0;
    for (const word of phrase) {
      let best = 0;
      for (const each of begun.kept.get(word)) {
        const at = section.places.get(each);
        if (!at) continue;
        const often = at.length / (at.length + 1.5 + section.stems.length / 300);
        const titled = at[0] < section.names ? 2 + 2 / section.names : section.top.has(each) ? 0.5 : 0;
        best = Math.max(best, rare(each) * (often + titled));
      }
      if (!best) return 0;
      sum += best;
    }
    if (phrase.length > 1) {
      const starts = section.places.get(phrase[0]) ?? [];
      const beside = starts.filter((at) => phrase.every((word, n) => section.stems[at + n] === word));
      if (!beside.length) return sum / 6; // somewhere, each for itself
      sum *= beside[0] < section.names ? 2 : 1.2;
    }
    return sum;
  };
  const groups = meant(query);
  begun.kept = new Map(groups.flat(2).map((word) => [word, begun(word)]));
  const found = all.map((section) => {
    const best = groups.map((group) => {
      const worths = group.map((phrase, n) => worth(section, phrase) * (n < 2 ? 1 : 0.8));
      const most = Math.max(...worths);
      return [most, most ? group[worths.indexOf(most)] : []];
    });
    const hit = best.filter(([score]) => score).length / (groups.length || 1);
    const score = best.reduce((sum, [each]) => sum + each, 0) * hit ** 2 * (section.library ? 0.4 : 1);
    const why = best.map(([, phrase]) => phrase.flatMap((word) => begun.kept.get(word)));
    return { section, score, why };
  });
  return found.filter((each) => each.score > 0).sort((a, b) => b.score - a.score).slice(0, MOST);
};

// The words around the first place where what was found stands side by side, or alone; and what to mark in them.
const around = (text, why) => {
  const words = [...text.matchAll(/[\p{L}\d]+/gu)].map((match) => [match.index, match[0]]);
  const stems = words.map(([, word]) => stem(word.toLowerCase()));
  const wanted = new Set(why.flat());
  const beside = why.map((phrase) => stems.findIndex((_, at) => phrase.every((word, n) => stems[at + n] === word)));
  const places = [...beside.filter((at) => at >= 0), stems.findIndex((each) => wanted.has(each))];
  const middle = places[0] >= 0 ? words[places[0]][0] : 0;
  const start = middle > 120 ? text.indexOf(" ", middle - 120) + 1 : 0;
  const end = text.length > start + 240 ? text.lastIndexOf(" ", start + 240) : text.length;
  const told = (start ? "… " : "") + text.slice(start, end) + (end < text.length ? " …" : "");
  return [told, wordsOf(told).filter((word) => wanted.has(stem(word)))];
};

const show = (page, anchor, name, told, beside, marked) => {
  const item = Search.output.appendChild(document.createElement("li"));
  const link = item.appendChild(document.createElement("a"));
  link.href = `${page}${DOCUMENTATION_OPTIONS.LINK_SUFFIX}${anchor}`;
  link.innerHTML = name;
  const line = item.appendChild(document.createElement(beside ? "span" : "p"));
  if (!beside) line.className = "context";
  line.textContent = beside ? ` (${told})` : told;
  if (SPHINX_HIGHLIGHT_ENABLED) marked.forEach((term) => _highlightText(line, term, "highlighted"));
};

Search.query = (query) => {
  const [, , , , named] = Search._parseQuery(query);
  const hits = search(query);
  for (const { section, why } of hits) {
    const { page, anchor, title, text } = section;
    const where = anchor ? `<span class="page">${escaped(SEARCH_TEXTS[page][0][1])}</span> ` : "";
    const [told, marked] = around(text, why);
    show(page, anchor, where + escaped(title), told, false, new Set(marked));
  }
  const objects = [...named].flatMap((name) => Search.performObjectSearch(name, named));
  const library = objects.sort((a, b) => b[4] - a[4]).slice(0, MOST);
  for (const [page, name, anchor, told] of library) show(page, anchor, escaped(name), told, true, []);
  _finishSearch(hits.length + library.length);
  const counted = (number, one, more) => (number ? [`${number} ${number > 1 ? more : one}`] : []);
  const said = [
    ...counted(hits.length, "place in the book", "places in the book"),
    ...counted(library.length, "name of the library", "names of the library"),
  ];
  if (said.length) Search.status.innerText = `Found: ${said.join(" and ")}.`;
};
