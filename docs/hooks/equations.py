"""Equations as the docstrings write them, to MathML: `p_i := p_i - (<p_i, g_j> / |g_j|^2) g_j`.

The notation is that of docs/equations.md; what does not follow it raises `EquationError`. It is not
ASCIIMath or LaTeX, since docstrings are read in `help()` first: words stay words, `<p, g>` is an
inner product, a slash divides as it does in Python, and spaces align.

    block  one equation a line; lines align at their first relation, `(3)` at the end is a number
    line   what two or more spaces part stands apart
    sum    terms with + - and relations between them; commas and bars are kept as they are
    term   factors side by side; a / b is a fraction of all before it and the one factor behind it;
           a/b without spaces stays on the line
    factor a name, number or bracket with its scripts, primes and arguments
"""

import itertools
import re
from html import escape
from typing import NamedTuple, NoReturn

__all__ = ["EquationError", "inline", "to_mathml"]

_GREEK = {
    name: chr(0x3B1 + i)
    for i, name in enumerate(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
        "_ sigma tau upsilon phi chi psi omega".split()
    )
} | {"lambda_": "λ", "eps": "ε", "inf": "∞", "infinity": "∞", "grad": "∇"}
_GREEK |= {name.capitalize(): letter.upper() for name, letter in _GREEK.items() if letter > "α"}
_LARGE = {"sum": "∑", "prod": "∏", "integral": "∫", "Σ": "∑"}
_LIMITS = {"max", "min", "argmax", "argmin"}
_FUNCTIONS = _LIMITS | set("log exp cos sin tanh softmax mean sg relu act E".split())
_WORDS = set(
    "if for every with where subject to over and or of the under find else otherwise all".split()
)
_RELATIONS = {
    ":=": ":=",
    "+=": "+=",
    "-=": "-=",
    "<=": "≤",
    ">=": "≥",
    "!=": "≠",
    "->": "→",
    "<-": "←",
    "=": "=",
    "<": "<",
    ">": ">",
    "~": "∼",
    "in": "∈",
    "≤": "≤",
    "≥": "≥",
    "∈": "∈",
}
_SIGNS = {"+": "+", "-": "−", "+-": "±", "-+": "∓"}
_TIMES = {"*": "·", "·": "·", "⊙": "⊙", "×": "×", "@": "@"}
_PUNCTUATION = {",": ",", ";": ";", ":": ":", "||": "∥", "|": "|", "...": "…", "..": "…"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">", "|": "|", "‖": "‖"}
_SHOWN = {"<": "⟨", ">": "⟩"}
_INDICES = re.compile(r"[ijkmnt]{2}|tm\d|tp\d")
_TOKEN = re.compile(
    r"(?P<text>\"[^\"]*\")|(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>[A-Za-z]+\d*|[α-ωΑ-Ω∇∞])"
    r"|(?P<sign>:=|\+=|-=|<=|>=|!=|->|<-|\|\||\.\.\.|\.\.|\+-|-\+|[-+=<>~≤≥∈*·⊙×@/|‖,;:'()\[\]{}_^])"
)


class EquationError(ValueError):
    """An equation that does not follow the notation, with what was expected where."""


class _Token(NamedTuple):
    kind: str
    text: str
    before: bool  # whether a space precedes it
    after: bool  # whether a space, or the end, follows


def inline(equation: str) -> str:
    """An equation in a line of prose, as `<math>`; raises as `to_mathml`."""
    left, right, _ = _row(equation.strip())
    return f"<math><mrow>{left}{right}</mrow></math>"


def to_mathml(block: str) -> str:
    """A block of equations, one a line, as one `<math display="block">`.

    Raises:
      EquationError: for what the notation does not know; names the line.
    """
    rows: list[tuple[str, str, str]] = []
    for line in block.strip("\n").split("\n"):
        if line.strip():
            rows.append(_row(line.strip()))
    if not rows:
        raise EquationError("an equation must have a line")
    if len(rows) == 1 and not rows[0][2]:
        body = f"<mrow>{rows[0][0]}{rows[0][1]}</mrow>"
    else:
        numbered = any(number for *_, number in rows)
        body = "".join(
            f'<mtr><mtd class="left">{left}</mtd><mtd class="right">{right}</mtd>'
            + (f'<mtd class="number">{number}</mtd>' if numbered else "")
            + "</mtr>"
            for left, right, number in rows
        )
        body = f'<mtable displaystyle="true">{body}</mtable>'
    return f'<math display="block">{body}</math>'


def _row(line: str) -> tuple[str, str, str]:
    """Left of the first relation, the rest, and the number."""
    number = ""
    found = re.search(r"(?:^|\s\s)\s*(\(\d+\w?\))$", line)
    if found:
        number = f"<mtext>{found[1]}</mtext>"
        line = line[: found.start()].rstrip()
    relation = "|".join(re.escape(sign) for sign in sorted(_RELATIONS, key=len, reverse=True))
    line = re.sub(rf" +(?=(?:{relation}) )", " ", line)  # spaces before a relation align it
    parts = [_Parser(part, line) for part in re.split(r" {2,}", line)]
    left, right = parts[0].equation()
    if line.split(" ")[0] in _WORDS:  # "if phi < t:" is no left-hand side
        left, right = "", left + right
    for part in parts[1:]:
        right += '<mspace width="2em"/>' + "".join(part.equation())
    return left, right, number


def _tokens(text: str, line: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, space = 0, True
    while at < len(text):
        if text[at] == " ":
            at, space = at + 1, True
            continue
        found = _TOKEN.match(text, at)
        if found is None:
            raise EquationError(f"{text[at]!r} has no meaning in the equation {line!r}")
        at = found.end()
        after = at == len(text) or text[at] == " "
        tokens.append(_Token(str(found.lastgroup), found[0], space, after))
        space = False
    return tokens


class _Parser:
    """Recursive descent over the tokens of one part of a line; each method returns MathML."""

    def __init__(self, text: str, line: str):
        self.line = line
        self.tokens = _tokens(text, line)
        self.at = 0
        self.open: list[str] = []  # what closes the brackets around us

    def fail(self, what: str) -> NoReturn:
        raise EquationError(f"{what} in the equation {self.line!r}")

    def peek(self) -> _Token:
        if self.at < len(self.tokens):
            return self.tokens[self.at]
        return _Token("end", "", True, True)

    def next(self) -> _Token:
        token = self.peek()
        self.at += 1
        return token

    def equation(self) -> tuple[str, str]:
        """(before the first relation outside of brackets, the relation and the rest)."""
        left = self.sum(until_relation=True)
        right = self.sum()
        if self.peek().kind != "end":
            self.fail(f"{self.peek().text!r} closes nothing")
        return (left, right) if right else ("", left)

    def closes(self) -> bool:
        token = self.peek()
        if token.kind == "end":
            return True
        if token.text in (")", "]", "}"):
            return True
        if token.text == ">":
            return bool(self.open) and self.open[-1] == ">" and not token.before
        if token.text in ("|", "‖") and self.open and self.open[-1] == token.text:
            return not (token.before and not token.after)
        return False

    def sum(self, until_relation: bool = False) -> str:
        """Terms and what stands between them, up to a closing bracket or the end."""
        out: list[str] = []
        wants = False  # whether an operator waits for what it applies to
        while not self.closes():
            token = self.peek()
            if token.text in _RELATIONS and not self._opens(token):
                if until_relation:
                    break
                self.next()
                out.append(f"<mo>{escape(_RELATIONS[token.text])}</mo>")
                wants = True
            elif token.text in _SIGNS:
                self.next()
                prefix = ' form="prefix"' if wants or not out else ""
                out.append(f"<mo{prefix}>{_SIGNS[token.text]}</mo>")
                wants = True
            elif token.text in _PUNCTUATION and not self._opens(token):
                self.next()
                spaced = ' lspace="0.2em" rspace="0.2em"' if token.before else ""
                out.append(f'<mo stretchy="false"{spaced}>{_PUNCTUATION[token.text]}</mo>')
                wants = False
            else:
                out.append(self.term())
                wants = False
        if wants:
            self.fail("an operator has nothing behind it")
        return "".join(out)

    def _opens(self, token: _Token) -> bool:
        """Whether < or | begins a bracket here: nothing but a space or an opening before it."""
        if token.text not in ("<", "|", "‖") or token.after:
            return token.text in ("|", "‖") and self._first(token)
        before = self.tokens[self.at - 1].text if self.at else "("
        return token.before or before in _CLOSING or before in ("/", "-", ",")

    def _first(self, token: _Token) -> bool:
        """A bar with spaces on both sides opens where something must follow."""
        before = self.tokens[self.at - 1].text if self.at else "("
        signs = _RELATIONS.keys() | _SIGNS.keys() | _LARGE.keys() | {"(", "[", "{"}
        letter = before in _LIMITS or (self.at > 1 and self.tokens[self.at - 2].text == "_")
        return token.before and (before in signs or (letter and token.text not in self.open))

    def term(self) -> str:
        """Factors side by side, and fractions of them."""
        factors = [self.factor()]
        while not self.closes():
            token = self.peek()
            if token.text == "/" and not token.before:
                factors.append(self.slash())
            elif token.text == "/":
                self.next()
                above, below = _bare(_side_by_side(factors)), _bare(self.factor())
                factors = [f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"]
            elif token.text in _TIMES:
                self.next()
                factors.append(f"<mo>{_TIMES[token.text]}</mo>")
                factors.append(self.factor())
            elif self._begins_factor(token):
                factors.append(self.factor())
            else:
                break
        return _side_by_side(factors)

    def _begins_factor(self, token: _Token) -> bool:
        if token.kind in ("name", "number", "text"):
            return token.text not in _RELATIONS
        return token.text in ("(", "[", "{") or self._opens(token)

    def factor(self) -> str:
        """A name, number or bracket with its scripts, primes and arguments."""
        token = self.next()
        if token.text in _LARGE:
            head = self.scripts(f'<mo largeop="true">{_LARGE[token.text]}</mo>', limits=True)
            follows = not self.closes() and self._begins_factor(self.peek())
            return f"<mrow>{head}{self.term() if follows else ''}</mrow>"
        if token.text == "sqrt" and self.peek().text == "(":
            return self.scripts(f"<msqrt>{_bare(self.bracket(self.next()))}</msqrt>")
        if token.kind == "text":
            return f"<mtext>{escape(token.text[1:-1])}</mtext>"
        if token.kind == "number":
            head = self.scripts(f"<mn>{token.text}</mn>")
            touches = self.peek().kind == "name" and not self.peek().before
            return f"<mrow>{head}{self.factor()}</mrow>" if touches else head  # 2n is one factor
        if token.kind == "name":
            return self.name(token)
        if token.text in _CLOSING:
            return self.scripts(self.bracket(token, shown=True))
        if token.text in ("...", ".."):
            return f"<mo>{_PUNCTUATION[token.text]}</mo>"
        self.at -= 1
        self.fail(f"{token.text or 'the end'!r} stands where a name or bracket must")

    def slash(self) -> str:
        self.next()
        return f'<mo stretchy="false" lspace="0" rspace="0">/</mo>{self.factor()}'

    def name(self, token: _Token) -> str:
        text = token.text
        while self._goes_on(text):
            self.next()
            text += "_" + self.next().text
        if text in _WORDS:
            return f"<mtext>{text}</mtext>"
        head = self.scripts(_symbol(text), limits=text in _LIMITS)
        applied = text in _FUNCTIONS and not head.endswith("</mo></mrow>")
        if applied and self._begins_factor(self.peek()) and not self._applied():
            return f'<mrow>{head}<mspace width="0.17em"/>{self.factor()}</mrow>'
        return head

    def _applied(self) -> bool:
        return self.tokens[self.at - 1].text in (")", "]")

    def _goes_on(self, text: str) -> bool:
        """`shared_scale` is one name, `KL_i`, `mean_j`, `sigma_max` and `c_kl` are not."""
        if self.peek().text != "_" or len(text) == 1 or self.at + 1 >= len(self.tokens):
            return False
        if text in _GREEK or text in _LIMITS or text in _LARGE or not text.islower():
            return False
        script = self.tokens[self.at + 1].text
        return len(script) > 1 and script.isalpha() and not _INDICES.fullmatch(script)

    def scripts(self, head: str, limits: bool = False) -> str:
        """Subscripts, superscripts, primes, and arguments that touch: f_i^2(x), |g|^2, v[t]."""
        below, above = [], []
        while self.peek().text in ("_", "^", "'") and not self.peek().before:
            sign = self.next().text
            if sign == "'":
                above.append("<mo>′</mo>")
            else:
                (below if sign == "_" else above).append(self.script(sign))
        if below or above:
            sub = f"<mrow>{'<mo>,</mo>'.join(below)}</mrow>"
            sup = f"<mrow>{''.join(above)}</mrow>"
            under = "munder" if limits else "msub"
            if below and above:
                head = f"<{under}{'over' if limits else 'sup'}>{head}{sub}{sup}</{under}" + (
                    "over>" if limits else "sup>"
                )
            else:
                tag = under if below else "mover" if limits else "msup"
                head = f"<{tag}>{head}{sub if below else sup}</{tag}>"
        token = self.peek()
        if token.text in ("(", "[") and not token.before:
            return self.scripts(f"<mrow>{head}{self.bracket(self.next())}</mrow>")
        return head

    def script(self, sign: str) -> str:
        token = self.next()
        if token.text in ("{", "("):
            return _bare(self.bracket(token))
        if token.text in ("+", "-", "*"):
            return f"<mo>{_SIGNS.get(token.text, token.text)}</mo>"
        if token.kind == "number":
            return f"<mn>{token.text}</mn>"
        if token.kind == "name":
            text = token.text
            while self._goes_on(text):
                self.next()
                text += "_" + self.next().text
            return _script_name(text)
        self.at -= 1
        self.fail(f"nothing stands behind {sign!r}")

    def bracket(self, token: _Token, shown: bool = False) -> str:
        """What a bracket holds, with it; braces are shown where they are a set's."""
        closing = _CLOSING[token.text]
        self.open.append(closing)
        inside = self.sum()
        if self.next().text != closing:
            self.fail(f"{token.text!r} is not closed")
        self.open.pop()
        if not inside:
            self.fail(f"nothing stands between {token.text!r} and {closing!r}")
        if token.text == "{" and not shown:
            return f'<mrow class="bare">{inside}</mrow>'
        opening, closing = _SHOWN.get(token.text, token.text), _SHOWN.get(closing, closing)
        kind = ' class="paren"' if token.text == "(" else ""
        return (
            f'<mrow{kind}><mo form="prefix">{opening}</mo>{inside}'
            f'<mo form="postfix">{closing}</mo></mrow>'
        )


def _symbol(text: str) -> str:
    if text in _GREEK:
        return f"<mi>{_GREEK[text]}</mi>"
    found = re.fullmatch(r"([A-Za-z])(\d+)", text)
    if found:
        return f"<msub><mi>{found[1]}</mi><mn>{found[2]}</mn></msub>"
    if re.fullmatch(r"[a-z][A-Z]\d*|[A-Z][a-z]\d*", text):  # Gw, dU1: a product
        return f"<mi>{text[0]}</mi>{_symbol(text[1:])}"
    return f"<mi>{text}</mi>"


def _script_name(text: str) -> str:
    """`ij` are two indices, `tm1` is t - 1, `kl` and `reg` are words."""
    moved = re.fullmatch(r"([a-z])([mp])(\d)", text)
    if moved:
        sign = "−" if moved[2] == "m" else "+"
        return f"<mi>{moved[1]}</mi><mo>{sign}</mo><mn>{moved[3]}</mn>"
    if _INDICES.fullmatch(text):
        return "".join(f"<mi>{letter}</mi>" for letter in text)
    return f"<mi>{text}</mi>" if text == "grad" else _symbol(text)


def _bare(node: str) -> str:
    """Without the parentheses or braces around all of it: a fraction or script needs none."""
    found = re.fullmatch(
        r'<mrow class="paren"><mo form="prefix">\(</mo>(.*)<mo form="postfix">\)</mo></mrow>', node
    )
    if found and _is_one(node):
        return found[1]
    found = re.fullmatch(r'<mrow class="bare">(.*)</mrow>', node)
    return found[1] if found and _is_one(node) else node


def _is_one(node: str) -> bool:
    """Whether the element that begins the text also ends it."""
    depth = 0
    for found in re.finditer(r"<(/?)mrow[^>]*>", node):
        depth += -1 if found[1] else 1
        if depth == 0:
            return found.end() == len(node)
    return False


def _side_by_side(factors: list[str]) -> str:
    """A product; names of several letters keep a distance to what stands beside them."""
    out = factors[0]
    for left, right in itertools.pairwise(factors):
        wordy = re.search(r"(<mi>\w{2,}</mi>|</mtext>)(</m\w+>)*$", left) or re.match(
            r"(<m[a-z]+>)*(<mi>\w{2,}<|<mtext>)", right
        )
        out += ('<mspace width="0.25em"/>' if wordy else "") + right
    return out
