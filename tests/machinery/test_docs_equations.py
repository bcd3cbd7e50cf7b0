"""Docstrings are what the site makes of them: their equations mean MathML, their names exist."""

import ast
import importlib
import inspect
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from pages import DOCS, ROOT, texts

sys.path.insert(0, str(DOCS / "hooks"))
equations = importlib.import_module("equations")
docstrings = importlib.import_module("docstrings")


def mathml(text: str) -> str:
    """Without what surrounds every equation of one line."""
    found = equations.to_mathml(text)
    before, after = '<math display="block"><mrow>', "</mrow></math>"
    assert found.startswith(before) and found.endswith(after)
    return found[len(before) : -len(after)]


def plain(text: str) -> str:
    """What a reader sees: the text of the MathML."""
    return "".join(ET.fromstring(equations.to_mathml(text)).itertext())


WRITTEN_AND_MEANT = {
    "x": "<mi>x</mi>",
    "pi_0": "<msub><mi>π</mi><mrow><mn>0</mn></mrow></msub>",
    "Phi": "<mi>Φ</mi>",
    "v_tm1": "<msub><mi>v</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>",
    "x_ij": "<msub><mi>x</mi><mrow><mi>i</mi><mi>j</mi></mrow></msub>",
    "c_kl": "<msub><mi>c</mi><mrow><mi>kl</mi></mrow></msub>",
    "x^2_i": "<msubsup><mi>x</mi><mrow><mi>i</mi></mrow><mrow><mn>2</mn></mrow></msubsup>",
    "shared_scale": "<mi>shared_scale</mi>",
    "-a": '<mo form="prefix">−</mo><mi>a</mi>',
    "a + b": "<mi>a</mi><mo>+</mo><mi>b</mi>",
    "a -> b": "<mi>a</mi><mo>→</mo><mi>b</mi>",
    "sqrt(x)": "<msqrt><mi>x</mi></msqrt>",
    '"as is" x': '<mtext>as is</mtext><mspace width="0.25em"/><mi>x</mi>',
    # A slash divides all before it by the one factor behind it, as Python does.
    "a b / c d": (
        "<mfrac><mrow><mi>a</mi><mi>b</mi></mrow><mrow><mi>c</mi></mrow></mfrac><mi>d</mi>"
    ),
    "a + b / c": (
        "<mi>a</mi><mo>+</mo><mfrac><mrow><mi>b</mi></mrow><mrow><mi>c</mi></mrow></mfrac>"
    ),
    "(a + b) / 2n": (
        "<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow>"
        "<mrow><mrow><mn>2</mn><mi>n</mi></mrow></mrow></mfrac>"
    ),
    "sum_i a / b": (
        '<mrow><munder><mo largeop="true">∑</mo><mrow><mi>i</mi></mrow></munder>'
        "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac></mrow>"
    ),
    "a/b": '<mi>a</mi><mo stretchy="false" lspace="0" rspace="0">/</mo><mi>b</mi>',
}


@pytest.mark.parametrize("written", WRITTEN_AND_MEANT)
def test_what_is_written_is_what_is_meant(written):
    assert mathml(written) == WRITTEN_AND_MEANT[written]


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("if <p_i, g_j> < 0", "if⟨pi,gj⟩<0"),
        ("a - <g, d> <= c |g_0|^2", "a−⟨g,d⟩≤c|g0|2"),
        ("sum_i | w_i |g_i| - mean_j(w_j |g_j|) r_i |", "∑i|wi|gi|−meanj(wj|gj|)ri|"),
        ("KL(p || q) = pi(a|s)", "KL(p∥q)=π(a|s)"),
        ("{d : <g_i, d> >= 0 for all i}", "{d:⟨gi,d⟩≥0foralli}"),
        ("exp(log_ratio) L_grad", "exp(log_ratio)Lgrad"),
        ("w^(-1/alpha) in R^{P × M}", "w−1/α∈RP×M"),
        ("U1[:, j] = ‖e‖ v' G", "U1[:,j]=‖e‖v′G"),
        ("max_d min_i x := F * ... * F_{p, 1}", "maxdminix:=F·…·Fp,1"),
    ],
)
def test_brackets_bars_and_signs(written, seen):
    assert plain(written) == seen


def test_lines_align_at_their_first_relation_and_end_in_their_number():
    table = ET.fromstring(equations.to_mathml("J   = a + b       (1)\n    = c,    d = e"))[0]
    rows = [["".join(cell.itertext()) for cell in row] for row in table]
    assert rows == [["J", "=a+b", "(1)"], ["", "=c,d=e", ""]]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("a = (b", "'(' is not closed"),
        ("a = b)", "closes nothing"),
        ("a +", "nothing behind"),
        ("a_", "nothing stands behind '_'"),
        ("a /", "the end"),
        ("f() = 1", "nothing stands between"),
        ("a = b # c", "'#' has no meaning"),
        ("", "a line"),
    ],
)
def test_what_cannot_be_shown_is_named(wrong, why):
    with pytest.raises(equations.EquationError) as caught:
        equations.to_mathml(wrong)
    assert why in str(caught.value) and wrong in str(caught.value)


def test_docstring_blocks_are_equations_unless_announced():
    found = docstrings.to_markdown(
        inspect.cleandoc(
            """One line with <p, g>, [K, *param], *emphasis*, `a * b` and `a = b`.

            An equation:

                a = b

            A table::

                name   what

            Args:
              x: one.

                still x.
            """
        )
    )
    assert found.split("\n")[:12] == [
        "One line with &lt;p, g>, [K, \\*param], *emphasis*, `a * b` and `#!maths a = b`.",
        "",
        "An equation:",
        "",
        "```maths",
        "a = b",
        "```",
        "",
        "A table:",
        "",
        "```text",
        "name   what",
    ]
    assert found.endswith("Args:\n  x: one.\n\n    still x.")


def documented():
    """(place, docstring, names of the arguments) of everything in the package."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted((ROOT / "mtrl_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text is not None:
                place = f"{path.relative_to(ROOT)} {getattr(node, 'name', '')}"
                args = getattr(node, "args", None)
                names = [a.arg for a in ast.walk(args) if isinstance(a, ast.arg)] if args else None
                yield place, text, names


def test_every_equation_of_the_package_and_its_pages_can_be_shown():
    found, wrong = 0, []
    places = [(place, docstrings.to_markdown(text)) for place, text, _ in documented()]
    for place, text in places + list(texts().items()):
        blocks = re.findall(r"^```maths\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        for block in blocks + re.findall(r"`#!maths ([^`]*)`", text):
            found += 1
            try:
                ET.fromstring(equations.to_mathml(block))
            except equations.EquationError as error:
                wrong.append(f"{place}: {error}")
    assert wrong == []
    assert found > 50


def test_docstrings_name_arguments_that_exist():
    listed = [
        (f"{place}: {name}", name.lstrip("*") in names)
        for place, text, names in documented()
        if names is not None
        for name in docstrings.arguments(text)
    ]
    assert len(listed) > 300
    assert [name for name, exists in listed if not exists] == []


def test_the_build_sees_what_is_missing_and_what_would_be_fetched():
    pytest.importorskip("mkdocs")
    hooks = importlib.import_module("mkdocs_hooks")
    everything = hooks.missing(set())
    assert {"mtrl_jax.returns.gae", "mtrl_jax.surgery.pcgrad.pcgrad"} <= set(everything)
    assert hooks.missing(set(everything)) == []
    # A name counts wherever it is shown: here by the package that exports it.
    exported = {name.replace(".distral.loss.", ".distral.") for name in everything}
    assert hooks.missing(exported) == []

    own = '<script src="a.js"></script><link rel="stylesheet" href="b.css"><a href="https://c.d">'
    assert hooks.fetched(own + '<link rel="canonical" href="https://c.d">') == []
    assert hooks.fetched(own + '<script async src="https://c.d/e.js">') == ["//c.d/e.js"]
    assert hooks.fetched('<link href="//c.d/e.css" rel="stylesheet">') == ["//c.d/e.css"]
    assert hooks.fetched("<img src='http://c.d/e.png'>") == ["//c.d/e.png"]
