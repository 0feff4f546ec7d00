import yaml
from hypothesis import given
from hypothesis import strategies as st

from sluice.adapters.kubernetes.api import _yaml


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_applied(text: str) -> None:
    """A guest may write what it likes: the parser of applied patches reads it as it was written."""
    assert yaml.safe_load(_yaml({"result": text})) == {"result": text}


def test_half_a_pair_is_shown_as_the_sign_for_it() -> None:
    """What is no text, and no parser would take, does not keep the rest from being written."""
    assert yaml.safe_load(_yaml({"result": "a\ud83cb"})) == {"result": "a\ufffdb"}
