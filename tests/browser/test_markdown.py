"""Markdown in a real browser: what is drawn, what is never drawn, and what drawing costs."""

import random
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import ORIGIN, profile, serve_page

DRAW = """async (text) => {
  const { MarkdownView } = await import("/page/growing.js");
  const root = document.createElement("div");
  new MarkdownView(root).update(text);
  for (const part of root.querySelectorAll("figcaption")) part.remove();
  for (const part of root.querySelectorAll("[role=region]")) part.removeAttribute("role");
  for (const part of root.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
  return root.innerHTML;
}"""

GROW = """async (pieces) => {
  const { MarkdownView } = await import("/page/growing.js");
  const [whole, grown] = [document.createElement("div"), document.createElement("div")];
  const view = new MarkdownView(grown);
  let text = "";
  const shown = [];
  for (const piece of pieces) {
    view.update((text += piece), { grows: true });
    shown.push(grown.textContent.length);
  }
  view.update(text);
  new MarkdownView(whole).update(text);
  return [whole.innerHTML, grown.innerHTML, shown];
}"""

PARTS = """async (text) => {
  const { MarkdownView } = await import("/page/growing.js");
  const root = document.createElement("div");
  document.body.append(root);
  new MarkdownView(root).update(text);
  const nodes = [...root.querySelectorAll("*")];
  const found = {
    tags: nodes.map((node) => node.localName),
    attributes: nodes.flatMap((node) => node.getAttributeNames()),
    targets: nodes.filter((node) => node.href !== undefined).map((node) => new URL(node.href).protocol),
    text: root.textContent,
  };
  root.remove();
  return found;
}"""

FENCED = (
    '<figure class="code" data-language="py"><pre tabindex="0"><code>a  = 1\n\n*x*\n</code></pre></figure>'
)
TABLE = (
    '<div class="wide" tabindex="0"><table>\n<thead>\n<tr>\n<th>a</th>\n<th class="to-right">b</th>\n</tr>\n'
    '</thead>\n<tbody>\n<tr>\n<td>1</td>\n<td class="to-right">2</td>\n</tr>\n</tbody>\n</table></div>'
)
LINK = '<a href="{0}" title="{0}" target="_blank" rel="noopener noreferrer nofollow">{1}</a>'
TAGS = {
    "a", "blockquote", "br", "button", "code", "div", "em", "figcaption", "figure", "h3", "h4", "h5", "hr", "li", "ol",
    "p", "path", "pre", "s", "span", "strong", "svg", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
"""Of them `svg`, `path` and `button` are in the head of a block of code, which is ours."""
HOSTILE = {
    "script": "<script>window.hit = 1</script>",
    "image with a listener": "<img src=x onerror=window.hit=1>",
    "remote image": "![picture](https://evil.example/p.png)",
    "image as data": "![picture](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "image in a link": "[![picture](https://evil.example/p.png)](https://evil.example/)",
    "javascript link": "[x](javascript:window.hit=1)",
    "javascript link in disguise": "[x](java&#115;cript:window.hit=1) [x](JaVaScRiPt&colon;window.hit=1)",
    "javascript autolink": "<javascript:window.hit=1>",
    "data link": "[x](data:text/html,<script>window.hit=1</script>)",
    "file and own schemes": "[x](file:///etc/passwd) [x](vbscript:x) [x](blob:https://a.example/1) [x](//evil.example)",
    "attribute in a link": '[x](https://a.example/"onmouseover="window.hit=1)',
    "attribute in a title": "[x](https://a.example/ '\" onclick=\"window.hit=1')",
    "svg": "<svg onload=window.hit=1><script>window.hit=1</script></svg>",
    "svg and math that change their nature": "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
    "fence whose language is markup": '```"><img src=x onerror=window.hit=1>\ncode\n```',
    "fence of markup": "```html\n<script>window.hit=1</script>\n```",
    "frame in a quote in a list": "> - <iframe src=https://evil.example></iframe>",
    "table of markup": '| <b onclick=window.hit=1>a |\n|:-:|\n| "><img src=x onerror=window.hit=1> |',
    "unclosed fence": "text\n```js\n<script>window.hit=1</script>\n\n# no heading",
    "half a tag": "text <img src=x onerr",
    "style": "<style>*{display:none}</style> <link rel=stylesheet href=https://evil.example/x.css>",
    "form": '<form action="https://evil.example"><input name=key><button>Sign in</button></form>',
    "entities": "&lt;script&gt;window.hit=1&lt;/script&gt; &#60;img src=x onerror=window.hit=1&#62;",
    "names of the page": '<a id="app"></a><img name=body><form id=announcer></form>',
}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain *em* **strong** `a*b`", "<p>plain <em>em</em> <strong>strong</strong> <code>a*b</code></p>"),
        ("one\n\ntwo\nlines", "<p>one</p><p>two<br>\nlines</p>"),
        ("# Big\n### Small #", "<h3>Big</h3><h4>Small</h4>"),
        ("- a\n  - b\n- c", "<ul>\n<li>a\n<ul>\n<li>b</li>\n</ul>\n</li>\n<li>c</li>\n</ul>"),
        ("3. a\n4. b", '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>'),
        (
            "```py\na  = 1\n\n*x*\n```\nafter",
            f"{FENCED}<p>after</p>",
        ),
        ("> quoted *text*", "<blockquote>\n<p>quoted <em>text</em></p>\n</blockquote>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("~~gone~~", "<p><s>gone</s></p>"),
        ("a **b", "<p>a **b</p>"),
        ("see https://a.example/b.", f"<p>see {LINK.format('https://a.example/b', 'https://a.example/b')}.</p>"),
        ("[docs](https://a.example/)", f"<p>{LINK.format('https://a.example/', 'docs')}</p>"),
        ("[a] and [b](https://b.example/)", f"<p>[a] and {LINK.format('https://b.example/', 'b')}</p>"),
        (
            "[1]: https://a.example/",
            f"<p>[1]: {LINK.format('https://a.example/', 'https://a.example/')}</p>",
        ),
        (
            "![a cat](https://a.example/cat.png)",
            f"<p>{LINK.format('https://a.example/cat.png', 'Image: a cat')}</p>",
        ),
        ("---", "<hr>"),
        ("line\u2028separator *x*", "<p>line\u2028separator <em>x</em></p>"),
        (
            "|a|b|\n|-|-:|\n|1|2|",
            TABLE,
        ),
        (r"so \(a^2 + b_1*c*_2\) *is*", r"<p>so \(a^2 + b_1*c*_2\) <em>is</em></p>"),
        (r"\[ x_{i} = \{ *y* \} \\ z \]", r"<p>\[ x_{i} = \{ *y* \} \\ z \]</p>"),
        (
            "\\[\na\n- b\n= c\n+ d\n\\]\n- e",
            "<p>\\[<br>\na<br>\n- b<br>\n= c<br>\n+ d<br>\n\\]</p><ul>\n<li>e</li>\n</ul>",
        ),
        (
            "thus\n$$\na_1\n===\n# b_1\n$$\nand *so*",
            "<p>thus</p><p>$$<br>\na_1<br>\n===<br>\n# b_1<br>\n$$</p><p>and <em>so</em></p>",
        ),
        ("- a\n  $$\n  - b\n  $$", "<ul>\n<li>a\n<p>$$<br>\n- b<br>\n$$</p>\n</li>\n</ul>"),
        (
            r"\begin{align*} a &= b \\ *c* \end{align*} *d*",
            r"<p>\begin{align*} a &amp;= b \\ *c* \end{align*} <em>d</em></p>",
        ),
        ("$x*y*z$ and $a_1$", "<p>$x*y*z$ and $a_1$</p>"),
        ("$5 *or* $6, $7/$8 *each*", "<p>$5 <em>or</em> $6, $7/$8 <em>each</em></p>"),
        (r"as \[1\], \[2, 3\] say", "<p>as [1], [2, 3] say</p>"),
        (r"open \(a_1 and *b*", r"<p>open \(a_1 and <em>b</em></p>"),
        (r"`\(a\)` \*", r"<p><code>\(a\)</code> *</p>"),
        ("$$\na\n\n- b\n\n$$", "<p>$$<br>\na</p><ul>\n<li>b</li>\n</ul><p>$$</p>"),
        (r"\(<b>x</b> https://a.example\)", r"<p>\(&lt;b&gt;x&lt;/b&gt; https://a.example\)</p>"),
    ],
)  # fmt: skip
def test_markdown_is_drawn(site: Page, text: str, html: str) -> None:
    assert site.evaluate(DRAW, text) == html


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_model_writes_never_becomes_markup_nor_loads_anything(site: Page, text: str) -> None:
    requests: list[str] = []
    site.on("request", lambda request: requests.append(request.url))
    site.evaluate("delete window.hit")
    found = site.evaluate(PARTS, text)
    assert set(found["tags"]) <= TAGS
    assert not [
        name
        for name in found["attributes"]
        if name.startswith("on") or name in {"id", "name", "style", "src"}
    ]
    assert set(found["targets"]) <= {"http:", "https:", "mailto:"}
    site.evaluate(
        "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
    )
    assert site.evaluate("window.hit") is None
    assert not [url for url in requests if not url.startswith("http://localhost/page/")]


def test_the_sanitiser_stands_where_the_parser_would_let_something_through(browser: Browser) -> None:
    """Two walls: what is tested above must hold even if the parser passed markup through.

    In a tab of its own: the policy, the third wall, says of each listener that it was seen and blocked.
    """
    with profile(browser) as context:
        page = context.new_page()
        page.route(f"{ORIGIN}/**", serve_page)
        page.goto(ORIGIN)
        clean = page.evaluate(
            """async (html) => {
              const { sanitise } = await import("/page/markdown.js");
              const root = document.createElement("div");
              root.append(sanitise(html));
              return root.innerHTML;
            }""",
            '<p onclick="x()">a<img src=x onerror=x()><script>x()</script><a href="javascript:x()">b</a>'
            '<style>*{}</style><svg><a href="https://c.example">c</a></svg></p>',
        )
    assert clean == "<p>a<a>b</a></p>"


@pytest.mark.parametrize("where", ["{}", "`{}`", "```\n{}\n```", "[{}](https://a.example)", "- **{}**"])
def test_characters_that_turn_text_around_are_shown_by_their_codes(site: Page, where: str) -> None:
    found = site.evaluate(PARTS, where.format("user\u202e nimda\u2066"))
    assert "userU+202E nimdaU+2066" in found["text"]
    assert "\u202e" not in found["text"]


def test_text_that_grows_is_drawn_like_text_that_came_at_once(site: Page) -> None:
    random_ = random.Random(7)
    parts = [
        "- a", "1. b", "\n", "\n\n", "  ", "    ", "```", "~~~", "> q", "# h", "*e*", "**s**", "`c`", "word ", "w",
        "[l](https://e.x/)", "_", "---", "===", "\r\n", "\t", "|a|b|\n|-|-|\n", "|1|2|\n", "<b>", "1", ".", "&amp;",
        "![i](https://e.x/i.png)", "[d]: https://e.x/d", "$$", "$", "\\[", "\\]", "\\(", "\\)",
        "\\begin{a}", "\\end{a}",
    ]  # fmt: skip
    for _ in range(300):
        text = "".join(random_.choice(parts) for _ in range(random_.randint(1, 30)))
        cuts = sorted(random_.randint(0, len(text)) for _ in range(8))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole, grown, _ = site.evaluate(GROW, pieces)
        assert grown == whole, pieces


@pytest.mark.parametrize("block", ["{}", "- {}", "> {}", "```\n{}", "|a|b|\n|-|-|\n{}"])
def test_a_long_block_that_is_not_drawn_with_each_delta_is_shown_with_each(site: Page, block: str) -> None:
    pieces = [*block.format(f"{'word ' * 2000}x").partition("x"), *["y"] * 50]
    whole, grown, shown = site.evaluate(GROW, pieces)
    assert grown == whole
    assert [after - before for before, after in pairwise(shown[2:])] == [1] * 50


@pytest.mark.parametrize(
    "piece",
    ["[", "*a", "`", "``` ", "# ", "> ", "_a_", "**", "[a](", "http://)", "- ", "\\", "a\n\n", "![", "<a ", "|a", "&#"],
)  # fmt: skip
def test_hostile_text_is_drawn_in_bounded_time(site: Page, piece: str) -> None:
    took = site.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/page/growing.js");
          const started = performance.now();
          new MarkdownView(document.createElement("div")).update(text);
          return performance.now() - started;
        }""",
        piece * (100_000 // len(piece)) + "x",
    )
    assert took < 20_000  # a square would take minutes


GROW_TO = """async ([start, piece, times]) => {
  const { MarkdownView } = await import("/page/growing.js");
  const root = document.createElement("div");
  document.body.append(root);
  const view = new MarkdownView(root);
  let drawn = 0;
  new MutationObserver((records) => {
    for (const { addedNodes } of records) for (const node of addedNodes) drawn += node.textContent.length;
  }).observe(root, { childList: true, subtree: true });
  let text = start;
  const began = performance.now();
  for (let index = 0; index < times; index += 1) {
    view.update((text += piece), { grows: true });
    if (index % 50 === 0) await Promise.resolve();
  }
  view.update(text);
  await Promise.resolve();
  const ms = performance.now() - began;
  root.remove();
  return { drawn, length: text.length, ms };
}"""


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("", "word and *emphasis*, "),
        ("", "A paragraph of some words.\n\n"),
        ("", "- an item of a list\n"),
        ("```\n", "code = 1\n"),
    ],
    ids=["one line", "paragraphs", "one list", "code"],
)  # fmt: skip
def test_drawing_an_answer_of_a_hundred_kilobytes_is_no_square_of_its_length(
    site: Page, start: str, piece: str
) -> None:
    """Counted in characters drawn, which is the same on every machine."""
    grown = site.evaluate(GROW_TO, [start, piece, 100_000 // len(piece)])
    assert grown["drawn"] < 60 * grown["length"]


def test_code_is_coloured_and_copied_as_it_was_written(site: Page) -> None:
    site.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("/page/growing.js");
          document.getElementById("app").replaceChildren();
          new MarkdownView(document.getElementById("app")).update(text);
        }""",
        '```python\ndef greet(name):\n    return f"<b>{name}</b>"\n```',
    )
    expect(site.locator("code .hljs-keyword").first).to_have_text("def")
    expect(site.locator("code")).to_have_text('def greet(name):\n    return f"<b>{name}</b>"')
    site.context.grant_permissions(["clipboard-read", "clipboard-write"])
    site.get_by_role("button", name="Copy this code").click()
    expect(site.locator("#announcer")).to_have_text("Copied")
    assert site.evaluate("navigator.clipboard.readText()") == 'def greet(name):\n    return f"<b>{name}</b>"'
